"""The files of MTT (Cazenavette et al. 2022) and its family: images, labels or logits, learning rate; a tensor each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dd_core import store
from dd_core.config import Config, decode, plain
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Option, UserError
from dd_core.exchange.formats import (
    STATISTICS,
    Export,
    as_seen,
    changed_recipe,
    checked_set,
    labels_of,
    losses_of,
    read_bytes,
    recipe_of_format,
)
from dd_core.exchange.torch_tensors import read_tensor, tensor_bytes
from dd_core.system import surroundings

IMAGES, LABELS, RATE = "images_best.pt", "labels_best.pt", "lr_best.pt"
SIDECAR = "normalisation.json"  # ours, beside those of the MTT family


class Sidecar(Config):
    """The content of `normalisation.json`: what the stored pixels are, mean and std of each channel, class names."""

    space: Literal["raw", "normalised", "whitened"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class MttFiles:
    """The files of one set of the MTT family."""

    images: Path
    labels: Path
    rate: Path | None = None
    sidecar: Path | None = None

    @staticmethod
    def of(folder: Path) -> MttFiles:
        """The files of a run's best set, as its scripts name them; raises `UserError` where `folder` is no folder."""
        if not os.path.isdir(folder):  # unlike Path.is_dir it takes a name of any length
            raise UserError(
                f"{folder}: not a folder with {IMAGES} and {LABELS}; for other names: {Option('images')} and "
                f"{Option('labels')}"
            )
        rate, sidecar = (folder / name if (folder / name).exists() else None for name in (RATE, SIDECAR))
        return MttFiles(folder / IMAGES, folder / LABELS, rate, sidecar)


@surroundings.own()
def export_mtt(ds: DistilledSet, folder: Path) -> Export:
    """`images_best.pt` (the inputs of a network), `labels_best.pt` (labels, or logits) and `lr_best.pt`.

    `normalisation.json` beside them says what these cannot: how the inputs are normalised, and the names of the
    classes. Raises `UserError` for targets that are no logits.
    """
    ds, small = as_seen(ds)
    labels, targets, recipe = labels_of(ds, "mtt"), ds.targets, ds.manifest.recipe
    if ds.manifest.targets not in ("none", "logits"):
        raise UserError(f"the MTT family stores labels or logits, and this set's targets are '{ds.manifest.targets}'")
    whitened = ds.whitening is not None
    sidecar = Sidecar(
        space="whitened" if whitened else "normalised",
        mean=ds.manifest.pixels.mean,
        std=ds.manifest.pixels.std,
        classes=ds.classes,
    )
    files = {
        IMAGES: tensor_bytes(ds.inputs().numpy()),
        LABELS: tensor_bytes(labels if targets is None else targets.astype(np.float32)),
        SIDECAR: (json.dumps(plain(sidecar), indent=2) + "\n").encode(),
    }
    lost = ["the whitening: the images are whitened, and the matrix is in none of these files"] if whitened else []
    lost += small
    if targets is not None and (other := int((targets.argmax(1) != labels).sum())):
        lost.append(f"{other} hard labels: the largest logit of those images is another class's")
    if recipe.steps:
        lost.append(f"one learning rate for all: {RATE} is not written")
    else:
        files[RATE] = tensor_bytes(np.float32(recipe.learning_rate))
    form = "mtt" if targets is None else "datm"
    return Export(folder, files, (*lost, *losses_of(ds, form, "MTT's script", rate=recipe.learning_rate)))


@surroundings.own()
def import_mtt(
    files: MttFiles,
    *,
    pixels: Pixels | None = None,
    classes: Sequence[str] | None = None,
    override: bool = False,
    soft: bool = False,
    source: str = "",
    recipe: Mapping[str, Any] | None = None,
) -> DistilledSet:
    """A set of the MTT family; `soft`: its labels are logits, as DATM learns them.

    Where `pixels` or `classes` are None, the sidecar (`normalisation.json`) must give them; with `override` they may
    contradict the sidecar, and replace what it says. The recipe is the family's evaluation at the learned rate, for
    images called `source` (digits are not mirrored), with the values of `recipe` in place of its own. Raises
    `UserError` for what is given nowhere, for what contradicts the sidecar, and for tensors of other dtypes or shapes.
    """
    sidecar = None if files.sidecar is None else read_sidecar(files.sidecar)
    if sidecar is not None and not override:
        for problem in _contradictions(sidecar, pixels, classes):
            raise UserError(
                f"{files.sidecar}: {problem}; leave the option out, or give {Option('override', True)} if the file is "
                "wrong"
            )
    pixels = pixels or _pixels_of(files, sidecar)
    if classes is None and sidecar is None:
        raise UserError(
            f"{files.labels}: says no names of classes; give {Option('data', 'NAME')}, whose classes they are, or "
            f"{Option('classes', 'a,b,c')}"
        )
    given = dict(recipe or {})
    if "learning_rate" not in given:
        given["learning_rate"] = _rate(files)
    own = recipe_of_format("datm" if soft else "mtt", source=source)
    images = read_tensor(files.images, "float32", dims=4)
    labels, logits = _read_labels(files.labels, soft=soft)
    if classes is not None and logits is None and labels.max() != len(classes) - 1:
        raise UserError(f"{files.labels}: labels run to {labels.max()}, and {len(classes)} classes are named")
    manifest = Manifest(
        classes=tuple(classes) if classes is not None else sidecar.classes if sidecar is not None else (),
        pixels=pixels,
        targets="logits" if soft else "none",
        recipe=changed_recipe(own, given, source),
    )
    return checked_set(files.images, images, labels, manifest, logits)


def read_sidecar(path: Path) -> Sidecar:
    """The content of a `normalisation.json`; raises `UserError` for a file with other content."""
    try:
        content = json.loads(read_bytes(path, store.SET.header_bytes))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return decode(Sidecar, content, where=str(path))


def _contradictions(sidecar: Sidecar, pixels: Pixels | None, classes: Sequence[str] | None) -> Iterator[str]:
    """How `pixels` and `classes` differ from the sidecar, in words; numbers may be rounded to three places."""
    if classes is not None and tuple(classes) != sidecar.classes:
        pairs = zip_longest(sidecar.classes, classes, fillvalue="nothing")
        index, theirs, given = next((index, *pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
        yield f"says that class {index} is '{theirs}', and the names that are given have '{given}' there"
    if pixels is None:
        return
    if pixels.space != sidecar.space:
        yield f"says that the pixels are {sidecar.space}, and they are given as {pixels.space}"
    for name, theirs, given in (("mean", sidecar.mean, pixels.mean), ("std", sidecar.std, pixels.std)):
        if len(theirs) != len(given) or not np.allclose(theirs, given, rtol=0, atol=1e-3):
            yield f"says {name} {_listed(theirs)}, and {_listed(given)} is given"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _pixels_of(files: MttFiles, sidecar: Sidecar | None) -> Pixels:
    if sidecar is None:
        known = ", ".join(f"{name} ({statistics.meaning})" for name, statistics in STATISTICS.items())
        raise UserError(
            f"{files.images}: does not say what its pixels were normalised with, and with another mean and std a "
            f"network is right by chance only; give {Option('mean')} and {Option('std')}, or "
            f"{Option('like', 'NAME')}: {known}"
        )
    if sidecar.space == "whitened":
        raise UserError(f"{files.sidecar}: the images are whitened (ZCA), and the matrix is in none of the files")
    return decode(Pixels, sidecar.model_dump(mode="json", exclude={"classes"}), where=str(files.sidecar))


def _rate(files: MttFiles) -> float:
    if files.rate is None:
        raise UserError(
            f"{files.images}: no {RATE} is beside it, and a set needs the learning rate that was learned with it; "
            f"give {Option('lr', 'FILE.pt')}, or {Option('recipe.learning_rate', 0.01)}"
        )
    rate = read_tensor(files.rate, "float32", "float64", dims=0)
    return float(str(rate[()]))  # the shortest number that is this float32: 0.01, and not 0.009999999776


def _read_labels(path: Path, *, soft: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(labels, logits if `soft`)."""
    if not soft:
        return read_tensor(path, "int64", dims=1, advice=f"for logits: {Option('format', 'datm')}"), None
    logits = read_tensor(path, "float32", dims=2, advice=f"for hard labels: {Option('format', 'mtt')}")
    return logits.argmax(1), logits
