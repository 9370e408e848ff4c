"""The jobs of the benchmark and their outcomes: values that are sent between processes and stored."""

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
        """The folder of the job's outcome; None if nothing is kept."""
        return None if self.folder is None else self.folder / f"order-{self.order}" / self.row

    @property
    def sets_folder(self) -> Path | None:
        """The folder of the row's distilled sets, which rows of one method and size share; None without any."""
        row, method = self.scenario.row_of(self.row), self.scenario.memory_method(self.row)
        if self.folder is None or method is None:
            return None
        sizes: list[Any] = [row.images_per_class, self.scenario.images_per_class, self.scenario.bytes_per_class]
        if row.memory == "hybrid":
            sizes.append(row.real_share)  # a hybrid memory distils fewer images
        strategy = row.named_strategy
        if row.budget == "bytes" and (row.labels != "hard" or (strategy is not None and strategy.keeps_logits)):
            sizes += ["with labels", row.bank_epochs] if row.labels == "bank" else ["with labels"]  # labels take room
        if row.adaptive:
            sizes.append(["adaptive", row.shrinking])
        together = getattr(row.named_strategy, "images", None)  # in the table 'taught': per-step or joint
        name = f"{method['name']}-{digest([method, sizes, together])[:8]}"
        return self.folder / f"order-{self.order}" / "sets" / name


@dataclass(frozen=True)
class Ledger:
    """The cost of one network of a row in one table.

    distilling, storing, training: seconds. Distilling makes the memory's images once for all networks and tables,
    storing chooses and stores what the memory keeps, and training is all else, without measuring accuracies. images:
    number of images in the memory at the end. pixels: bytes of their uint8 pixels. labels: bytes of the logits, soft
    labels, views and learned rates kept with them. state: bytes of weights that the strategy keeps beside the trained
    network, such as an earlier network.
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

    matrix: the accuracy matrix where the network chooses among all classes of the data; known: the accuracy matrix
    where it chooses among the classes of a test image's own experience (task-incremental learning).
    """

    matrix: Matrix
    known: Matrix
    ledger: Ledger


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    trials: of each table, network by network; counts: number of test images of each experience; memory: the memory's
    images at the end as a set, None for rows without a memory.
    """

    trials: dict[Table, tuple[Trial, ...]]
    counts: tuple[int, ...]
    memory: DistilledSet | None = field(default=None)
