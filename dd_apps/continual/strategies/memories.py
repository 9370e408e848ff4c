"""The memories that rows name: distilled images, and Avalanche's memories of real images of the same size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from dd_apps.continual.adapter import (
    AvalancheDataset,
    ClassBalancedBuffer,
    classes_of,
    concat_datasets,
    filled,
    warnings_contained,
)
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.config import ContinualScenario, Replay
from dd_apps.continual.hybrid import HybridBuffer
from dd_apps.continual.rows import DISTILLED_MEMORIES, Table
from dd_core import networks
from dd_core.system.reporter import Silent

with warnings_contained():
    from avalanche.training.storage_policy import (
        HerdingSelectionStrategy,
        ParametricBuffer,
        ReservoirSamplingBuffer,
    )


@dataclass(frozen=True)
class Where:
    """The facts that a memory needs besides the scenario.

    source: name of the real images; image_shape: (C, H, W) of one; seed: of the class order.
    """

    source: str
    classes: int
    seed: int
    folder: Path
    device: str = "cpu"
    image_shape: tuple[int, ...] = (1, 1, 1)

    def images_of_class(self, scenario: ContinualScenario, row: str) -> int:
        """Images that a row's memory keeps of a class; raises `UserError` for none."""
        return scenario.images_of_class(row, image_bytes=prod(self.image_shape), classes=self.classes)

    def images(self, scenario: ContinualScenario, row: str) -> int:
        """Images that a row's memory holds at the end."""
        return self.images_of_class(scenario, row) * self.classes


def memory_for(scenario: ContinualScenario, row: str, table: Table, where: Where) -> Memory | None:
    """The memory of a row, empty; None for the rows without one, and for strategies with a memory of their own."""
    wanted, strategy = scenario.row_of(row), scenario.row_of(row).strategy_in(table)
    of_real = wanted.memory not in DISTILLED_MEMORIES
    if wanted.memory in ("none", "joint") or (of_real and strategy.name in ("der", "icarl")):
        return None
    each = where.images_of_class(scenario, row)
    size, settings = each * where.classes, scenario.settings(row, table)
    fill = settings.fill if isinstance(settings, Replay) else None
    if wanted.memory == "reservoir":
        return FilledReservoir(size, fill=fill)
    if wanted.memory == "herding":
        return FilledHerding(size, each=None if wanted.adaptive else each, fill=fill)
    if wanted.memory == "class-balanced":
        # not adaptive: equal bytes after each experience; adaptive: room for later classes holds old classes meanwhile
        return FilledClassBalancedBuffer(size, total_num_classes=None if wanted.adaptive else where.classes, fill=fill)
    options: dict[str, Any] = {
        "images_per_class": size if wanted.adaptive else each,
        "shrinking": wanted.shrinking,
        "method": scenario.memory_method(row),
        "labels": "logits" if strategy.keeps_logits else wanted.labels,
        "bank_epochs": wanted.bank_epochs,
        "seed": where.seed,
        "fill": None if wanted.labels != "hard" else fill,  # SoftLabelReplay fills its mini-batches itself
        "data": where.source,
        "folder": where.folder,
        "device": where.device,
        "reporter": Silent(),  # many memories are made at the same time
    }
    if options["labels"] != "hard" and wanted.budget == "bytes":
        of_class = each * prod(where.image_shape)
        options |= {"max_bytes": of_class * where.classes} if wanted.adaptive else {"bytes_per_class": of_class}
    if wanted.memory == "hybrid":
        return HybridBuffer(size, real_share=wanted.real_share, features=wanted.features, **options)
    return DistilledBuffer(size, **options)


class FilledClassBalancedBuffer(ClassBalancedBuffer):
    """Avalanche's memory of real images; for a fair comparison `buffer` repeats them as `DistilledBuffer` does."""

    def __init__(self, max_size: int, *, total_num_classes: int | None = None, fill: int | None = None) -> None:
        super().__init__(max_size, adaptive_size=total_num_classes is None, total_num_classes=total_num_classes)
        self.fill = fill

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride] (Avalanche's setter does nothing)
        """All images, each as often as the filling asks for."""
        return filled(concat_datasets(self.buffer_datasets), self.fill)


class FilledReservoir(ReservoirSamplingBuffer):
    """Avalanche's uniform sample of the whole stream; `buffer` repeats it until mini-batches of `fill` are full."""

    def __init__(self, max_size: int, *, fill: int | None = None) -> None:
        super().__init__(max_size)
        self.fill = fill

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All images, each as often as the filling asks for."""
        return filled(self._buffer, self.fill)

    @buffer.setter
    def buffer(self, new_buffer: AvalancheDataset) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._buffer = new_buffer

    @property
    def buffer_groups(self) -> dict[int, Any]:
        """The stored images by class, as the balanced memories have them."""
        if len(self._buffer) == 0:
            return {}
        return {
            label: SimpleNamespace(buffer=self._buffer.subset(members))
            for label, members in classes_of(self._buffer).items()
        }

    def update_from_dataset(self, new_data: AvalancheDataset) -> None:
        """Let new images compete with the stored images, each of which counts once."""
        with self._unfilled():
            super().update_from_dataset(new_data)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep the `new_size` images with the largest random weights."""
        with self._unfilled():
            super().resize(strategy, new_size)

    @contextmanager
    def _unfilled(self) -> Iterator[None]:
        fill, self.fill = self.fill, None
        try:
            yield
        finally:
            self.fill = fill


class PresentHerding(HerdingSelectionStrategy):
    """Avalanche's herding (Welling 2009) on features of the network that the strategy has when images are chosen."""

    def __init__(self) -> None:
        """Takes no network, unlike Avalanche's class, because a strategy may replace its network."""

    @torch.no_grad()
    def make_sorted_indices(self, strategy: Any, data: AvalancheDataset) -> list[int]:
        """Positions of all images, the best choice first."""
        training = strategy.model.training
        strategy.model.eval()
        loader: Any = torch.utils.data.DataLoader(
            cast(Any, data), batch_size=256, collate_fn=getattr(data, "collate_fn", None)
        )
        features: list[Tensor] = [networks.embed(strategy.model, item[0].to(strategy.device)) for item in loader]
        strategy.model.train(training)
        return self.make_sorted_indices_from_features(torch.cat(features))


class FilledHerding(ParametricBuffer):
    """Avalanche's memory of real images chosen by herding, equally many of each class.

    each: images of a class, the same after every experience; None: the classes seen so far share all room.
    """

    def __init__(self, max_size: int, *, each: int | None, fill: int | None = None) -> None:
        super().__init__(max_size, groupby="class", selection_strategy=PresentHerding())
        self.each, self.fill = each, fill

    def get_group_lengths(self, num_groups: int) -> list[int]:
        """Images that each class may keep."""
        return super().get_group_lengths(num_groups) if self.each is None else [self.each] * num_groups

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All images, each as often as the filling asks for."""
        return filled(concat_datasets(self.buffer_datasets), self.fill)


Memory = DistilledBuffer | FilledClassBalancedBuffer | FilledReservoir | FilledHerding
