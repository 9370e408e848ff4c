"""The labels of a target's training images, a fraction of which is learned from."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from dd_core import selection
from dd_core.errors import Option, UserError
from dd_core.images import Source, called, indices_by_class, require_labels
from dd_core.streams import Streams


def check_target(train: Source, test: Source) -> None:
    """Raise `UserError` for images that no classifier can be trained and tested on.

    Both sides need labels, the same classes (at least two), and images of the same shape.
    """
    for source in (train, test):
        if source.labels is None:
            raise UserError(
                f"target {called(source)} has no labels, as probes and fine-tuning need; take labelled images"
            )
    if len(train.classes) < 2:
        raise UserError(f"target {called(train)} has one class; take a target with two classes or more")
    if train.classes != test.classes:
        raise UserError(f"target {called(train)}: training and test images do not have the same classes")
    if train.image_shape != test.image_shape:
        theirs, ours = ("x".join(map(str, source.image_shape)) for source in (test, train))
        raise UserError(f"target {called(train)}: training images are {ours} (C x H x W), and test images are {theirs}")


def labelled_rows(source: Source, fraction: float, *, seed: int) -> Int64[Tensor, " n"]:
    """The rows of `fraction` of each class's images, at least one, drawn by `seed`, in ascending order.

    A larger fraction has the rows of a smaller one. Raises `UserError` for a fraction outside (0, 1], and for a class
    without images.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"{Option('fraction', fraction)}: expected a fraction above 0 and at most 1")
    require_labels(source)
    counts = [max(1, round(fraction * len(members))) for members in indices_by_class(source)]
    rows = selection.random_indices(source, counts, streams=Streams(seed), stream="labelled")
    return rows.sort().values


def labels_at(source: Source, rows: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The labels of the images `rows`."""
    return torch.as_tensor(require_labels(source))[rows]
