"""Named data sets as images in memory: scikit-learn's digits, torchvision's data sets, and resized copies of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dd_core.datasets import torchvision_files
from dd_core.datasets.torchvision_files import DIGITS, HOMES
from dd_core.errors import Option, UserError
from dd_core.images import LabelledImages

_HELD_OUT = 0.2  # of each class of the digits, which have no test split of their own


def digits(split: str) -> LabelledImages:
    """scikit-learn's digits: grey levels 0 to 16, spread over 0 to 255; a fifth of each class is the test split."""
    from sklearn.datasets import load_digits  # takes a second to import, and no other data set needs it

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels * 255 / 16).round().astype("uint8")).view(-1, 1, 8, 8)
    whole = LabelledImages(images, torch.from_numpy(labels).to(torch.int64), DIGITS, "digits")
    rest, held_out = whole.split(_HELD_OUT, seed=0)
    return rest if split == "train" else held_out


def of_torchvision(name: str, split: str, root: Path) -> LabelledImages:
    """A data set of torchvision's from the files below `root`; raises `UserError` where it cannot be got."""
    return _converted(name, torchvision_files.opened(name, split, root))


def _converted(name: str, dataset: Any) -> LabelledImages:
    pixels = np.asarray(dataset.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, dtype=np.int64)
    classes = HOMES[name].classes or tuple(dataset.classes)
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return LabelledImages(images, torch.from_numpy(labels), classes, name)


def resized(source: LabelledImages, side: int, memory_limit: int) -> LabelledImages:
    """Every image at `side` x `side` pixels, bicubic; raises `UserError` above `memory_limit` bytes of pixels."""
    count, channels, *size = source.images.shape
    if size == [side, side]:
        return source
    if count * channels * side * side > memory_limit:
        gibi = count * channels * side * side / 2**30
        raise UserError(
            f"{source.name} at {Option('image_size', side)} is {gibi:.1f} GiB, above the limit of "
            f"{memory_limit / 2**30:.1f} GiB; choose a smaller size"
        )
    images = torch.empty(count, channels, side, side, dtype=torch.uint8)
    for target, image in zip(images, source.images, strict=True):
        target[:] = _resize(image, side)
    return LabelledImages(images, source.labels, source.classes, source.name)


def _resize(image: Tensor, side: int) -> Tensor:
    """uint8 (C, H, W) -> (C, side, side), channel by channel."""
    planes = [Image.fromarray(plane.numpy()).resize((side, side), Image.Resampling.BICUBIC) for plane in image]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
