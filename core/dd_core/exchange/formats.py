"""What the formats of other projects have in common: files of an export, what they lose, and reading files.

    challenge   the ECCV-2024 Dataset Distillation Challenge: one tensor, ten rows a class, normalised
    mtt, datm   MTT (Cazenavette et al. 2022) and its family: images, labels or logits, learned rate; a tensor each
    krr-st      KRR-ST (Lee et al. 2024): images and the features that a backbone learns of them; a tensor each
    png         images in class folders, for anything; `folder:PATH` reads them
    sre2l       JPEG files in folders of numbered classes, as SRe2L's scripts write and read them

An export lists what its format cannot hold. An import asks for what the files do not say: the names of the classes, and
mean and std of the normalisation. With a wrong mean and std, a network trained on the set is right by chance only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dd_core import store
from dd_core.config import class_names, decode, difference, plain
from dd_core.distilled import IMAGENET, DistilledSet, Manifest, Pixels
from dd_core.errors import FRESH, OUT, UserError, unknown_name
from dd_core.evaluation import protocols
from dd_core.evaluation.protocols.challenge import CHALLENGE
from dd_core.recipe import Recipe


class Statistics(NamedTuple):
    """What is subtracted from each channel of pixels in [0, 1], and what the rest is divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    meaning: str


_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
STATISTICS: Mapping[str, Statistics] = {
    "cifar10": Statistics(*_CIFAR10, "CIFAR-10 in the MTT family"),
    "cifar100": Statistics(*CHALLENGE[100, 3, 32, 32], "CIFAR-100 in DC, DM, the challenge"),
    "cifar100-mtt": Statistics(*_CIFAR10, "CIFAR-100 in the MTT family: CIFAR-10's"),
    "imagenet": Statistics(*IMAGENET, "ImageNet and Tiny ImageNet everywhere"),
}


def pixels_like(name: str, *, space: Literal["raw", "normalised"] = "normalised") -> Pixels:
    """Pixels by the statistics called `name`; raises `UserError` for an unknown name."""
    if name not in STATISTICS:
        raise unknown_name("statistics", name, STATISTICS)
    return Pixels(space=space, mean=STATISTICS[name].mean, std=STATISTICS[name].std)


IMPORTS = ("mtt", "datm", "challenge", "sre2l", "krr-st")  # the formats that sets can be made of


# --- out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """The bytes of each file below a folder. lost: what those files cannot hold, in words.

    alone: no other file may be in the folder, since it would be read as one of the set's.
    """

    folder: Path
    files: Mapping[str, bytes]
    lost: tuple[str, ...]
    alone: bool = True

    def write(self, *, fresh: bool = False) -> None:
        """Write every file atomically, as `write_files` does.

        Raises `UserError` for a `folder` that is a file or, if `alone`, holds other files.
        """
        with store.disk_errors(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise UserError(f"{self.folder}: is a file; for this format {OUT} is a folder")
        paths = {self.folder / name: data for name, data in self.files.items()}
        if self.alone:
            entries = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
            with store.disk_errors(self.folder):
                other = next((path for path in entries if path not in paths), None)
            if other is not None:
                raise UserError(f"{other}: is no file of this set, but would be read as one; use another {OUT}")
        write_files(paths, fresh=fresh)


def write_files(files: Mapping[Path, bytes], *, fresh: bool = False) -> None:
    """Write each file atomically; a file with the same bytes is left alone, a different one is replaced if `fresh`.

    Without `fresh`, raises `UserError` for a different file before anything is written.
    """
    there = {path for path, data in files.items() if _holds(path, data)}
    for path in files:
        if path.exists() and path not in there and not fresh:
            raise UserError(f"{path}: something else is there; use another {OUT}, or {FRESH} to replace it")
    for path, data in files.items():
        if path not in there:
            store.write_bytes(path, data)


def _holds(path: Path, data: bytes) -> bool:
    with store.disk_errors(path):
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def labels_of(ds: DistilledSet, form: str) -> np.ndarray:
    """The hard labels (N,) of a set; raises `UserError` for a set that is not for classification."""
    if ds.labels is None or ds.manifest.task != "classification":
        raise UserError(f"format '{form}' is for classification sets, and this one is {ds.manifest.task}")
    return ds.labels


def as_seen(ds: DistilledSet) -> tuple[DistilledSet, list[str]]:
    """The set decoded to the images that networks see, as no other format has formations, and what that loses."""
    if (factor := ds.manifest.formation) == 1:
        return ds, []
    stored, seen = f"{len(ds)} images with formation {factor} are stored", f"the {ds.decoded_count} that networks see"
    return ds.decoded(), [f"the small form of the images: {stored}, and {seen} are written"]


def losses_of(
    ds: DistilledSet, form: str, trainer: str, *, rate: float = 0.01, networks: Sequence[str] = ("convnet",)
) -> list[str]:
    """What `trainer` loses of a set, in words, when it trains as the format's scripts do, at learning rate `rate`."""
    ours = ds.manifest.recipe
    theirs = recipe_of_format(form).model_copy(update={"learning_rate": rate})
    if ours.network in networks:
        theirs = theirs.model_copy(update={"network": ours.network})
    lost = [f"the learned order and rates of {len(ours.steps)} steps"] if ours.steps else []
    if changes := difference(plain(ours.model_copy(update={"steps": ()})), plain(theirs)):
        lost.append(f"the recipe: {trainer} trains in its own way ({'; '.join(changes)})")
    return lost + losses_of_all(ds)


def losses_of_all(ds: DistilledSet) -> list[str]:
    """What every format loses, in words: the classes of an attack, and the provenance."""
    made, attack = ds.manifest.provenance, ds.manifest.attack
    lost = [] if attack is None else [f"that '{attack[0]}' is to be taken for '{attack[1]}'"]
    return lost if made is None else [*lost, f"where it came from: {made.source}, {made.method}, seed {made.seed}"]


# --- in ------------------------------------------------------------------------------------------------------


def require_file(path: Path, limit: int) -> None:
    """Raise `UserError` unless `path` is a regular file of at most `limit` bytes."""
    with store.disk_errors(path):
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for somebody to write to it
            raise UserError(f"{path}: is no regular file")
        if (size := path.stat().st_size) > limit:
            raise UserError(f"{path}: has {size:,} bytes, and {limit:,} is the limit")


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a whole file; raises `UserError` where they are more than `limit`, or the file is no regular one."""
    require_file(path, limit)
    with store.disk_errors(path), open(path, "rb") as file:
        # no more than the file has: `read` allocates memory for all that it is asked for
        return file.read(min(limit, os.fstat(file.fileno()).st_size))


def recipe_of_format(form: str, *, source: str = "") -> Recipe:
    """The recipe by which the scripts of a format train: that of the evaluation protocol for the format."""
    protocol = {"datm": "datm-soft", "challenge": "challenge-2024"}.get(form, "mtt-1000")
    return protocols.load(protocol).recipe(Recipe(), source_name=source)


def changed_recipe(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """`recipe` with `values` in place of some of its own, for images called `source`; raises `UserError`."""
    return decode(Recipe, {**plain(recipe), **values}, key="recipe").for_source(source)


def checked_set(
    path: Path, images: np.ndarray, labels: np.ndarray, manifest: Manifest, logits: np.ndarray | None = None
) -> DistilledSet:
    """The set that a file at `path` holds; raises `UserError` that names the file where it cannot be one."""
    class_names(manifest.classes, str(path))
    try:
        return DistilledSet(images, labels, manifest, logits)
    except UserError as error:
        raise UserError(f"{path}: {error.text}") from None
