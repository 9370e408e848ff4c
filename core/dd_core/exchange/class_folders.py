"""SRe2L's layout (Yin, Xing and Shen 2023): a folder for each class by its number, of JPEG files that its scripts read.

    new000/class000_id000.jpg  new000/class000_id001.jpg  new001/class001_id000.jpg

CDA, RDED and their successors read the same layout: sorted class folders with images of one size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dd_core import store
from dd_core.datasets.decoding import Unreadable, decode, examine
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.evaluation import protocols
from dd_core.exchange.formats import Export, as_seen, changed_recipe, checked_set, labels_of, losses_of_all, read_bytes
from dd_core.recipe import Recipe
from dd_core.system import surroundings

QUALITY = 95  # of JPEG, without chroma subsampling
FILE_BYTES = 64 << 20  # of the largest image file that is read


@surroundings.own()
def export_sre2l(ds: DistilledSet, folder: Path) -> Export:
    """`new000/class000_id000.jpg` and so on; raises `UserError` for images that are neither grey nor colour."""
    ds, small = as_seen(ds)
    labels = labels_of(ds, "sre2l")
    if ds.images.shape[1] not in (1, 3):
        raise UserError(f"JPEG files are written with 1 or 3 channels, and these images have {ds.images.shape[1]}")
    values = np.rint(np.clip(ds.raw(), 0, 1) * 255).astype(np.uint8)
    files = {
        f"new{label:03d}/class{label:03d}_id{index:03d}.jpg": _jpeg(values[row])
        for label in range(len(ds.classes))
        for index, row in enumerate(np.flatnonzero(labels == label))
    }
    lost = [
        f"what JPEG of quality {QUALITY} rounds away",
        "the names of the classes: the folders have their numbers",
    ]
    lost.append("the recipe, and the mean and std of its inputs")
    if ds.targets is not None:
        lost.append(f"the targets ('{ds.manifest.targets}') of {len(ds)} images")
    if ds.whitening is not None:
        lost.append("the whitening")
    return Export(folder, files, (*small, *lost, *losses_of_all(ds)))


def _jpeg(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


@surroundings.own()
def import_sre2l(
    path: Path, *, pixels: Pixels, classes: Sequence[str], recipe: Mapping[str, Any] | None = None, source: str = ""
) -> DistilledSet:
    """The images of class folders below `path`, in the order of their numbers or else of their names.

    pixels: mean and std of networks' inputs; the recipe is that of protocol `sre2l-fkd` without its teacher, with the
    values of `recipe` in place of its own. Raises `UserError` for another number of folders than `classes`, for a file
    that is no image, and for images of several sizes.
    """
    with store.disk_errors(path):
        folders = sorted((entry for entry in path.iterdir() if entry.is_dir()), key=_place)
    if len(folders) != len(classes):
        raise UserError(f"{path}: has {len(folders)} class folders, and {len(classes)} classes are named")
    images: list[np.ndarray] = []
    labels: list[int] = []
    shape: tuple[int, int, int] | None = None
    for label, folder in enumerate(folders):
        with store.disk_errors(folder):
            files = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        for file in files:
            image = _image(file, shape)
            shape = (image.shape[0], image.shape[1], image.shape[2])
            images.append(image)
            labels.append(label)
    if not images:
        raise UserError(f"{path}: its class folders hold no image")
    own = protocols.load("hard").recipe(Recipe(), source_name=source)
    manifest = Manifest(
        classes=tuple(classes),
        pixels=pixels.model_copy(update={"space": "raw"}),
        recipe=changed_recipe(own, recipe or {}, source),
    )
    return checked_set(path, np.stack(images), np.array(labels), manifest)


def _place(folder: Path) -> tuple[int, str]:
    number = re.fullmatch(r"\D*(\d{1,9})", folder.name)
    return (int(number[1]) if number else 0, folder.name)


def _image(file: Path, shape: tuple[int, int, int] | None) -> np.ndarray:
    """uint8 (C, H, W); `shape` is that of the images before."""
    data = read_bytes(file, FILE_BYTES)
    try:
        header = examine(data)
        own = (1 if header.grey else 3, header.height, header.width)
        if shape is not None and own != shape:
            raise UserError(f"{file}: is {_form(own)}, and the images before are {_form(shape)}")
        return decode(data, shape=own)
    except Unreadable as reason:
        raise UserError(f"{file}: {reason}") from None


def _form(shape: tuple[int, int, int]) -> str:
    return f"{'grey' if shape[0] == 1 else 'colour'} of {shape[2]} x {shape[1]} pixels"
