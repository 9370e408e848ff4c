"""Pixels of image files by value, mode by mode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from image_trees import encoded, picture
from PIL import Image

from dd_core.datasets.decoding import Unreadable, decode, examine


def test_the_centre_of_the_shorter_side_is_kept(root: Path) -> None:
    """12 x 4 to 4 x 4 needs no resizing, only the middle third; 8 x 8 to 4 x 4 only resizing."""
    wide, square = picture(1, size=(12, 4)), picture(2, size=(8, 8))
    for image, expected in [
        (wide, wide.crop((4, 0, 8, 4))),
        (square, square.resize((4, 4), Image.Resampling.BICUBIC)),
    ]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found = decode(buffer.getvalue(), shape=(3, 4, 4))
        assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_modes_become_what_pillow_says(mode: str) -> None:
    image = picture(3, mode=mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(255)
    found = decode(encoded(image), shape=(3, 6, 6))
    assert np.array_equal(found.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb() -> None:
    data = encoded(picture(3).convert("CMYK"), "TIFF")
    expected = picture(3).convert("CMYK").convert("RGB")
    assert np.array_equal(decode(data, shape=(3, 6, 6)).transpose(1, 2, 0), np.asarray(expected))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(levels))
    assert decode(data, shape=(1, 1, 4)).tolist() == [[[0, 1, 128, 255]]]
    assert decode(data, shape=(3, 1, 4)).tolist() == [[[0, 1, 128, 255]]] * 3


def test_transparency_is_laid_on_black() -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 0))
    assert decode(encoded(image), shape=(3, 1, 2)).tolist() == [[[200, 0]], [[100, 0]], [[50, 0]]]
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    assert decode(encoded(palette, transparency=0), shape=(3, 1, 2)).tolist() == [[[0, 200]], [[0, 100]], [[0, 50]]]
    grey = Image.new("LA", (2, 1), (80, 255))
    grey.putpixel((1, 0), (80, 0))
    assert decode(encoded(grey), shape=(1, 1, 2)).tolist() == [[[80, 0]]]


def test_orientation_is_applied() -> None:
    upright = picture(3, size=(6, 4))
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by a quarter, clockwise, to be seen as it was taken
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=tag)
    assert (examine(data).width, examine(data).height) == (6, 4)
    assert np.array_equal(decode(data, shape=(3, 4, 6)).transpose(1, 2, 0), np.asarray(upright))


def test_other_formats_in_disguise_are_not_opened() -> None:
    """PostScript would be handed to another program."""
    postscript = encoded(picture(0), "EPS")
    with pytest.raises(Unreadable, match="not an image, whatever its name says"):
        examine(postscript)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(Unreadable, match="floating-point"):
        examine(encoded(Image.fromarray(np.ones((3, 3), dtype=np.float32)), "TIFF"))
