"""Arrays and torch Datasets as the data of an experience, for a memory that no Avalanche strategy updates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dd_apps.continual.adapter import AvalancheDataset, ClassificationDataset, DataAttribute
from dd_core.datasets import plain
from dd_core.images import Source, require_labels


def as_experience(data: Any) -> AvalancheDataset:
    """Avalanche's data of an experience: its own, or a torch `Dataset` or a pair (images, labels) of arrays.

    Items of a `Dataset` or a pair have no transforms and no task, so a replayed image has the form of the real images:
    floats in [0, 1], or uint8. Raises what `as_source` raises; classes of other experiences may be missing.
    """
    if isinstance(data, AvalancheDataset):
        return data
    source = plain.given(data, what="the experience's data", part=True)
    labels = require_labels(source)
    leaf: Any = data
    if isinstance(data, (tuple, list, Source)):
        leaf = TensorDataset(_as_floats(data, source.take(torch.arange(len(source)))), labels)
    targets: Any = labels.tolist()
    return ClassificationDataset([leaf], data_attributes=[DataAttribute(targets, "targets")])


def _as_floats(data: Any, levels: Tensor) -> Tensor:
    """The images as floats in [0, 1] if they were given so; else as uint8 `levels`."""
    if isinstance(data, Source):
        return levels
    images = torch.as_tensor(data[0]).detach()
    return images.reshape(levels.shape) if images.is_floating_point() and images.max() <= 1 else levels
