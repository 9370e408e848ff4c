"""Image files to uint8 pixels, with Pillow. Nothing else decides what the pixels of a file are.

Cached and streamed folders both decode here, so that their pixels are identical. Orientation tags are applied,
transparency is laid on black, grey of up to 16 bits is scaled so that white is 255, 16-bit colour keeps its upper
byte, and an animation gives its first frame; samples whose white is not known are refused. Imports numpy and Pillow
only: worker processes import this and must start quickly.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dd_core.datasets.metadata import ORIENTATION, bare
from dd_core.errors import UserError

VERSION = 2  # in the names of cached pixels; raised where a file that was read gives other pixels than before
FEW_LEVELS = 32
# A fixed list, so that no file with a harmless suffix reaches a reader that starts other programs (EPS). TGA comes
# last: its files have no magic bytes.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP", "TGA")
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|....ftypavi[fs]|\0\0\0\x0cjP  |qoif",
    re.DOTALL,
)
_MAX_PIXELS = 89_478_485  # where Pillow starts to suspect a decompression bomb: 256 MB of RGB
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_STRIP_ROWS = 256


class ImageFile(NamedTuple):
    """An image in a folder: its path relative to the folder (with /) and the sha256 of its bytes."""

    name: str
    sha256: str


class Header(NamedTuple):
    """What decoding an image once tells: its size and colours, and what `folder_notes` reports of it.

    width, height: of the upright image. transparent: some pixel is not opaque. The other fields describe the pixels
    laid on black. constant: all have one colour. checksum: CRC-32. levels: the grey levels that occur, two hexadecimal
    digits each; empty for an image with colours or with more than `FEW_LEVELS` levels.
    """

    grey: bool
    width: int
    height: int
    transparent: bool
    constant: bool
    checksum: int
    levels: str


class Unreadable(Exception):
    """Why a file is not an image that can be used, in a few words."""


def examine(data: bytes) -> Header:
    """The header of an image, which is decoded in full, so that a truncated file is noticed; raises `Unreadable`."""
    opaque, transparent = _over_black(_open(data))
    grey = opaque.mode in ("1", "L")
    image = _convert(opaque, channels=1 if grey else 3)
    constant, levels = _few_colours(image)
    return Header(grey, image.width, image.height, transparent, constant, _checksum(image), levels.hex())


def decode(data: bytes, *, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 (C, H, W): the shorter side resized (bicubic), then the centre cropped; raises `Unreadable`."""
    channels, height, width = shape
    image = _convert(_over_black(_open(data))[0], channels=channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return _array(image)


def decode_whole(data: bytes, *, channels: int) -> np.ndarray:
    """uint8 (C, H, W) at the file's own size, upright; raises `Unreadable`."""
    return _array(_convert(_over_black(_open(data))[0], channels=channels))


def decode_file(folder: Path, file: ImageFile, *, shape: tuple[int, int, int]) -> np.ndarray:
    """`decode` of a file, which must still have its sha256; raises `UserError` naming it."""
    return _decoded_file(folder, file, partial(decode, shape=shape))


def decode_whole_file(folder: Path, file: ImageFile, *, channels: int) -> np.ndarray:
    """`decode_whole` of a file, which must still have its sha256; raises `UserError` naming it."""
    return _decoded_file(folder, file, partial(decode_whole, channels=channels))


def _decoded_file(folder: Path, file: ImageFile, pixels_of: Callable[[bytes], np.ndarray]) -> np.ndarray:
    path = folder / file.name
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise Unreadable("its content changed since it was examined; touch it and run again")
        return pixels_of(data)
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno or 0)}") from None
    except Unreadable as reason:
        raise UserError(f"{path}: {reason}") from None


def begins_as_image(start: bytes) -> bool:
    """Whether a file whose first 12 bytes are `start` says that it is an image, in a way that no text would."""
    return _MAGIC.match(start) is not None


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings about odd metadata. Not within a thread: filters belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- a file as Pillow reads it, upright and with 8 bits a sample -------------------------------------------------


def _open(data: bytes) -> Image.Image:
    """The image, upright, in one of Pillow's 8-bit modes; raises `Unreadable`."""
    try:
        stripped, orientation = bare(data)
        image = Image.open(BytesIO(stripped), formats=_FORMATS)
        if image.width * image.height > _MAX_PIXELS:
            raise Unreadable(f"{image.width} x {image.height} pixels; the limit is {_MAX_PIXELS:,} in all")
        tags: dict[int, Any] = dict(image.tag_v2) if image.format == "TIFF" else {}  # pyright: ignore[reportAttributeAccessIssue]
        _require_known_white(image, tags)
        image.load()
        if image.format == "PNG":
            _scale_transparent_level(image, depth=stripped[24])
        if image.format == "AVIF":
            orientation = image.getexif().get(ORIENTATION, orientation)
        if image.mode in _SIXTEEN_BITS:
            image = _eight_bits(image, tags)
        turn = _TURNS.get(orientation)
        return image if turn is None else image.transpose(turn)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(_not_an_image(data)) from None
    except Exception as error:  # on a damaged file Pillow's parsers raise nearly everything
        raise Unreadable(str(error).partition("\n")[0][:200] or type(error).__name__) from None


def _not_an_image(data: bytes) -> str:
    if begins_as_image(data[:12]):
        return "damaged, or of a kind that Pillow does not read"
    return "not an image, whatever its name says" if data else "empty file"


def _require_known_white(image: Image.Image, tags: dict[int, Any]) -> None:
    """Raise `Unreadable` for samples of which the file does not say what is black and what is white."""
    remedy = "save it with 8 or 16 bits, unsigned"
    bits = max(tags.get(_BITS, (1,)))
    if image.mode == "F":
        raise Unreadable(f"floating-point pixels have no known white; {remedy}")
    if 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise Unreadable(f"signed samples of {bits} bits have no known black and white; {remedy}")
    if bits > 16:
        raise Unreadable(f"samples of {bits} bits have no known white; {remedy}")
    if bits > 8 and tags.get(_PLANES) == 2 and image.mode not in _SIXTEEN_BITS:
        # Pillow reads such planes as if they had 8 bits, and returns noise
        raise Unreadable(f"colours of {bits} bits in separate planes are not read; save them interleaved")


def _scale_transparent_level(image: Image.Image, *, depth: int) -> None:
    """In a PNG's tRNS chunk levels have the file's bit depth; Pillow has scaled the pixels alone."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**depth - 1)
    if image.mode == "RGB" and depth == 16 and key is not None:
        raise Unreadable("16-bit colour with a transparent colour is not read; save it with an alpha channel")


def _eight_bits(image: Image.Image, tags: dict[int, Any]) -> Image.Image:
    """Grey of more than 8 bits as L, or LA where one level is transparent: white is 255, rounded to the nearest."""
    levels = np.asarray(image).astype(np.int64)
    white = 2 ** max(tags.get(_BITS, (16,))) - 1
    if tags.get(_PHOTOMETRIC) == 0:
        levels = white - levels
    eight = Image.fromarray(((levels * 255 * 2 + white) // (2 * white)).astype(np.uint8))
    if (key := image.info.get("transparency")) is not None:
        eight.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return eight


# --- to one background and one mode ------------------------------------------------------------------------------


def _over_black(image: Image.Image) -> tuple[Image.Image, bool]:
    """(the image laid on black, without transparency; whether some pixel was not opaque)."""
    key = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(key, int):
        levels = np.asarray(image.convert("L"))
        return Image.fromarray(np.where(levels == key, 0, levels).astype(np.uint8)), bool((levels == key).any())
    if image.mode == "La":  # levels are multiplied by their opacity already, which is what lies over black
        levels, opacity = np.moveaxis(np.asarray(image), -1, 0)
        return Image.fromarray(levels), bool((opacity < 255).any())
    if not image.has_transparency_data:
        return image, False
    grey, image = image.mode == "LA", image.convert("RGBA")
    seen_through = bool((np.asarray(image)[..., 3] < 255).any())
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image).convert("L" if grey else "RGB"), seen_through


def _convert(image: Image.Image, *, channels: int) -> Image.Image:
    """The image in mode L (1 channel) or RGB (3)."""
    try:
        return image.convert("L" if channels == 1 else "RGB")
    except ValueError as error:
        raise Unreadable(f"pixels of mode {image.mode} cannot be converted ({error})") from None


def _array(image: Image.Image) -> np.ndarray:
    """(C, H, W) of an image in mode L or RGB."""
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


# --- what is worth saying of pixels in mode L or RGB --------------------------------------------------------------


def _few_colours(image: Image.Image) -> tuple[bool, bytes]:
    """(whether the image is of one colour, the grey levels that occur in it): see `Header`."""
    counts = image.getcolors(FEW_LEVELS)
    if counts is None:
        return False, b""
    colours = [colour if isinstance(colour, tuple) else (colour,) for _, colour in counts]
    grey = all(min(colour) == max(colour) for colour in colours)
    return len(colours) == 1, bytes(sorted(int(colour[0]) for colour in colours)) if grey else b""


def _checksum(image: Image.Image) -> int:
    if image.height <= _STRIP_ROWS:
        return zlib.crc32(image.tobytes())
    checksum = 0
    for top in range(0, image.height, _STRIP_ROWS):  # `tobytes` of a whole photograph takes as long as decoding it
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        checksum = zlib.crc32(strip.tobytes(), checksum)
    return checksum
