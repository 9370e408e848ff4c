"""CSV files with a row for each architecture: the column `architecture`, and columns of numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from dd_apps.report.words import several
from dd_core.errors import UserError, unknown_name
from dd_core.store import disk_errors

T = TypeVar("T")
ARCHITECTURE = "architecture"
LARGEST = 2**26  # bytes of the largest table: forty times the table of NAS-Bench-201


def read(
    path: Path,
    columns: Iterable[str] | None,
    *,
    of: str,
    check: Callable[[str], object],
    number: Callable[[str, str], T],
) -> dict[str, dict[str, T]]:
    """The `columns` of a UTF-8 file (None: all of them), by column, then by architecture.

    of: the contents of the columns, in words for errors. check: raises `UserError` for text that is no architecture.
    number: reads the text of a cell; its second argument says where the cell stands. An architecture may be repeated
    with the same cells. Raises `UserError` with the name of the file, and the number of the wrong line if there is one.
    """
    rows = _rows(path, _text(path))
    names = [name.strip() for name in next(rows, (1, []))[1]]
    chosen = _chosen(path, names, columns, of)
    table: dict[str, tuple[T, ...]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(names):
            raise UserError(f"{where}: {several(len(row), 'value')} where the header has {len(names)}")
        values = dict(zip(names, row, strict=True))
        architecture = _architecture(values[ARCHITECTURE].strip(), check, where)
        cells = tuple(number(values[name], f"{where}, {name}") for name in chosen)
        if table.setdefault(architecture, cells) != cells:
            raise UserError(f"{where}: {architecture} has other {of} in an earlier line; give each architecture once")
    if not table:
        raise UserError(f"{path}: no architectures below the header")
    return {name: {each: row[place] for each, row in table.items()} for place, name in enumerate(chosen)}


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


def _chosen(path: Path, names: list[str], columns: Iterable[str] | None, of: str) -> list[str]:
    """The wanted `columns` (None: all but the architecture), which the header `names` must contain."""
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
            raise UserError(f"{path}: {unknown_name(f'column of {of}', name, others).text}")
    if not chosen:
        raise UserError(f"{path}: no column of {of} beside '{ARCHITECTURE}'")
    return chosen


def _architecture(text: str, check: Callable[[str], object], where: str) -> str:
    try:
        check(text)
    except UserError as error:
        raise UserError(f"{where}: {error.text}") from None
    return text
