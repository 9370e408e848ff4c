"""The truth that a user gives: a table of architectures and the accuracies that full training gave them.

A table is a CSV file in UTF-8 with the column `architecture` and one column of accuracies in percent for each data set:

    architecture,cifar10,cifar100
    |nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|,91.52,68.03
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dd_apps.nas import cells
from dd_core import streams
from dd_core.errors import Option, UserError, unknown_name
from dd_core.store import disk_errors

ARCHITECTURE = "architecture"
LARGEST = 2**26  # bytes of a table: forty times that of NAS-Bench-201


@dataclass(frozen=True)
class TruthTable:
    """The accuracies of architectures in percent: by column, then by architecture."""

    columns: Mapping[str, Mapping[str, float]]

    @property
    def architectures(self) -> Collection[str]:
        """The architectures, in the order of the file."""
        return next(iter(self.columns.values())).keys()

    def accuracies(self, column: str, architectures: Iterable[str] | None = None) -> dict[str, float]:
        """The accuracy of each architecture, or of those that are named, in percent.

        Raises `UserError` for a column or an architecture that the table does not have.
        """
        if column not in self.columns:
            raise unknown_name("column of accuracies", column, self.columns)
        accuracies = self.columns[column]
        chosen = [*(accuracies if architectures is None else architectures)]
        missing = [architecture for architecture in chosen if architecture not in accuracies]
        if missing:
            raise UserError(f"{_several(len(missing), 'architecture')} of {len(chosen)} not in the table: {missing[0]}")
        return {architecture: accuracies[architecture] for architecture in chosen}

    def draw(self, count: int, *, seed: int) -> tuple[str, ...]:
        """`count` different architectures, drawn at random without replacement; see `draw`."""
        return draw(self.architectures, count, seed=seed)


def draw(architectures: Collection[str], count: int, *, seed: int) -> tuple[str, ...]:
    """`count` of the architectures at random: those with the smallest numbers that `seed` gives to their names.

    The draw is the same on every machine and in every order of the architectures, and a smaller draw of a seed is the
    beginning of a larger one. Raises `UserError` where there are fewer architectures than `count`, and for none.
    """
    different = {*architectures}
    if not 1 <= count <= len(different):
        raise UserError(f"{Option('count', count)}: between 1 and {len(different)} architectures can be drawn")
    return tuple(sorted(different, key=lambda name: (streams.counter(seed, f"architecture {name}", 0), name))[:count])


def read(
    path: Path, columns: Iterable[str] | None = None, *, check: Callable[[str], object] = cells.operations
) -> TruthTable:
    """The table in a file: all columns of accuracies, or those that are named.

    `check` is called with each architecture and raises `UserError` for what is none; by default the architectures are
    cells of NAS-Bench-201. An architecture may be repeated with the same accuracies. Raises `UserError` with one line
    that names the file, and the line of the file where one is wrong.
    """
    rows = _rows(path, _text(path))
    names = [name.strip() for name in next(rows, (1, []))[1]]
    chosen = _chosen(path, names, columns)
    table: dict[str, tuple[float, ...]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(names):
            raise UserError(f"{where}: {_several(len(row), 'value')} where the header has {len(names)}")
        values = dict(zip(names, row, strict=True))
        architecture = _architecture(values[ARCHITECTURE].strip(), check, where)
        accuracies = tuple(_percent(values[name], f"{where}, {name}") for name in chosen)
        if table.setdefault(architecture, accuracies) != accuracies:
            raise UserError(f"{where}: {architecture} has other accuracies in a line before")
    if not table:
        raise UserError(f"{path}: no architectures below the header")
    return TruthTable({name: _column(path, name, table, position) for position, name in enumerate(chosen)})


def _text(path: Path) -> str:
    with disk_errors(path), open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(f"{path}: larger than the {LARGEST // 2**20} MiB of the largest table that is read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no CSV file in UTF-8: {error.reason} at byte {error.start}") from None


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line of the file, values) of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None


def _chosen(path: Path, names: list[str], columns: Iterable[str] | None) -> list[str]:
    """The columns of accuracies that are asked for, of those that the header names."""
    if not names:
        raise UserError(f"{path}: the file is empty")
    header = ", ".join(names)[:200]
    if ARCHITECTURE not in names:
        raise UserError(f"{path}: the column '{ARCHITECTURE}' is missing from the header {header}")
    if len({*names}) != len(names):
        raise UserError(f"{path}: the header {header} names a column twice")
    others = [name for name in names if name != ARCHITECTURE]
    chosen = others if columns is None else [*dict.fromkeys(columns)]
    for name in chosen:
        if name not in others:
            raise UserError(f"{path}: {unknown_name('column of accuracies', name, others).text}")
    if not chosen:
        raise UserError(f"{path}: no column of accuracies beside '{ARCHITECTURE}'")
    return chosen


def _architecture(text: str, check: Callable[[str], object], where: str) -> str:
    try:
        check(text)
    except UserError as error:
        raise UserError(f"{where}: {error.text}") from None
    return text


def _percent(text: str, where: str) -> float:
    try:
        number = math.nan if "_" in text else float(text)  # to Python 9_1 is 91
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise UserError(f"{where}: {text[:60]!r} is no accuracy in percent")
    return number


def _column(path: Path, name: str, table: Mapping[str, tuple[float, ...]], position: int) -> dict[str, float]:
    accuracies = {architecture: row[position] for architecture, row in table.items()}
    if max(accuracies.values()) <= 1:
        raise UserError(f"{path}: no accuracy of column '{name}' is above 1; accuracies are in percent, not fractions")
    return accuracies


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
