"""A trial of `nb201.py`: one zero-cost measure of one cell, in whatever process."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dd_apps.nas import measures, spaces
from dd_core import datasets
from dd_core.config import canonical
from dd_core.errors import UserError
from dd_core.images import InputForm, require_labels
from dd_core.streams import generator

BATCH, BATCH_OF = 64, {"naswot": 128}  # images of a measure

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One measure of one cell, and all that its value depends on."""

    architecture: str
    measure: str
    data: str
    channels: int
    modules: int
    seed: int

    @property
    def digest(self) -> str:
        """The trial in a record."""
        return hashlib.sha256(canonical(vars(self)).encode()).hexdigest()[:16]


def measure(trial: Trial) -> Record:
    """The value of a trial, or why there is none; `seconds` are those of the measure alone, on one thread."""
    images, labels = batch(trial.data, BATCH_OF.get(trial.measure, BATCH), trial.seed)
    classes = int(classes_of(trial.data))
    height, width = images.shape[2:]
    space = spaces.CellSpace(
        in_channels=images.shape[1],
        classes=classes,
        image_size=(height, width),
        channels=trial.channels,
        modules=trial.modules,
    )
    network = spaces.build(space, space.sample_of(trial.architecture), seed=trial.seed)
    begun, value, reason = time.perf_counter(), None, None
    try:
        value = measures.measure(trial.measure, network, images, labels)
    except UserError as error:
        reason = str(error)
    seconds = round(time.perf_counter() - begun, 4)
    return {"trial": trial.digest, **vars(trial), "value": value, "reason": reason, "seconds": seconds}


def lost(trial: Trial) -> Record:
    """What is kept of a trial whose worker died."""
    return {"trial": trial.digest, **vars(trial), "value": None, "reason": "its process died", "seconds": None}


@cache
def batch(data: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training images, normalised, and their labels; of a seed, fewer are the first of more."""
    source = datasets.load(data, split="train")
    rows = torch.randperm(len(source), generator=generator(seed, "zero-cost images"))[:count]
    return InputForm.of(source)(source.take(rows)), require_labels(source)[rows]


@cache
def classes_of(data: str) -> int:
    """How many classes the images have."""
    return len(datasets.load(data, split="train").classes)
