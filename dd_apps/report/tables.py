"""A table of results, as rich text for a terminal, Markdown for a report, CSV, and plain objects for JSON."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dd_core.distilled.card import human_bytes

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Unit = Literal["percent", "bytes", "seconds", "times"]
MEASURED_BY_CLOCKS: tuple[Unit, ...] = ("seconds", "times")  # units of columns that differ between equal runs
_INTERVAL = ("value", "low", "high")  # the keys of an estimate
_AFTER = re.compile(r"^after_(\d+)$")
_HEADING: dict[Unit, str] = {"percent": " (%)", "bytes": "", "seconds": " (s)", "times": ""}


@dataclass(frozen=True)
class Table:
    """Rows under a title, in the order given; `notes` are the sentences that belong below.

    A cell is text, a number, a list of numbers, `{"mean": ..., "std": ...}` (std is None where one value was measured,
    and no deviation is shown), or `{"value": ..., "low": ..., "high": ...}`, an estimate with its interval, shown as
    `0.74 [0.62, 0.82]`. `units` gives the unit of a column's numbers: `percent` (stored as a fraction of 1), `bytes`,
    `seconds`, or `times` (seconds as a multiple of other seconds).
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    units: Mapping[str, Unit] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def columns(self) -> list[str]:
        """Every column of any row, in the order of first appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def headings(self) -> list[str]:
        """The columns as shown, with their units; `after_5` is shown as `after 5`."""
        units = {column: _HEADING[unit] for column, unit in self.units.items()}
        return [_AFTER.sub(r"after \1", column) + units.get(column, "") for column in self.columns()]

    def cells(self) -> list[list[str]]:
        """Every row as text."""
        return [[text(row.get(column), self.units.get(column)) for column in self.columns()] for row in self.rows]

    def plain(self) -> list[dict[str, Any]]:
        """The rows as JSON objects, numbers untouched."""
        return [dict(row) for row in self.rows]


def text(value: object, unit: Unit | None = None) -> str:
    """A cell as text; control characters are spelt out, so that no name can steer a terminal."""
    if value is None:
        return "-"
    if isinstance(value, Mapping) and "mean" in value:
        mean, std = text(value["mean"], unit), value.get("std")
        return mean if std is None else f"{mean} ± {text(std, unit)}"
    if isinstance(value, Mapping) and "low" in value:
        return _interval(value, unit)
    if isinstance(value, (list, tuple)):
        return " ".join(text(part, unit) for part in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, unit)
    return printable(str(value))


def _interval(estimate: Mapping[str, float], unit: Unit | None) -> str:
    """An estimate and its interval, with two decimals, or with more so that the interval's width has two digits."""
    value, low, high = (estimate[part] for part in _INTERVAL)
    if unit is None:
        decimals = max(2, 1 - math.floor(math.log10(high - low))) if high > low else 2
        numbers = [f"{round(number, decimals) + 0.0:.{decimals}f}" for number in (value, low, high)]  # no -0.00
    else:
        numbers = [_number(number, unit) for number in (value, low, high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def _number(value: float, unit: Unit | None) -> str:
    if unit == "percent":
        return f"{round(100 * value, 1) + 0.0:.1f}"  # no -0.0
    if unit == "bytes":
        return human_bytes(int(value))
    if unit in ("seconds", "times"):
        return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def printable(line: str) -> str:
    """`line` with every character that is not printable written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def markdown(table: Table) -> str:
    """The table as GitHub Markdown, with its title as a heading."""
    lines = [f"## {printable(table.title)}", ""]
    lines.append(_markdown_row(table.headings()))
    lines.append(_markdown_row(["---"] * len(table.columns())))
    lines += [_markdown_row(row) for row in table.cells()]
    for note in table.notes:
        lines += ["", printable(note)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def csv_text(table: Table) -> str:
    """The table as CSV, numbers unrounded: percents as percents, deviations and intervals in columns of their own."""
    columns = [(column, part) for column in table.columns() for part in _parts(table, column)]
    headings = dict(zip(table.columns(), table.headings(), strict=True))
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow([printable(f"{headings[column]} {part}".strip()) for column, part in columns])
    for row in table.rows:
        lines.writerow([_csv_cell(row.get(column), part, table.units.get(column)) for column, part in columns])
    return buffer.getvalue()


def _parts(table: Table, column: str) -> tuple[str, ...]:
    """The CSV columns of a column: "" for the number itself, and one for each deviation or end of an interval."""
    keys = {key for row in table.rows if isinstance(cell := row.get(column), Mapping) for key in cell}
    return ("", *(part for part in ("std", *_INTERVAL[1:]) if part in keys))


def _csv_cell(value: object, part: str, unit: Unit | None) -> object:
    if isinstance(value, Mapping):
        value = value.get(part or ("mean" if "mean" in value else "value"))
    elif part:
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(str(_csv_cell(each, "", unit)) for each in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 100 * value if unit == "percent" else value
    return "" if value is None else printable(str(value))


def rich_table(table: Table) -> RichTable:
    """The body of the table for a rich console; columns of numbers are aligned to the right.

    Title and notes are left to the caller: rich would fold them to the body's width.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD)
    for column, heading in zip(table.columns(), table.headings(), strict=True):
        values = [row.get(column) for row in table.rows]
        numbers = not any(isinstance(value, str) for value in values)
        longest = max(map(len, heading.split()), default=0)  # a heading's words stay whole in a narrow terminal
        align = "right" if numbers else "left"
        shown.add_column(Text(heading), justify=align, overflow="fold", min_width=longest)
    for row in table.cells():
        shown.add_row(*(Text(cell) for cell in row))
    return shown
