"""What goes to a job of the benchmark, and what comes back: values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dd_apps.continual.config import ContinualScenario, Table
from dd_core.distilled import DistilledSet


@dataclass(frozen=True)
class Job:
    """One row under one class order, in both tables."""

    scenario: ContinualScenario
    row: str
    order: int
    folder: Path | None
    device: str


@dataclass(frozen=True)
class Outcome:
    """What a job found.

    matrices: accuracy matrix of each table; counts: test images of each experience; seconds: of making the
    memory and of training; nbytes and memory: what was kept at the end.
    """

    matrices: dict[Table, list[list[float | None]]]
    counts: tuple[int, ...]
    seconds: dict[Table, float]
    nbytes: int
    memory: DistilledSet | None
