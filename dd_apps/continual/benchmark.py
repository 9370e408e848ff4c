"""A class-incremental benchmark for Avalanche, made from sources of training and test images."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from dd_apps.continual.adapter import nc_benchmark
from dd_apps.continual.guard import Guard, GuardedImages
from dd_apps.continual.orders import class_order, experience_sizes
from dd_core.errors import UserError
from dd_core.images import Source, channel_stats, normalise, require_labels


@dataclass(frozen=True)
class Stream:
    """One class order: Avalanche's benchmark, the classes of each experience, and the pixels' normalisation.

    mean, std: of each channel of the first experience's images, in [0, 1]; no other images are known when training
    begins.
    """

    benchmark: Any
    classes: tuple[tuple[int, ...], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def experiences(self) -> list[Any]:
        """Avalanche's experiences of training images, in order."""
        return list(self.benchmark.train_stream)


class RawImages(Dataset[tuple[Tensor, int]]):
    """A source as a data set of (uint8 (C, H, W) image, label), read one by one, with `targets` for Avalanche."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.targets = require_labels(source).tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.source.take(torch.tensor([index]))[0], self.targets[index]


class Normalise:
    """uint8 (C, H, W) to network input: the transform of an Avalanche benchmark."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        # a table of all 256 values of each channel: Avalanche transforms one image at a time, which adds up
        values = torch.arange(256, dtype=torch.uint8).expand(len(mean), 256)[None, :, :, None]
        self.table = normalise(values, mean, std)[0, :, :, 0]
        self.channels = torch.arange(len(mean))[:, None, None]

    def __call__(self, image: UInt8[Tensor, "C H W"]) -> Float[Tensor, "C H W"]:
        return self.table[self.channels, image.long()]


def build(
    train: Source,
    test: Source,
    *,
    experiences: int,
    seed: int,
    order: int,
    rule: Literal["drawn", "numpy"] = "drawn",
    guard: Guard | None = None,
) -> Stream:
    """The benchmark, without task labels, of class order `order` by a rule of `class_order`. Raises `UserError`.

    guard: sees every later read of a training image.
    """
    if train.classes != test.classes:
        raise UserError(f"{train.name}: training and test images do not have the same classes")
    labels = require_labels(train)
    permutation = class_order(len(train.classes), seed=seed, order=order, rule=rule)
    sizes = experience_sizes(len(train.classes), experiences)
    parts = torch.tensor(permutation).split(list(sizes))
    classes = tuple(tuple(sorted(part.tolist())) for part in parts)
    first = torch.isin(labels, torch.tensor(classes[0])).nonzero().flatten()
    images: Source = train if guard is None else GuardedImages(train, guard)
    allowed = nullcontext() if guard is None else guard.only(first.tolist(), what="for the pixels' statistics")
    with allowed:
        mean, std = channel_stats(images.subset(first))
    transform = Normalise(mean, std)
    benchmark = nc_benchmark(
        RawImages(images),
        RawImages(test),
        n_experiences=experiences,
        task_labels=False,
        fixed_class_order=list(permutation),
        per_exp_classes=dict(enumerate(sizes)),
        train_transform=transform,
        eval_transform=transform,
    )
    made = tuple(tuple(sorted(experience.classes_in_this_experience or ())) for experience in benchmark.train_stream)
    if made != classes:
        raise AssertionError(f"Avalanche made experiences of classes {made} instead of {classes}")
    return Stream(benchmark, classes, mean, std)
