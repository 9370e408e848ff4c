"""What goes to a job of the benchmark, and what comes back: values that travel between processes and are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.metrics import Matrix
from dd_apps.continual.rows import Table
from dd_core.config import digest
from dd_core.distilled import DistilledSet


@dataclass(frozen=True)
class Job:
    """One row under one class order, in the tables that it stands in."""

    scenario: ContinualScenario
    row: str
    order: int
    folder: Path | None
    device: str

    @property
    def own_folder(self) -> Path | None:
        """Where the outcome of the job is kept."""
        return None if self.folder is None else self.folder / f"order-{self.order}" / self.row

    @property
    def sets_folder(self) -> Path | None:
        """Where the distilled sets lie; rows of one method and size share them. None without a folder or a method."""
        row, method = self.scenario.row_of(self.row), self.scenario.memory_method(self.row)
        if self.folder is None or method is None:
            return None
        sizes: list[Any] = [row.images_per_class, self.scenario.images_per_class, self.scenario.bytes_per_class]
        if row.memory == "hybrid":
            sizes.append(row.real_share)  # fewer images are distilled
        strategy = row.named_strategy
        if row.budget == "bytes" and (row.labels != "hard" or (strategy is not None and strategy.keeps_logits)):
            sizes += ["with labels", row.bank_epochs] if row.labels == "bank" else ["with labels"]  # likewise
        if row.adaptive:
            sizes.append(["adaptive", row.shrinking])
        together = getattr(row.named_strategy, "images", None)  # of the table 'taught': per-step or joint
        name = f"{method['name']}-{digest([method, sizes, together])[:8]}"
        return self.folder / f"order-{self.order}" / "sets" / name


@dataclass(frozen=True)
class Ledger:
    """What one network of a row costs in one table.

    Seconds: distilling (of the memory's images, once for all networks and tables), storing (choosing and storing what
    the memory keeps), training (all else, measuring accuracies left out). images, pixels, labels: what the memory
    holds in the end: images, bytes of their uint8 pixels, and bytes of the logits, soft labels and learned rates that
    are kept with them. state: bytes
    of weights that the strategy keeps beside the network that learns, such as an earlier network.
    """

    distilling: float = 0.0
    storing: float = 0.0
    training: float = 0.0
    images: int = 0
    pixels: int = 0
    labels: int = 0
    state: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.pixels + self.labels

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
