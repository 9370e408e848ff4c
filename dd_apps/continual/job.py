"""What goes to a job of the benchmark, and what comes back: values that travel between processes and are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.metrics import Matrix
from dd_apps.continual.rows import Table
from dd_core.distilled import DistilledSet


@dataclass(frozen=True)
class Job:
    """One row under one class order, in the tables that it stands in."""

    scenario: ContinualScenario
    row: str
    order: int
    folder: Path | None
    device: str


@dataclass(frozen=True)
class Ledger:
    """What one network of a row costs in one table.

    Seconds: distilling (of the memory's images, once for all networks and tables), storing (choosing and storing what
    the memory keeps), training (all else, measuring accuracies left out). images, pixels, logits: what the memory
    holds in the end: images, and bytes of their uint8 pixels and of the logits that are kept with them. state: bytes
    of weights that the strategy keeps beside the network that learns, such as an earlier network.
    """

    distilling: float = 0.0
    storing: float = 0.0
    training: float = 0.0
    images: int = 0
    pixels: int = 0
    logits: int = 0
    state: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.pixels + self.logits

    @property
    def seconds(self) -> float:
        """All seconds."""
        return self.distilling + self.storing + self.training


@dataclass(frozen=True)
class Trial:
    """One network in one table.

    matrix: the accuracy matrix, the network choosing among all classes of the data; known: the same where it chooses
    among the classes of a test image's own experience (task-incremental learning).
    """

    matrix: Matrix
    known: Matrix
    ledger: Ledger


@dataclass(frozen=True)
class Outcome:
    """What a job found.

    trials: of each table, network by network; counts: test images of each experience; memory: the set that was kept at
    the end, None for rows without one.
    """

    trials: dict[Table, tuple[Trial, ...]]
    counts: tuple[int, ...]
    memory: DistilledSet | None = field(default=None)
