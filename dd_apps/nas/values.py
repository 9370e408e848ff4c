"""The values of proxies that a user gives: a CSV file with a column for each proxy; imports neither torch nor nni.

    architecture,synflow,mine
    convnet-3-w128-instancenorm-relu-avgpool,81.5,0.62
    convnet-3-w128-instancenorm-relu-maxpool,79.2,

More is better. An empty cell is a failed trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from dd_apps.nas import truth
from dd_apps.nas.columns import read as read_columns
from dd_apps.nas.ranking import Values
from dd_apps.report.words import several
from dd_core.errors import UserError


def read(path: Path) -> dict[str, dict[str, float | None]]:
    """The value of each architecture, by proxy; None for an empty cell.

    Architectures may have any names. Raises `UserError` as `columns.read` does, and for a cell that is neither empty
    nor a finite number.
    """
    return read_columns(path, None, of="values", check=require_name, number=_value)


def truth_for(values: Mapping[str, Values], path: Path, column: str | None) -> dict[str, float]:
    """The accuracy in percent of each architecture of `values`, from a table that may have further architectures.

    column: name of the table's column, needed if it has several. Raises `UserError` for a table that lacks one of the
    architectures.
    """
    accuracies = truth.read_column(path, column, option="column", check=require_name)
    architectures = next(iter(values.values()))
    missing = [name for name in architectures if name not in accuracies]
    if missing:
        count = f"{several(len(missing), 'architecture')} of {len(architectures)}"
        raise UserError(f"{path}: {count} not in the table: {missing[0]}")
    return {name: accuracies[name] for name in architectures}


def require_name(architecture: str) -> None:
    """Raise `UserError` for an architecture without a name."""
    if not architecture:
        raise UserError("an architecture has no name; fill the column architecture")


def _value(text: str, where: str) -> float | None:
    if not text.strip():
        return None
    try:
        number = math.nan if "_" in text else float(text)  # to Python 9_1 is 91
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {text[:60]!r} is no finite number; leave the cell of a failed trial empty")
    return number
