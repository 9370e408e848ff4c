"""Nearest neighbours in the form of a network."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from dd_core.training import TrainingData


class NearestNeighbours(nn.Module):
    """scikit-learn's k nearest neighbours (Minkowski distance of order p) in the form of a network.

    The outputs are 1 for the most frequent class among the neighbours (of equals the first), and 0 for other classes.
    """

    def __init__(self, data: TrainingData, *, k: int, p: int) -> None:
        super().__init__()
        self.classes = data.classes
        # "brute" computes exact distances for any number of images
        self.classifier = KNeighborsClassifier(k, p=cast(Any, p), algorithm="brute")
        self.classifier.fit(data.inputs.flatten(1).numpy(), data.labels.numpy())

    def forward(self, images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        """One-hot predictions for network inputs; computed on the CPU, in one thread."""
        with threadpool_limits(1):
            guesses = self.classifier.predict(images.flatten(1).cpu().numpy())
        return F.one_hot(torch.as_tensor(guesses), self.classes).float()
