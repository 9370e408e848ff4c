"""Streams of three experiences of two classes each, small enough that every number can be written down."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from dd_core.distiller import FinishedDistiller, SelectionConfig
from dd_core.images import indices_by_class

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import nc_benchmark

SIDE = 4
PIXELS = SIDE * SIDE
ORDER = [4, 1, 0, 5, 3, 2]


def to_input(image: torch.Tensor) -> torch.Tensor:
    """uint8 to floats in [0, 1]."""
    return image.float() / 255


class Images(Dataset):
    """`each` uint8 (1, 4, 4) images of each of six classes: noise on a brightness of 20 + 30 * label."""

    def __init__(self, each: int = 6, classes: int = 6) -> None:
        self.targets = [label for label in range(classes) for _ in range(each)]
        noise = np.random.default_rng(0).integers(0, 20, (len(self.targets), 1, SIDE, SIDE))
        self.pixels = torch.from_numpy((noise + 20 + 30 * np.array(self.targets)[:, None, None, None]).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pixels[index], self.targets[index]

    def of(self, label: int) -> torch.Tensor:
        """uint8 (each, 1, 4, 4) images of a class."""
        return self.pixels[torch.tensor(self.targets) == label]


def benchmark(train: Images | None = None, **options: Any):
    """Classes 4 and 1, then 0 and 5, then 3 and 2."""
    train = train or Images()
    transforms = {"train_transform": to_input, "eval_transform": to_input}
    return nc_benchmark(
        train, train, 3, task_labels=False, shuffle=False, fixed_class_order=ORDER, **(transforms | options)
    )


def strategy_of(network: nn.Module) -> Any:
    """What a memory asks of a strategy: its network, and where that is."""
    return SimpleNamespace(model=network, device=torch.device("cpu"))


def linear(outputs: int = 6) -> nn.Module:
    """A network of one layer, with dropout, which is off where labels are made."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(PIXELS, outputs))


class SoftAverage(SelectionConfig):
    """Class averages with soft labels: `sure` for the class, and the rest shared by the others."""

    name = "soft-average"

    sure: float = 0.75
    kind: str = "probabilities"

    def select(self, context):
        """The mean image of each class, once for each image asked for."""
        members = indices_by_class(context.source)
        means = [context.source.take(rows).float().mean(0) / 255 for rows in members]
        return torch.stack([mean for mean, count in zip(means, context.counts, strict=True) for _ in range(count)])

    def build(self, context):
        """The set, with targets."""
        ds = super().build(context).export()
        classes = len(ds.classes)
        soft = np.full((len(ds), classes), (1 - self.sure) / (classes - 1), np.float32)
        soft[np.arange(len(ds)), ds.labels] = self.sure
        targets = np.log(soft) if self.kind == "logits" else soft
        manifest = ds.manifest.model_copy(update={"targets": self.kind})
        return FinishedDistiller(type(ds)(ds.images, ds.labels, manifest, targets))
