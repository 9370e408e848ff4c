"""`join`: several distilled sets as one, such as the sets of a stream's experiences.

Classes of one name are one class, whatever their indices in each set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dd_core.config import Config, plain
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.recipe import Recipe
from dd_core.system import surroundings
from dd_core.whitening import Whitening

OWN = ("classes", "recipe", "provenance")  # fields of a manifest that may differ from set to set


@surroundings.own()
def join(sets: Sequence[DistilledSet], *, recipe: Recipe | None = None, pixels: Pixels | None = None) -> DistilledSet:
    """All stored images of `sets`, set after set, as one set without provenance: no single run made it.

    The classes are those of the first set, then those of the second that the first lacks, and so on; labels and columns
    of targets go to the class of their name. Probabilities of classes that a set does not know are 0.

    recipe: how networks train on the joined set; None: the recipe that all sets have. Learned steps are dropped, as
    they number the blocks of one set. pixels: the normalisation of raw pixels in the joined set; None: the
    normalisation that all sets have. A single set is returned unchanged where neither `recipe` nor `pixels` is given.

    Raises `UserError` where the sets differ in the form of their images, normalisation, whitening or formation, in
    kind, width or dtype of their targets, in the classes of their logits (a logit that nobody computed is no number),
    and, without `recipe`, in their recipes.
    """
    if not sets:
        raise UserError("join needs at least one distilled set, and got none")
    first = sets[0]
    if len(sets) == 1 and recipe is None and pixels is None:
        return first
    for number, other in enumerate(sets, start=1):
        _require_distinct(other.classes, number)
        _require_alike(first, other, number, pixels)
    classes = tuple(dict.fromkeys(name for ds in sets for name in ds.classes))
    common = recipe or _common_recipe(sets)
    manifest = first.manifest.model_copy(
        update={
            "classes": classes,
            "pixels": pixels or first.manifest.pixels,
            "recipe": common.model_copy(update={"steps": ()}),
            "provenance": None,
        }
    )
    return DistilledSet(
        np.concatenate([ds.images for ds in sets]),
        None if first.labels is None else np.concatenate([_labels(ds, classes) for ds in sets]),
        manifest,
        None if first.targets is None else np.concatenate([_targets(ds, classes) for ds in sets]),
        first.whitening,
    )


def _labels(ds: DistilledSet, classes: Sequence[str]) -> np.ndarray:
    """(N,) labels of a set as indices into `classes`."""
    assert ds.labels is not None
    return _places(ds, classes)[ds.labels]


def _targets(ds: DistilledSet, classes: Sequence[str]) -> np.ndarray:
    """(N, K) targets of a set with a column for each of `classes`; features (N, D) as they are."""
    assert ds.targets is not None
    if ds.manifest.targets == "features":
        return ds.targets
    aligned = np.zeros((len(ds), len(classes)), dtype=ds.targets.dtype)
    aligned[:, _places(ds, classes)] = ds.targets
    return aligned


def _places(ds: DistilledSet, classes: Sequence[str]) -> np.ndarray:
    return np.array([classes.index(name) for name in ds.classes], dtype=np.int64)


def _common_recipe(sets: Sequence[DistilledSet]) -> Recipe:
    recipes = [ds.manifest.recipe.model_copy(update={"steps": ()}) for ds in sets]
    for number, other in enumerate(recipes, start=1):
        for field in type(other).model_fields:
            values = getattr(recipes[0], field), getattr(other, field)
            if values[0] != values[1]:
                raise _refusal(number, f"recipe's {field}", values, "choose one recipe by join(sets, recipe=...)")
    return recipes[0]


def _require_distinct(classes: Sequence[str], number: int) -> None:
    for name in classes:
        if classes.count(name) > 1:
            raise UserError(
                f"set {number} has two classes called '{name}', and sets are joined by class names; rename one"
            )


def _require_alike(first: DistilledSet, other: DistilledSet, number: int, pixels: Pixels | None) -> None:
    """Raise `UserError` for the first property in which set `number`, `other`, differs from the set `first`."""
    for field in Manifest.model_fields:
        values = getattr(first.manifest, field), getattr(other.manifest, field)
        if field == "pixels" and pixels is not None:
            _require_raw(other, number, pixels)
        elif field not in OWN and values[0] != values[1]:
            what = "normalisation" if field == "pixels" else field
            advice = "distil both alike" if field != "pixels" else "choose by join(sets, pixels=...) if both are raw"
            raise _refusal(number, what, values, advice)
    for what, of in FORMS.items():
        values = of(first), of(other)
        if values[0] != values[1]:
            raise _refusal(number, what, values, "distil both alike")
    if not _same(first.whitening, other.whitening):
        raise _refusal(number, "whitening", map(_whitened, (first, other)), "distil both with one whitening, or none")
    kind = first.manifest.targets
    if kind == "logits" and set(first.classes) != set(other.classes):
        raise UserError(
            f"set 1 has logits of {len(first.classes)} classes ({_some(first.classes)}) and set {number} of "
            f"{len(other.classes)} ({_some(other.classes)}): a class without a logit has no value that could be filled "
            "in; join sets with logits of the same classes, or with probabilities"
        )
    widths = [ds.targets.shape[1] for ds in (first, other) if ds.targets is not None]
    if kind == "features" and widths[0] != widths[1]:
        raise _refusal(
            number, "features", [f"{width} numbers an image" for width in widths], "use one teacher for both"
        )


FORMS: dict[str, Callable[[DistilledSet], str]] = {
    "shape of the images": lambda ds: "x".join(map(str, ds.images.shape[1:])),
    "dtype of the images": lambda ds: ds.images.dtype.name,
    "labels": lambda ds: "none" if ds.labels is None else "some",
    "dtype of the targets": lambda ds: "none" if ds.targets is None else ds.targets.dtype.name,
}


def _require_raw(ds: DistilledSet, number: int, pixels: Pixels) -> None:
    if ds.manifest.pixels.space != "raw" or pixels.space != "raw" or ds.whitening is not None:
        space = ds.manifest.pixels.space if ds.whitening is None else "whitened"
        raise UserError(
            f"set {number} has {space} pixels, and the joined set {pixels.space} ones; only raw pixels without a "
            "whitening can be given another normalisation: use quantised() sets, or leave out pixels"
        )


def _refusal(number: int, what: str, values: Iterable[object], advice: str) -> UserError:
    return UserError(f"set 1 and set {number} differ in their {what} ({', and '.join(map(_shown, values))}); {advice}")


def _same(first: Whitening | None, other: Whitening | None) -> bool:
    if first is None or other is None:
        return first is other
    return np.array_equal(first.offset, other.offset) and np.array_equal(first.matrix, other.matrix)


def _whitened(ds: DistilledSet) -> str:
    return "none" if ds.whitening is None else "one of its own"


def _shown(value: Any) -> str:
    if isinstance(value, Config):
        return ", ".join(
            f"{name} {' '.join(map(str, part)) if isinstance(part, list) else part}"
            for name, part in plain(value).items()
        )
    return str(value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
