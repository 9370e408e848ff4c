"""Real images by name: scikit-learn's digits, torchvision's data sets, and `folder:PATH`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dd_core.artefacts import cache_folder
from dd_core.errors import UserError, unknown_name
from dd_core.parallel import Workers

if TYPE_CHECKING:
    from torch import Tensor

    from dd_core.images import LabelledImages, Source

Split = Literal["train", "test"]

DATASETS = {
    "digits": "1,797 grey 8x8 handwritten digits, 10 classes; comes with scikit-learn, needs no network",
    "mnist": "70,000 grey 28x28 handwritten digits, 10 classes",
    "fashion-mnist": "70,000 grey 28x28 articles of clothing, 10 classes",
    "kmnist": "70,000 grey 28x28 cursive Japanese characters, 10 classes",
    "usps": "9,298 grey 16x16 digits from envelopes, 10 classes",
    "cifar10": "60,000 colour 32x32 photographs, 10 classes",
    "cifar100": "60,000 colour 32x32 photographs, 100 classes",
    "svhn": "99,289 colour 32x32 house numbers, 10 classes",
    "stl10": "13,000 labelled colour 96x96 photographs, 10 classes",
    "folder:PATH": "your own images: one folder a class, or train/ and test/ (or val/) with such folders",
}
_HELD_OUT = 0.2  # of each class of the digits, which have no test split of their own


def load(
    name: str,
    *,
    split: Split = "train",
    image_size: int | None = None,
    skip_corrupt: bool = False,
    memory_limit: int = 2 * 2**30,
    workers: Workers | None = None,
    root: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Source:
    """The images of a data set: uint8 (N, C, H, W), `image_size` pixels square where that is given.

    `memory_limit` is in bytes of pixels, and a folder above it streams. Downloads go to `root`, else to
    `$DD_APPS_DATA`, else to the cache. Raises `UserError` for an unknown name, a data set that is neither
    there nor to be had, and whatever is wrong with a folder.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size is in pixels, at least 1, not {image_size}")
    if name.startswith("folder:"):
        from dd_core import folders

        return folders.load(
            _folder_path(name),
            split=split,
            image_size=image_size,
            skip_corrupt=skip_corrupt,
            memory_limit=memory_limit,
            workers=workers or Workers(count=min(8, os.cpu_count() or 1)),
            progress=progress or _silent,
        )
    images = _named(name, split, root)
    return images if image_size is None else _resized(images, image_size, memory_limit)


def _folder_path(name: str) -> Path:
    path = name.removeprefix("folder:")
    if not path:
        raise UserError("folder: needs a path, such as folder:my/images")
    return Path(path).expanduser()


def _silent(_: str) -> None:
    """Tell nobody."""


def _named(name: str, split: Split, root: Path | None) -> LabelledImages:
    if name not in DATASETS or name == "folder:PATH":
        if Path(name).is_dir():
            raise UserError(f"unknown data set '{name}'; for the images in that folder: folder:{name}")
        raise unknown_name("data set", name, DATASETS)
    if name == "digits":
        return _digits(split)
    from dd_core import downloads

    given = root or os.environ.get("DD_APPS_DATA") or cache_folder() / "data"
    return downloads.load(name, split=split, root=Path(given).expanduser())


def _digits(split: Split) -> LabelledImages:
    """scikit-learn's digits: grey levels 0 to 16, spread over 0 to 255; a fifth of each class is the test split."""
    import torch
    from sklearn.datasets import load_digits

    from dd_core.images import LabelledImages

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels * 255 / 16).round().astype("uint8")).view(-1, 1, 8, 8)
    names = tuple(str(digit) for digit in range(10))
    whole = LabelledImages(images, torch.from_numpy(labels).to(torch.int64), names, "digits")
    rest, held_out = whole.split(_HELD_OUT, seed=0)
    return rest if split == "train" else held_out


def _resized(source: LabelledImages, side: int, memory_limit: int) -> LabelledImages:
    """Every image `side` x `side`, bicubic; raises `UserError` where that would not fit into memory."""
    import torch

    from dd_core.images import LabelledImages

    count, channels, *size = source.images.shape
    if size == [side, side]:
        return source
    if count * channels * side * side > memory_limit:
        gibi = count * channels * side * side / 2**30
        raise UserError(
            f"{source.name} at --image-size {side} is {gibi:.1f} GiB, above the limit of "
            f"{memory_limit / 2**30:.1f} GiB; choose a smaller size"
        )
    images = torch.empty(count, channels, side, side, dtype=torch.uint8)
    for target, image in zip(images, source.images, strict=True):
        target[:] = _resize(image, side)
    return LabelledImages(images, source.labels, source.classes, source.name)


def _resize(image: Tensor, side: int) -> Tensor:
    """uint8 (C, H, W) -> (C, side, side), channel by channel."""
    import numpy as np
    import torch
    from PIL import Image

    planes = [Image.fromarray(plane.numpy()).resize((side, side), Image.Resampling.BICUBIC) for plane in image]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
