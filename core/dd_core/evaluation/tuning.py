"""Choosing a setting on validation images: the split of the training images, and the best of several settings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from dd_core.evaluation.protocol import Setting
from dd_core.images import Source, split_indices
from dd_core.streams import Streams

VALIDATION = 0.1  # of the training images of each class


class Choice(NamedTuple):
    """A chosen setting, and the mean score of its networks on the validation images."""

    setting: Setting
    validation: float


def validation_split(train: Source, streams: Streams) -> tuple[Source, Source]:
    """(rest, validation): a random tenth of each class is for validation.

    Raises `UserError` for a class of one image.
    """
    rest, validation = split_indices(train, VALIDATION, streams.child("validation").seed)
    return train.subset(rest), train.subset(validation)


def best(settings: Sequence[Setting], scores: Sequence[Sequence[float]]) -> Choice:
    """The setting with the highest mean score (of equals the first); `scores` has a row for each network."""
    means = [statistics.fmean(column) for column in zip(*scores, strict=True)]
    position = means.index(max(means))
    return Choice(settings[position], means[position])
