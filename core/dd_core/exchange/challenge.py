"""The ECCV-2024 Dataset Distillation Challenge: one tensor, ten rows a class, normalised."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.exchange.formats import (
    STATISTICS,
    Export,
    Statistics,
    as_seen,
    changed_recipe,
    checked_set,
    labels_of,
    losses_of,
    recipe_of_format,
)
from dd_core.exchange.torch_tensors import read_tensor, tensor_bytes
from dd_core.system import surroundings


class _Challenge(NamedTuple):
    file: str
    classes: int
    side: int
    statistics: Statistics
    networks: tuple[str, ...]  # the ways to spell the evaluator's network

    @property
    def shape(self) -> tuple[int, ...]:
        return _CHALLENGE_IPC * self.classes, 3, self.side, self.side


_CHALLENGE_IPC = 10
_CHALLENGES = (
    _Challenge("cifar100.pt", 100, 32, STATISTICS["cifar100"], ("convnet-3", "convnet")),
    _Challenge("tinyimagenet.pt", 200, 64, STATISTICS["imagenet"], ("convnet-3",)),
)


@surroundings.own()
def export_challenge(ds: DistilledSet, folder: Path) -> Export:
    """`cifar100.pt` or `tinyimagenet.pt`, by the shape of the set: its images, normalised, class after class.

    Raises `UserError` for a set of another size, and for learned targets, which a submission cannot hold.
    """
    ds, small = as_seen(ds)
    labels = labels_of(ds, "challenge")
    shape = ds.images.shape[1:]
    theirs = next((data for data in _CHALLENGES if (data.classes, data.shape[1:]) == (len(ds.classes), shape)), None)
    if theirs is None:
        raise UserError(
            "the challenge takes 100 classes of 3x32x32 images (CIFAR-100) or 200 of 3x64x64 (Tiny ImageNet), and this "
            f"set has {len(ds.classes)} of {'x'.join(map(str, shape))}"
        )
    for name, count in zip(ds.classes, np.bincount(labels, minlength=len(ds.classes)), strict=True):
        if count != _CHALLENGE_IPC:
            raise UserError(f"the challenge takes {_CHALLENGE_IPC} images of each class, and '{name}' has {count}")
    if ds.targets is not None:
        raise UserError(
            "the challenge takes images only and gives row r the hard label r // 10, so that learned targets "
            f"('{ds.manifest.targets}') cannot be delivered; distil with hard labels"
        )
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in theirs.statistics[:2])
    pixels = (ds.raw()[np.argsort(labels, kind="stable")] - mean) / std
    files = {theirs.file: tensor_bytes(pixels.astype(np.float32))}
    order = f"the names of the classes: the first ten rows, '{ds.classes[0]}' here, are the evaluator's first class"
    whitened = () if ds.whitening is None else ("the whitening that its images were made for",)
    lost = (*small, order, *whitened, *losses_of(ds, "challenge", "the evaluator", networks=theirs.networks))
    return Export(folder, files, lost, alone=False)


@surroundings.own()
def import_challenge(path: Path, *, classes: Sequence[str], recipe: Mapping[str, Any] | None = None) -> DistilledSet:
    """A submission: `cifar100.pt`, `tinyimagenet.pt`, or a folder with one of them; its shape says which it is.

    The recipe is the evaluator's, with the values of `recipe` in place of its own. Raises `UserError` for other files.
    """
    if os.path.isdir(path):
        there = [path / data.file for data in _CHALLENGES if (path / data.file).exists()]
        if len(there) != 1:
            names = " and ".join(data.file for data in _CHALLENGES)
            raise UserError(f"{path}: has {'both' if there else 'neither'} of {names}; name the file")
        (path,) = there
    images = read_tensor(path, "float32", dims=4)
    theirs = next((data for data in _CHALLENGES if data.shape == images.shape), None)
    if theirs is None:
        shapes = " or ".join(str(data.shape) for data in _CHALLENGES)
        raise UserError(f"{path}: a submission is {shapes}, and this is {images.shape}")
    if len(classes) != theirs.classes:
        raise UserError(f"{path}: holds {theirs.classes} classes, and {len(classes)} are named")
    manifest = Manifest(
        classes=tuple(classes),
        pixels=Pixels(space="normalised", mean=theirs.statistics.mean, std=theirs.statistics.std),
        recipe=changed_recipe(recipe_of_format("challenge"), recipe or {}, ""),
    )
    return checked_set(path, images, np.arange(len(images)) // _CHALLENGE_IPC, manifest)
