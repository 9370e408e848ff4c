"""The classes of an experience that a memory receives, as a source to be distilled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dd_apps.continual.adapter import RawClass
from dd_apps.continual.labels import batched_with
from dd_apps.continual.memory.holding import ClassImages
from dd_core.errors import UserError
from dd_core.images import LabelledImages, channel_counts
from dd_core.system import surroundings


@surroundings.own()
def source_of(images: Mapping[int, Tensor], name: str) -> LabelledImages:
    """uint8 images by class id as a source with classes 0.. in the order of `images`."""
    shapes = sorted({tuple(of_class.shape[1:]) for of_class in images.values()})
    if len(shapes) > 1:
        raise UserError(f"the classes of this experience differ in image size: {shapes[0]} and {shapes[1]}")
    labels = torch.cat([torch.full((len(of_class),), index) for index, of_class in enumerate(images.values())])
    return LabelledImages(torch.cat(list(images.values())), labels, tuple(map(str, images)), name)


def images_of(raw: Mapping[int, RawClass]) -> dict[int, Tensor]:
    """The real images by class id."""
    return {label: members.images for label, members in raw.items()}


@surroundings.own()
def pixel_counts(source: LabelledImages) -> Tensor:
    """int64 (C, 256): how often each pixel value occurs in each channel."""
    return channel_counts(source)


def require_one_kind(classes: Mapping[int, RawClass | ClassImages]) -> None:
    """Raise `UserError` where PyTorch cannot put the labels of two classes into one mini-batch."""
    (first, start), *others = classes.items()
    for label, other in others:
        if not batched_with(start.meaning, other.meaning):
            raise UserError(
                f"the items of class {first} carry labels of type {start.meaning[0]}, and those of class {label} "
                f"{other.meaning[0]}; PyTorch makes no mini-batch of both, so give all experiences labels of one type"
            )
