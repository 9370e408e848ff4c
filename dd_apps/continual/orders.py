"""The order of arrival: the images of the stream, class orders, and the number of classes in each experience.

Avalanche is not imported here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dd_core.errors import UserError
from dd_core.images import Source, indices_by_class
from dd_core.streams import generator


def class_order(classes: int, *, seed: int, order: int, rule: Literal["drawn", "numpy"] = "drawn") -> tuple[int, ...]:
    """Permutation number `order` of the classes; rule "numpy": of numpy's legacy generator, seeded by `order` alone."""
    if rule == "numpy":
        return tuple(np.random.RandomState(order).permutation(classes).tolist())
    return tuple(torch.randperm(classes, generator=generator(seed, "class-order", order)).tolist())


def experience_sizes(classes: int, experiences: int) -> tuple[int, ...]:
    """Number of classes of each experience, as even as can be, larger first; raises `UserError` for too many."""
    if experiences > classes:
        raise UserError(f"experiences: {experiences} experiences need as many classes, and the data have {classes}")
    share, rest = divmod(classes, experiences)
    return tuple(share + (index < rest) for index in range(experiences))


def stream_of(train: Source, images: int | None, *, seed: int) -> Source:
    """`images` of the training images, equally many of each class, drawn by the seed, in their own order; None: all.

    Raises `UserError` for a number that is no multiple of the number of classes, or more than a class has.
    """
    if images is None:
        return train
    each, rest = divmod(images, len(train.classes))
    if rest or each < 1:
        raise UserError(f"images: {images} is no multiple of {len(train.classes)}, the number of classes; make it one")
    chosen: list[Tensor] = []
    for label, members in enumerate(indices_by_class(train)):
        if len(members) < each:
            raise UserError(
                f"images: {images} images are {each} of each class, and '{train.classes[label]}' has {len(members)}"
            )
        order = torch.randperm(len(members), generator=generator(seed, "stream", label))
        chosen.append(members[order[:each]])
    return train.subset(torch.cat(chosen).sort().values)
