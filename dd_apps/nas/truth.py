"""The truth as a user's table: architectures, and their accuracies after full training.

A table is a CSV file in UTF-8 with the column `architecture` and one column of accuracies in percent for each data set:

    architecture,cifar10,cifar100
    |nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|,91.52,68.03
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dd_apps.nas import cells
from dd_apps.nas.columns import read as read_columns
from dd_apps.report.words import several
from dd_core import streams
from dd_core.errors import Option, UserError, unknown_name


@dataclass(frozen=True)
class TruthTable:
    """The accuracies of architectures in percent: by column, then by architecture."""

    columns: Mapping[str, Mapping[str, float]]

    @property
    def architectures(self) -> Collection[str]:
        """The architectures, in the order of the file."""
        return next(iter(self.columns.values())).keys()

    def accuracies(self, column: str, architectures: Iterable[str] | None = None) -> dict[str, float]:
        """The accuracy of each of `architectures` (None: of all), in percent.

        Raises `UserError` for a column or an architecture that the table does not have.
        """
        if column not in self.columns:
            raise unknown_name("column of accuracies", column, self.columns)
        accuracies = self.columns[column]
        chosen = [*(accuracies if architectures is None else architectures)]
        missing = [architecture for architecture in chosen if architecture not in accuracies]
        if missing:
            raise UserError(f"{several(len(missing), 'architecture')} of {len(chosen)} not in the table: {missing[0]}")
        return {architecture: accuracies[architecture] for architecture in chosen}

    def draw(self, count: int, *, seed: int) -> tuple[str, ...]:
        """`count` different architectures, drawn at random without replacement; see `draw`."""
        return draw(self.architectures, count, seed=seed)


def draw(architectures: Collection[str], count: int, *, seed: int) -> tuple[str, ...]:
    """`count` of the architectures at random: those with the smallest numbers that `seed` gives to their names.

    The draw is the same on every machine and in every order of the architectures, and a smaller draw of a seed is the
    beginning of a larger draw. Raises `UserError` where `count` is below 1 or above the number of architectures.
    """
    different = {*architectures}
    if not 1 <= count <= len(different):
        raise UserError(f"{Option('count', count)}: between 1 and {len(different)} architectures can be drawn")
    return tuple(sorted(different, key=lambda name: (streams.counter(seed, f"architecture {name}", 0), name))[:count])


def read(
    path: Path, columns: Iterable[str] | None = None, *, check: Callable[[str], object] = cells.operations
) -> TruthTable:
    """The table in a file: the named columns of accuracies (None: all).

    `check` raises `UserError` for text that is no architecture; by default architectures are cells of NAS-Bench-201. An
    architecture may be repeated with the same accuracies. Raises `UserError` with the name of the file, and the number
    of the wrong line if there is one.
    """
    table = read_columns(path, columns, of="accuracies", check=check, number=_percent)
    for name, accuracies in table.items():
        if max(accuracies.values()) <= 1:
            raise UserError(
                f"{path}: no accuracy of column '{name}' is above 1; accuracies are in percent, not fractions"
            )
    return TruthTable(table)


def read_column(
    path: Path, column: str | None, *, option: str, check: Callable[[str], object] = cells.operations
) -> dict[str, float]:
    """The accuracies of one column of a file; a file with several columns needs the name `column`.

    option: the option, named in an error, by which the user gives `column`. Raises `UserError` as `read` does.
    """
    table = read(path, None if column is None else [column], check=check)
    (name, accuracies), *others = table.columns.items()
    if others:
        every = ", ".join(table.columns)
        raise UserError(f"{path}: which column is the truth? There are {every}; as in {Option(option, name)}")
    return dict(accuracies)


def _percent(text: str, where: str) -> float:
    try:
        number = math.nan if "_" in text else float(text)  # to Python 9_1 is 91
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise UserError(f"{where}: {text[:60]!r} is no accuracy in percent; expected a number from 0 to 100")
    return number
