"""PNG files in class folders, for any program; `folder:PATH` reads them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dd_core.datasets.folder_names import class_name, is_passed_over
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.exchange.formats import Export, as_seen, losses_of_all
from dd_core.system import surroundings


@surroundings.own()
def export_png(ds: DistilledSet, folder: Path) -> Export:
    """`CLASS/00000.png` and so on, 8 bits a value: what `folder:PATH` reads; `00000.png` of a set without labels.

    `folder:PATH` keeps a fifth of each class for testing, unless PATH has these folders in `train` and real images in
    `test`. Raises `UserError` for images that are neither grey nor colour, and for classes that cannot be folders.
    """
    ds, small = as_seen(ds)
    if ds.images.shape[1] not in (1, 3):
        raise UserError(f"PNG files are written with 1 or 3 channels, and these images have {ds.images.shape[1]}")
    for name in ds.classes:
        _check_folder_name(name)
        if ds.classes.count(name) > 1:
            raise UserError(f"two classes are called '{name}', and would share a folder; rename one first")
    values = np.rint(np.clip(ds.raw(), 0, 1) * 255).astype(np.uint8)
    if ds.labels is None:
        plain_files = {f"{row:05d}.png": _png(image) for row, image in enumerate(values)}
        return Export(folder, plain_files, (*small, *_lost_in_png(ds)))
    files = {
        f"{name}/{index:05d}.png": _png(values[row])
        for label, name in enumerate(ds.classes)
        for index, row in enumerate(np.flatnonzero(ds.labels == label))
    }
    return Export(folder, files, (*small, *_lost_in_png(ds)))


def _png(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _check_folder_name(name: str) -> None:
    """Raise `UserError` for a class name that file systems refuse, or that `folder:PATH` passes over or changes."""
    if "/" in name or not name.isprintable() or name in ("", ".", "..") or len(name.encode()) > 255:
        raise UserError(f"class {name[:60]!r} cannot be a folder; give it another name first")
    if is_passed_over(name):
        raise UserError(f"class {name[:60]!r}: folder:PATH passes over such folders; give it another name first")
    if class_name(name) != name:
        raise UserError(f"class {name[:60]!a} is not in Unicode's composed form (NFC); give it another name first")


def _lost_in_png(ds: DistilledSet) -> list[str]:
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
    used = [name for label, name in enumerate(ds.classes) if ds.labels is not None and (ds.labels == label).any()]
    if len(used) < len(ds.classes):
        lost.append(f"{len(ds.classes) - len(used)} classes without an image")
    if used != sorted(used):
        lost.append("the order of the classes: folders are read in the order of their names")
    return lost + losses_of_all(ds)
