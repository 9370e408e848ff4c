"""Real images that a distilled set has to beat: as many images, selected by a method, or a part of all images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dd_core import methods
from dd_core.distilled import DistilledSet, Pixels, Size
from dd_core.distiller import SelectionConfig
from dd_core.errors import UserError
from dd_core.images import Source, called, split_indices
from dd_core.runner import RunOptions, distill
from dd_core.system import surroundings


@surroundings.own()
def real_subset(name: str, train: Source, *, like: DistilledSet, seed: int = 0) -> DistilledSet:
    """A set that the method `name` (`random`, `herding`, `k-means`) selects from `train`, for a `DistilledProxy`.

    It has as many images of each class as `like`, its recipe, and its normalisation or whitening. Raises `UserError`
    for a method that selects nothing, for a set of other classes, and where `train` has too few images of a class.
    """
    kind = methods.load(name)
    if not issubclass(kind, SelectionConfig):
        raise UserError(f"'{name}' selects no real images; random, herding, k-means and average do")
    if like.classes != train.classes or like.labels is None:
        raise UserError(f"the classes of the set are not those of {called(train)}")
    counts = np.bincount(like.labels, minlength=len(like.classes)).tolist()
    if 0 in counts:
        raise UserError(f"the set has no images of class '{like.classes[counts.index(0)]}'")
    config = kind(recipe=like.manifest.recipe)
    subset = distill(config, train, Size.of(counts), seed=seed, options=RunOptions(device="cpu"))
    pixels = Pixels(space="raw", mean=like.manifest.pixels.mean, std=like.manifest.pixels.std)
    # provenance: None, because no run made the set in this form
    manifest = subset.manifest.model_copy(update={"pixels": pixels, "provenance": None})
    return replace(subset, manifest=manifest, whitening=like.whitening)


@surroundings.own()
def random_part(train: Source, *, fraction: float = 0.25, seed: int = 0) -> Source:
    """A random part of each class of `train`, a quarter by default, for a `RealProxy`.

    Raises `UserError` for a fraction outside (0, 1) and for a class of one image.
    """
    _, part = split_indices(train, fraction, seed)
    return train.subset(part)
