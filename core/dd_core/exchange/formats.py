"""Distilled sets for other people's code, and sets from it: their files, and what these cannot say.

    challenge   the ECCV-2024 Dataset Distillation Challenge: one tensor, ten rows a class, normalised
    mtt, datm   MTT (Cazenavette et al. 2022) and its family: images, labels or logits, learned rate; a tensor each
    png         images in class folders, for anything; `folder:PATH` reads them

An export names what its format has no place for. An import asks for what the files do not say: the names of the
classes, and what the pixels were normalised with. Without that, a network trained on them is right by chance only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dd_core import store, surroundings
from dd_core.config import Config, decode, difference, plain
from dd_core.datasets.folder_names import class_name, is_passed_over
from dd_core.distilled import IMAGENET, DistilledSet, Manifest, Pixels
from dd_core.errors import UserError, unknown_name
from dd_core.evaluation import protocols
from dd_core.evaluation.protocols.challenge import CHALLENGE
from dd_core.exchange.torch_tensors import read_bytes, read_tensor, tensor_bytes
from dd_core.recipe import Recipe

IMAGES, LABELS, RATE = "images_best.pt", "labels_best.pt", "lr_best.pt"
SIDECAR = "normalisation.json"  # ours, beside those of the MTT family


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


class _Challenge(NamedTuple):
    file: str
    classes: int
    side: int
    statistics: Statistics
    networks: tuple[str, ...]  # the evaluator's, as it may be spelled

    @property
    def shape(self) -> tuple[int, ...]:
        return _CHALLENGE_IPC * self.classes, 3, self.side, self.side


_CHALLENGE_IPC = 10
_CHALLENGES = (
    _Challenge("cifar100.pt", 100, 32, STATISTICS["cifar100"], ("convnet-3", "convnet")),
    _Challenge("tinyimagenet.pt", 200, 64, STATISTICS["imagenet"], ("convnet-3",)),
)


def _recipe(form: str, *, source: str = "") -> Recipe:
    """How the scripts of a format train, each by the protocol that is named after it."""
    protocol = {"datm": "datm-soft", "challenge": "challenge-2024"}.get(form, "mtt-1000")
    return protocols.load(protocol).recipe(Recipe(), source_name=source)


# --- out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """The bytes of each file below a folder, and in words what those files do not say.

    `alone`: another file in that folder would be taken for one of the set's.
    """

    folder: Path
    files: Mapping[str, bytes]
    lost: tuple[str, ...]
    alone: bool = True

    def write(self, *, fresh: bool = False) -> None:
        """Write every file atomically, as `write_files` does.

        Raises `UserError` for a `folder` that is a file, or holds others and must not.
        """
        with store.disk_errors(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise UserError(f"{self.folder}: is a file; --out is a folder for this format")
        paths = {self.folder / name: data for name, data in self.files.items()}
        if self.alone:
            found = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
            with store.disk_errors(self.folder):
                other = next((path for path in found if path not in paths), None)
            if other is not None:
                raise UserError(f"{other}: is none of this set's files, and would seem to be; use another --out")
        write_files(paths, fresh=fresh)


def write_files(files: Mapping[Path, bytes], *, fresh: bool = False) -> None:
    """Write each file atomically; one that holds these bytes is left alone, another is replaced only if `fresh`.

    Raises `UserError` for such a one before anything is written.
    """
    there = {path for path, data in files.items() if _holds(path, data)}
    for path in files:
        if path.exists() and path not in there and not fresh:
            raise UserError(f"{path}: something else is there; use another --out, or --fresh to replace it")
    for path, data in files.items():
        if path not in there:
            store.write_bytes(path, data)


def _holds(path: Path, data: bytes) -> bool:
    with store.disk_errors(path):
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


@surroundings.own()
def export_challenge(ds: DistilledSet, folder: Path) -> Export:
    """`cifar100.pt` or `tinyimagenet.pt`, whichever the set is: its images, normalised, class after class.

    Raises `UserError` for a set of another size, and for one with learned targets, which cannot be delivered.
    """
    labels = _labels(ds, "challenge")
    shape = ds.images.shape[1:]
    theirs = next((one for one in _CHALLENGES if (one.classes, one.shape[1:]) == (len(ds.classes), shape)), None)
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
    lost = (order, *whitened, *_lost(ds, "challenge", "the evaluator", networks=theirs.networks))
    return Export(folder, files, lost, alone=False)


@surroundings.own()
def export_mtt(ds: DistilledSet, folder: Path) -> Export:
    """`images_best.pt` (what a network is fed), `labels_best.pt` (labels, or logits) and `lr_best.pt`.

    Beside them `normalisation.json` says what they do not: what the pixels are, and the names of the classes. Raises
    `UserError` for targets that are no logits.
    """
    labels, targets, recipe = _labels(ds, "mtt"), ds.targets, ds.manifest.recipe
    if ds.manifest.targets not in ("none", "logits"):
        raise UserError(f"the MTT family stores labels or logits, and this set's targets are '{ds.manifest.targets}'")
    whitened = ds.whitening is not None
    said = _Sidecar(
        space="whitened" if whitened else "normalised",
        mean=ds.manifest.pixels.mean,
        std=ds.manifest.pixels.std,
        classes=ds.classes,
    )
    files = {
        IMAGES: tensor_bytes(ds.inputs().numpy()),
        LABELS: tensor_bytes(labels if targets is None else targets.astype(np.float32)),
        SIDECAR: (json.dumps(plain(said), indent=2) + "\n").encode(),
    }
    lost = ["the whitening: the images are whitened, and the matrix is in none of these files"] if whitened else []
    if targets is not None and (other := int((targets.argmax(1) != labels).sum())):
        lost.append(f"{other} hard labels: the largest logit of those images is another class's")
    if recipe.steps:
        lost.append(f"one learning rate for all: {RATE} is not written")
    else:
        files[RATE] = tensor_bytes(np.float32(recipe.learning_rate))
    form = "mtt" if targets is None else "datm"
    return Export(folder, files, (*lost, *_lost(ds, form, "such a script", rate=recipe.learning_rate)))


@surroundings.own()
def export_png(ds: DistilledSet, folder: Path) -> Export:
    """`CLASS/00000.png` and so on, 8 bits a value: what `folder:PATH` reads.

    `folder:PATH` keeps a fifth of each class for testing, unless PATH has these folders in `train` and real images in
    `test`. Raises `UserError` for images that are neither grey nor colour, and for classes that cannot be folders.
    """
    labels = _labels(ds, "png")
    if ds.images.shape[1] not in (1, 3):
        raise UserError(f"PNG files are written with 1 or 3 channels, and these images have {ds.images.shape[1]}")
    for name in ds.classes:
        _check_folder_name(name)
        if ds.classes.count(name) > 1:
            raise UserError(f"two classes are called '{name}', and cannot be two folders")
    values = np.rint(np.clip(ds.raw(), 0, 1) * 255).astype(np.uint8)
    files = {
        f"{name}/{index:05d}.png": _png(values[row])
        for label, name in enumerate(ds.classes)
        for index, row in enumerate(np.flatnonzero(labels == label))
    }
    return Export(folder, files, tuple(_lost_in_png(ds, labels)))


EXPORTS: Mapping[str, Callable[[DistilledSet, Path], Export]] = {
    "challenge": export_challenge,
    "mtt": export_mtt,
    "png": export_png,
}


def _labels(ds: DistilledSet, form: str) -> np.ndarray:
    if ds.labels is None or ds.manifest.task != "classification":
        raise UserError(f"format '{form}' is for classification sets, and this one is {ds.manifest.task}")
    return ds.labels


def _png(values: np.ndarray) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _check_folder_name(name: str) -> None:
    """Raise `UserError` for what no file system takes, and for what `folder:PATH` would pass over or call otherwise."""
    if "/" in name or not name.isprintable() or name in ("", ".", "..") or len(name.encode()) > 255:
        raise UserError(f"class {name[:60]!r} cannot be a folder; give it another name first")
    if is_passed_over(name):
        raise UserError(f"class {name[:60]!r}: folder:PATH passes over such folders; give it another name first")
    if class_name(name) != name:
        raise UserError(f"class {name[:60]!a} is not in Unicode's composed form (NFC); give it another name first")


def _lost(
    ds: DistilledSet, form: str, who: str, *, rate: float = 0.01, networks: Sequence[str] = ("convnet",)
) -> list[str]:
    """What somebody who trains as the format's scripts do does not learn of a set, in words."""
    ours = ds.manifest.recipe
    theirs = _recipe(form).model_copy(update={"learning_rate": rate})
    if ours.network in networks:
        theirs = theirs.model_copy(update={"network": ours.network})
    lost = [f"the learned order and rates of {len(ours.steps)} steps"] if ours.steps else []
    if changes := difference(plain(ours.model_copy(update={"steps": ()})), plain(theirs)):
        lost.append(f"the recipe: {who} trains in its own way ({'; '.join(changes)})")
    return lost + _lost_by_all(ds)


def _lost_in_png(ds: DistilledSet, labels: np.ndarray) -> list[str]:
    recipe, raw, lost = ds.manifest.recipe, ds.raw(), list[str]()
    if ds.images.dtype != np.uint8:
        outside = int((np.abs(raw - raw.clip(0, 1)) > 0.5 / 255).sum())
        lost.append(
            f"all but 8 bits of a value, and {outside:,} of {raw.size:,} values outside [0, 1], which are clipped"
        )
    if ds.targets is not None:
        lost.append(f"the targets ('{ds.manifest.targets}') of {len(ds)} images")
    rates = f"{len(recipe.steps)} learned steps" if recipe.steps else f"learning rate {recipe.learning_rate:g}"
    lost.append(f"the recipe ({rates}, augmentation '{recipe.augmentation}'), and the mean and std of its inputs")
    if ds.whitening is not None:
        lost.append("the whitening")
    used = [name for label, name in enumerate(ds.classes) if (labels == label).any()]
    if len(used) < len(ds.classes):
        lost.append(f"{len(ds.classes) - len(used)} classes without an image")
    if used != sorted(used):
        lost.append("the order of the classes: folders are read by name")
    return lost + _lost_by_all(ds)


def _lost_by_all(ds: DistilledSet) -> list[str]:
    made, attack = ds.manifest.provenance, ds.manifest.attack
    lost = [] if attack is None else [f"that '{attack[0]}' is to be taken for '{attack[1]}'"]
    return lost if made is None else [*lost, f"where it came from: {made.source}, {made.method}, seed {made.seed}"]


# --- in ------------------------------------------------------------------------------------------------------

IMPORTS = ("mtt", "datm", "challenge")


class _Sidecar(Config):
    """What `normalisation.json` says."""

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
        """Those that a run leaves as its best; raises `UserError` where `folder` is none."""
        if not folder.is_dir():
            raise UserError(
                f"{folder}: not a folder with {IMAGES} and {LABELS}; for other names: --images and --labels"
            )
        rate, sidecar = (folder / name if (folder / name).exists() else None for name in (RATE, SIDECAR))
        return MttFiles(folder / IMAGES, folder / LABELS, rate, sidecar)


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

    What `pixels` and `classes` leave open, the sidecar (`normalisation.json`) must say. With `override` they count
    where the sidecar says otherwise. The recipe is the family's evaluation at the learned rate, for images called
    `source` (digits are not mirrored), with the values of `recipe` in place of its own. Raises `UserError` for what is
    not said, for what contradicts the sidecar, and for files that are not what they should be.
    """
    said = None if files.sidecar is None else _sidecar(files.sidecar)
    if said is not None and not override:
        for problem in _contradictions(said, pixels, classes):
            raise UserError(
                f"{files.sidecar}: {problem}; leave the option out, or give --override if the file is wrong"
            )
    pixels = pixels or _pixels_said(files, said)
    if classes is None and said is None:
        raise UserError(
            f"{files.labels}: says no names of classes; give --data NAME, whose classes they are, or --classes a,b,c"
        )
    given = dict(recipe or {})
    if "learning_rate" not in given:
        given["learning_rate"] = _rate(files)
    own = _recipe("datm" if soft else "mtt", source=source)
    images = read_tensor(files.images, "float32", dims=4)
    labels, logits = _read_labels(files.labels, soft=soft)
    if classes is not None and logits is None and labels.max() != len(classes) - 1:
        raise UserError(f"{files.labels}: labels run to {labels.max()}, and {len(classes)} classes are named")
    manifest = Manifest(
        classes=tuple(classes) if classes is not None else said.classes if said is not None else (),
        pixels=pixels,
        targets="logits" if soft else "none",
        recipe=_changed(own, given, source),
    )
    return _made(files.images, images, labels, manifest, logits)


@surroundings.own()
def import_challenge(path: Path, *, classes: Sequence[str], recipe: Mapping[str, Any] | None = None) -> DistilledSet:
    """A submission: `cifar100.pt`, `tinyimagenet.pt`, or a folder with one of them; its shape says which it is.

    The recipe is the evaluator's, with the values of `recipe` in place of its own. Raises `UserError` for another file.
    """
    if os.path.isdir(path):
        there = [path / one.file for one in _CHALLENGES if (path / one.file).exists()]
        if len(there) != 1:
            names = " and ".join(one.file for one in _CHALLENGES)
            raise UserError(f"{path}: has {'both' if there else 'neither'} of {names}; name the file")
        (path,) = there
    images = read_tensor(path, "float32", dims=4)
    theirs = next((one for one in _CHALLENGES if one.shape == images.shape), None)
    if theirs is None:
        shapes = " or ".join(str(one.shape) for one in _CHALLENGES)
        raise UserError(f"{path}: a submission is {shapes}, and this is {images.shape}")
    if len(classes) != theirs.classes:
        raise UserError(f"{path}: holds {theirs.classes} classes, and {len(classes)} are named")
    manifest = Manifest(
        classes=tuple(classes),
        pixels=Pixels(space="normalised", mean=theirs.statistics.mean, std=theirs.statistics.std),
        recipe=_changed(_recipe("challenge"), recipe or {}, ""),
    )
    return _made(path, images, np.arange(len(images)) // _CHALLENGE_IPC, manifest)


def pixels_like(name: str, *, space: Literal["raw", "normalised"] = "normalised") -> Pixels:
    """Pixels by the statistics called `name`; raises `UserError` for an unknown name."""
    if name not in STATISTICS:
        raise unknown_name("statistics", name, STATISTICS)
    return Pixels(space=space, mean=STATISTICS[name].mean, std=STATISTICS[name].std)


def _sidecar(path: Path) -> _Sidecar:
    try:
        found = json.loads(read_bytes(path, store.SET.header_bytes))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return decode(_Sidecar, found, where=str(path))


def _contradictions(said: _Sidecar, pixels: Pixels | None, classes: Sequence[str] | None) -> Iterator[str]:
    """Where what is given differs from what the sidecar says, in words; numbers may be rounded to three places."""
    if classes is not None and tuple(classes) != said.classes:
        pairs = zip_longest(said.classes, classes, fillvalue="nothing")
        index, theirs, given = next((index, *pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
        yield f"says that class {index} is '{theirs}', and the names that are given have '{given}' there"
    if pixels is None:
        return
    if pixels.space != said.space:
        yield f"says that the pixels are {said.space}, and they are given as {pixels.space}"
    for name, theirs, given in (("mean", said.mean, pixels.mean), ("std", said.std, pixels.std)):
        if len(theirs) != len(given) or not np.allclose(theirs, given, rtol=0, atol=1e-3):
            yield f"says {name} {_listed(theirs)}, and {_listed(given)} is given"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _pixels_said(files: MttFiles, said: _Sidecar | None) -> Pixels:
    if said is None:
        known = ", ".join(f"{name} ({one.meaning})" for name, one in STATISTICS.items())
        raise UserError(
            f"{files.images}: does not say what its pixels were normalised with, and with another mean and std a "
            f"network is right by chance only; give --mean and --std, or --like NAME: {known}"
        )
    if said.space == "whitened":
        raise UserError(f"{files.sidecar}: the images are whitened (ZCA), and the matrix is in none of the files")
    return decode(Pixels, said.model_dump(mode="json", exclude={"classes"}), where=str(files.sidecar))


def _rate(files: MttFiles) -> float:
    if files.rate is None:
        raise UserError(
            f"{files.images}: no {RATE} is beside it, and a set is good at the learning rate that was learned with it; "
            "give --lr FILE.pt, or --set recipe.learning_rate=0.01"
        )
    rate = read_tensor(files.rate, "float32", "float64", dims=0)
    return float(str(rate[()]))  # the shortest number that is this float32: 0.01, and not 0.009999999776


def _read_labels(path: Path, *, soft: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(labels, logits if `soft`)."""
    if not soft:
        return read_tensor(path, "int64", dims=1, advice="for logits: --format datm"), None
    logits = read_tensor(path, "float32", dims=2, advice="for hard labels: --format mtt")
    return logits.argmax(1), logits


def _changed(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    return decode(Recipe, {**plain(recipe), **values}, key="recipe").for_source(source)


def _made(
    path: Path, images: np.ndarray, labels: np.ndarray, manifest: Manifest, logits: np.ndarray | None = None
) -> DistilledSet:
    try:
        return DistilledSet(images, labels, manifest, logits)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
