"""Image files to pixels, with Pillow: the one place that says what the pixels of a file are.

A cached folder and a streamed one both decode here, so that their pixels are identical. Orientation tags are
applied, transparency is laid on black, 16-bit grey is scaled to 8 bits, of an animation the first frame
counts. numpy and Pillow only: worker processes import this and must start quickly.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dd_core.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Named, so that a file with a harmless suffix never reaches a reader that starts other programs (EPS).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MAX_PIXELS = 89_478_485  # where Pillow starts to suspect a decompression bomb: 256 MB of RGB
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", "La", *_SIXTEEN_BITS)


class ImageFile(NamedTuple):
    """An image in a folder: its path relative to the folder (with /) and the sha256 of its bytes."""

    name: str
    sha256: str


class Header(NamedTuple):
    """What must be known of all images before they can share one shape; width and height as they are seen."""

    grey: bool
    width: int
    height: int


class Unreadable(Exception):
    """Why a file is not an image that can be used, in a few words."""


def examine(data: bytes) -> Header:
    """Decode in full, so that a truncated file is found out; raises `Unreadable`."""
    image = _open(data)
    grey = image.mode in _GREY
    _convert(image, channels=1 if grey else 3)
    return Header(grey, image.width, image.height)


def decode(data: bytes, *, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 (C, H, W): the shorter side resized (bicubic), then the centre cropped; raises `Unreadable`."""
    channels, height, width = shape
    image = _convert(_open(data), channels=channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def decode_file(folder: Path, file: ImageFile, *, shape: tuple[int, int, int]) -> np.ndarray:
    """`decode` of a file, which must still have its sha256; raises `UserError` naming it."""
    path = folder / file.name
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise Unreadable("its content changed since it was examined; touch it and run again")
        return decode(data, shape=shape)
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno or 0)}") from None
    except Unreadable as reason:
        raise UserError(f"{path}: {reason}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings about odd metadata. Not within a thread: filters belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _MAX_PIXELS:
            raise Unreadable(f"{image.width} x {image.height} pixels; the limit is {_MAX_PIXELS:,} in all")
        if image.mode == "F":
            raise Unreadable("floating-point pixels have no known white; save it with 8 or 16 bits")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image, whatever its name says" if data else "empty file") from None
    except Exception as error:  # on a damaged file Pillow's parsers raise nearly everything
        raise Unreadable(str(error).partition("\n")[0][:200] or type(error).__name__) from None


def _convert(image: Image.Image, *, channels: int) -> Image.Image:
    """As mode L or RGB."""
    try:
        if image.mode in _SIXTEEN_BITS:
            wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
        elif image.has_transparency_data:
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image.convert("RGBA"))
        return image.convert("L" if channels == 1 else "RGB")
    except ValueError as error:
        raise Unreadable(f"pixels of mode {image.mode} cannot be converted ({error})") from None
