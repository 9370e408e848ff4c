"""Which dtypes and shapes the arrays of a distilled set may have. No value of an array is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from dd_core import formation as formations
from dd_core.whitening import LARGEST

if TYPE_CHECKING:
    from dd_core.distilled.sets import Manifest
    from dd_core.recipe import Recipe

IMAGE_DTYPES = ("uint8", "float16", "float32")


class Layout(NamedTuple):
    """The dtype and shape of an array, as the header of a file states them."""

    dtype: str
    shape: tuple[int, ...]


def layout_problems(manifest: Manifest, layouts: Mapping[str, Layout]) -> list[str]:
    """Why arrays of these layouts (by name, as in a file) are no distilled set of this manifest; empty if they are."""
    if "images" not in layouts:
        return ["it has no images"]
    images = layouts["images"]
    if len(images.shape) != 4 or 0 in images.shape:
        return [f"images have shape {images.shape}, not (N, C, H, W)"]
    problems: list[str] = []
    if images.dtype not in IMAGE_DTYPES:
        problems.append(f"images are {images.dtype}, not one of {', '.join(IMAGE_DTYPES)}")
    if images.shape[1] != len(manifest.pixels.mean):
        problems.append(f"{images.shape[1]} channels, but the normalisation has {len(manifest.pixels.mean)}")
    if images.dtype == "uint8" and manifest.pixels.space != "raw":
        problems.append(f"uint8 pixels cannot be {manifest.pixels.space} ones")
    if (problem := formations.problem(manifest.formation, (images.shape[2], images.shape[3]))) is not None:
        problems.append(problem)
    if manifest.formation != 1 and manifest.pixels.space == "whitened":
        problems.append("whitened pixels have no formation: a tile is enlarged before it is whitened")
    count = images.shape[0]
    problems += _label_problems(manifest, layouts, count) + _target_problems(manifest, layouts, count)
    return problems + _whitening_problems(manifest, layouts, images.shape)


def _label_problems(manifest: Manifest, layouts: Mapping[str, Layout], count: int) -> list[str]:
    labels = layouts.get("labels")
    if labels is None:
        return ["a classification set needs labels"] if manifest.task == "classification" else []
    if labels != Layout("int64", (count,)):
        return [f"labels are {labels.dtype} {labels.shape}, not int64 ({count},)"]
    return []


def _target_problems(manifest: Manifest, layouts: Mapping[str, Layout], count: int) -> list[str]:
    kind, targets = manifest.targets, layouts.get("targets")
    if (kind == "none") != (targets is None):
        return [f"the manifest says targets are '{kind}', and the set has {'none' if targets is None else 'some'}"]
    if targets is None:
        return []
    if len(targets.shape) != 2 or targets.shape[0] != count or targets.dtype not in IMAGE_DTYPES[1:]:
        return [f"targets are {targets.dtype} {targets.shape}, not float (N, K)"]
    if kind != "features" and targets.shape[1] != len(manifest.classes):
        return [f"targets have {targets.shape[1]} columns for {len(manifest.classes)} classes"]
    return []


def _whitening_problems(manifest: Manifest, layouts: Mapping[str, Layout], shape: tuple[int, ...]) -> list[str]:
    space, arrays = manifest.pixels.space, [layouts.get("zca_offset"), layouts.get("zca_matrix")]
    if arrays == [None, None]:
        return ["the pixels are whitened, and the set has no whitening"] if space == "whitened" else []
    if space == "normalised" or not manifest.pixels.as_they_are:
        return ["a set with a whitening has raw or whitened pixels, mean 0 and std 1"]
    size = math.prod(shape[1:])
    if size > LARGEST:
        return [f"images of {size} numbers are not whitened; {LARGEST} is the limit"]
    if arrays != [Layout("float32", (size,)), Layout("float32", (size, size))]:
        return [f"the whitening is not float32 ({size},) and ({size}, {size})"]
    return pretraining_problems(manifest.recipe)


def pretraining_problems(recipe: Recipe) -> list[str]:
    """Why the networks of a set with a whitening cannot start as `recipe` says, in words."""
    if recipe.weights is None or recipe.weights.pretraining is None:
        return []
    return ["networks are pre-trained on normalised images, and would meet whitened ones"]
