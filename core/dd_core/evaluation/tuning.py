"""What the protocols with a choice are made of: validation images, the best setting, and nearest neighbours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dd_core.images import Source, split_indices
from dd_core.streams import Streams

if TYPE_CHECKING:
    from dd_core.training import TrainingData

VALIDATION = 0.1  # of the training images of each class

Setting = dict[str, Any]  # numbers, by name


def validation_split(train: Source, streams: Streams) -> tuple[Source, Source]:
    """(rest, validation): a tenth of each class is for validation, drawn by `streams`.

    Raises `UserError` for a class of one image.
    """
    rest, held = split_indices(train, VALIDATION, streams.child("validation").seed)
    return train.subset(rest), train.subset(held)


def best(settings: Sequence[Setting], scores: Sequence[Sequence[float]]) -> tuple[Setting, float]:
    """The setting with the highest mean, the first of equals, and that mean; `scores` has a row for each network."""
    means = [statistics.fmean(column) for column in zip(*scores, strict=True)]
    chosen = means.index(max(means))
    return settings[chosen], means[chosen]


class NearestNeighbours(nn.Module):
    """scikit-learn's k nearest neighbours (Minkowski distance of order p) in the form of a network.

    Its outputs are 1 for the class that most neighbours have, the first of equals, and 0 for the others.
    """

    def __init__(self, data: TrainingData, *, k: int, p: int) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        super().__init__()
        self.classes = data.classes
        # exact distances, whatever the number of images
        self.classifier = KNeighborsClassifier(k, p=cast(Any, p), algorithm="brute")
        self.classifier.fit(data.inputs.flatten(1).numpy(), data.labels.numpy())

    def forward(self, images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        """Votes for inputs of a network; on the CPU, in one thread."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            guesses = self.classifier.predict(images.flatten(1).cpu().numpy())
        return F.one_hot(torch.as_tensor(guesses), self.classes).float()
