"""Grey levels and colours of more than 8 bits, and every mode that Pillow reads them into, by value.

The reference is the rule of the formats: 0 is black, the highest level white, or the other way round.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from image_trees import encoded, picture
from PIL import Image
from raw_images import chunk, png_file, tiff

from dd_core.datasets.decoding import Unreadable, decode, examine

WIDE = np.array([[0, 1, 128, 129, 257], [4095, 32896, 65279, 65534, 65535]], dtype=np.uint16)
TWELVE = np.array([[0, 7, 8, 9, 16], [2047, 2048, 4079, 4094, 4095]], dtype=np.uint16)


def grey(data: bytes) -> list[list[int]]:
    header = examine(data)
    assert header.grey
    return decode(data, shape=(1, header.height, header.width))[0].tolist()


def colours(data: bytes) -> list[list[list[int]]]:
    """[y][x] = [r, g, b]."""
    header = examine(data)
    assert not header.grey
    return decode(data, shape=(3, header.height, header.width)).transpose(1, 2, 0).tolist()


def scaled(levels: np.ndarray, white: int) -> list[list[int]]:
    """To 0..255, to the nearest, in integers: floor(255 level / white + 1/2)."""
    return [[(2 * 255 * int(level) + white) // (2 * white) for level in row] for row in levels]


# --- TIFF: grey -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_a_tiff(order: str, deflate: bool) -> None:
    assert grey(tiff(WIDE, order=order, deflate=deflate)) == scaled(WIDE, 65535)


@pytest.mark.parametrize("deflate", [False, True])
def test_where_white_is_zero_levels_are_turned_round(deflate: bool) -> None:
    assert grey(tiff(WIDE, photometric=0, deflate=deflate)) == scaled(65535 - WIDE, 65535)
    narrow = (WIDE >> 8).astype(np.uint8)
    assert grey(tiff(narrow, photometric=0, deflate=deflate)) == (255 - narrow).tolist()


def test_the_white_of_twelve_bits_is_4095() -> None:
    assert grey(tiff(TWELVE, bits=12)) == scaled(TWELVE, 4095)


def test_bits_in_reversed_order() -> None:
    reversed_bits = np.array([[int(f"{v:08b}"[::-1], 2) for v in row] for row in WIDE.view(np.uint8).tolist()])
    stored = reversed_bits.astype(np.uint8).view(np.uint16)
    assert grey(tiff(stored, more=[(266, 3, [2])])) == scaled(WIDE, 65535)


@pytest.mark.parametrize(
    ("kind", "sample_format", "message"),
    [
        (np.int8, 2, "signed samples of 8 bits have no known black and white"),
        (np.int16, 2, "signed samples of 16 bits have no known black and white"),
        (np.int32, 2, "signed samples of 32 bits have no known black and white"),
        (np.uint32, 1, "samples of 32 bits have no known white"),
        (np.float32, 3, "floating-point pixels have no known white"),
    ],
)
@pytest.mark.parametrize("deflate", [False, True])
def test_samples_of_unknown_white_are_refused(kind: type, sample_format: int, message: str, deflate: bool) -> None:
    data = tiff(np.arange(6).reshape(2, 3).astype(kind), sample_format=sample_format, deflate=deflate)
    with pytest.raises(Unreadable, match=message + "; save it with 8 or 16 bits, unsigned"):
        examine(data)
    with pytest.raises(Unreadable, match=message):
        decode(data, shape=(1, 2, 3))


def test_what_pillow_does_not_read_is_not_called_no_image() -> None:
    with pytest.raises(Unreadable, match="damaged, or of a kind that Pillow does not read"):
        examine(tiff(WIDE, order=">", photometric=0))


# --- TIFF: several samples a pixel ------------------------------------------------------------------------------


def rgb16() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (3, 4, 3), dtype=np.uint16)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_sixteen_bits_keep_their_upper_byte(order: str, deflate: bool) -> None:
    found = np.array(colours(tiff(rgb16(), order=order, photometric=2, deflate=deflate)))
    assert np.array_equal(found, rgb16() >> 8)
    assert np.abs(found - rgb16() / 257).max() < 1  # no further from the exact value than one level


@pytest.mark.parametrize("deflate", [False, True])
def test_planes_of_sixteen_bits_are_refused_and_of_eight_read(deflate: bool) -> None:
    with pytest.raises(Unreadable, match="colours of 16 bits in separate planes are not read"):
        examine(tiff(rgb16(), photometric=2, planes=True, deflate=deflate))
    eight = (rgb16() >> 8).astype(np.uint8)
    assert colours(tiff(eight, photometric=2, planes=True, deflate=deflate)) == eight.tolist()


def samples(*pixels: tuple[int, ...]) -> np.ndarray:
    return np.array([pixels], dtype=np.uint8)


def test_samples_that_are_multiplied_by_opacity_lie_over_black_as_they_are() -> None:
    assert grey(tiff(samples((0, 0), (77, 128), (200, 255)), extra=[1])) == [[0, 77, 200]]
    found = colours(tiff(samples((0, 0, 0, 0), (77, 10, 128, 128), (200, 3, 9, 255)), photometric=2, extra=[1]))
    assert np.abs(np.array(found[0]) - [[0, 0, 0], [77, 10, 128], [200, 3, 9]]).max() <= 1


def test_samples_beside_their_opacity_are_weighted_by_it() -> None:
    assert grey(tiff(samples((200, 0), (200, 128), (200, 255)), extra=[2])) == [[0, 100, 200]]
    found = colours(tiff(samples((200, 100, 50, 0), (200, 100, 50, 255)), photometric=2, extra=[2]))
    assert found == [[[0, 0, 0], [200, 100, 50]]]


def test_samples_that_mean_nothing_are_ignored() -> None:
    assert grey(tiff(samples((200, 0), (10, 99)), extra=[0])) == [[200, 10]]
    assert colours(tiff(samples((1, 2, 3, 0), (4, 5, 6, 9)), photometric=2, extra=[0])) == [[[1, 2, 3], [4, 5, 6]]]


def test_a_palette_and_its_opacity() -> None:
    colour_map = [0] * 768
    for channel, level in enumerate((10, 20, 30)):
        colour_map[256 * channel + 7] = level * 256
    found = colours(tiff(samples((7, 255), (7, 0)), photometric=3, extra=[2], more=[(320, 3, colour_map)]))
    assert found == [[[10, 20, 30], [0, 0, 0]]]


def test_cmyk_is_ink_and_black_ink() -> None:
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 100, 200, 55), (9, 9, 9, 255)]
    expected = [[(255 - ink) * (255 - black) / 255 for ink in (c, m, y)] for c, m, y, black in inks]
    assert np.abs(np.array(colours(tiff(samples(*inks), photometric=5))[0]) - expected).max() <= 1


def test_ycbcr_as_jfif_defines_it() -> None:
    pixels = [(0, 128, 128), (255, 128, 128), (100, 90, 150), (180, 140, 100)]
    expected = [
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
        for y, cb, cr in pixels
    ]
    assert np.abs(np.array(colours(tiff(samples(*pixels), photometric=6))[0]) - expected).max() <= 1


def test_cielab_greys() -> None:
    """L* in 0..255 for 0..100; Y = ((L* + 16) / 116)^3, and then sRGB's transfer function."""
    levels = [0, 64, 128, 200, 255]
    luminances = [((100 * level / 255 + 16) / 116) ** 3 if level > 20 else 0 for level in levels]
    expected = [255 * (1.055 * max(y, 1e-9) ** (1 / 2.4) - 0.055) if y > 0.0031308 else 0 for y in luminances]
    found = np.array(colours(tiff(samples(*((level, 0, 0) for level in levels)), photometric=8))[0])
    assert np.abs(found - np.array(expected)[:, None]).max() <= 2


# --- PNG --------------------------------------------------------------------------------------------------------


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def test_sixteen_bits_of_a_png_where_one_level_is_transparent() -> None:
    row = words(0, 257, 32896, 32897, 65535)
    assert grey(png_file([row], width=5, depth=16, colour=0)) == [[0, 1, 128, 128, 255]]
    # 32896 and 32897 are one level of 8 bits, and one of them alone is transparent
    for key, expected in ((32896, [0, 1, 0, 128, 255]), (65535, [0, 1, 128, 128, 0]), (5, [0, 1, 128, 128, 255])):
        data = png_file([row], width=5, depth=16, colour=0, chunks=[chunk(b"tRNS", words(key))])
        assert grey(data) == [expected]
        assert examine(data).transparent == (key != 5)


@pytest.mark.parametrize(
    ("depth", "row", "levels"),
    [
        (1, b"\x40", [0, 255]),
        (2, b"\x1b", [0, 85, 170, 255]),
        (4, b"\x07\xf0", [0, 119, 255]),
        (8, b"\0\x07\xff", [0, 7, 255]),
    ],
)
def test_a_transparent_level_has_the_depth_of_the_file(depth: int, row: bytes, levels: list[int]) -> None:
    assert grey(png_file([row], width=len(levels), depth=depth, colour=0)) == [levels]
    for level in levels[1:]:
        trns = chunk(b"tRNS", words(level * (2**depth - 1) // 255))
        data = png_file([row], width=len(levels), depth=depth, colour=0, chunks=[trns])
        assert grey(data) == [[0 if each == level else each for each in levels]]
        assert examine(data).transparent


def test_a_transparent_colour() -> None:
    row, key = bytes([9, 8, 7, 9, 8, 6]), chunk(b"tRNS", words(9, 8, 7))
    assert colours(png_file([row], width=2, depth=8, colour=2, chunks=[key])) == [[[0, 0, 0], [9, 8, 6]]]
    wide = png_file([words(9, 8, 7, 9, 8, 6)], width=2, depth=16, colour=2, chunks=[key])
    with pytest.raises(Unreadable, match="16-bit colour with a transparent colour is not read"):
        examine(wide)


def test_sixteen_bits_of_colour_and_opacity_keep_their_upper_byte() -> None:
    assert colours(png_file([words(513, 65535, 255)], width=1, depth=16, colour=2)) == [[[2, 255, 0]]]
    assert colours(png_file([words(513, 65535, 255, 65535)], width=1, depth=16, colour=6)) == [[[2, 255, 0]]]
    assert colours(png_file([words(51400, 0, 51400, 65535)], width=2, depth=16, colour=4)) == [[[0] * 3, [200] * 3]]


def test_a_palette_with_opacities() -> None:
    chunks = [chunk(b"PLTE", bytes([200, 100, 50, 10, 20, 30])), chunk(b"tRNS", b"\x80")]
    assert colours(png_file([b"\0\1"], width=2, depth=8, colour=3, chunks=chunks)) == [[[100, 50, 25], [10, 20, 30]]]


# --- other formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("magic", "text"), [("P5", False), ("P2", True)])
def test_the_white_of_a_pgm_is_its_own(magic: str, text: bool) -> None:
    levels = [[0, 1, 500, 999, 1000]]
    head = f"{magic}\n5 1\n1000\n".encode()
    body = " ".join(map(str, levels[0])).encode() if text else words(*levels[0])
    assert grey(head + body) == scaled(np.array(levels), 1000)


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "PCX", "PNG", "QOI", "SGI", "TGA", "TIFF", "BMP", "PPM"])
def test_lossless_formats_give_the_pixels_that_were_saved(kind: str) -> None:
    image = picture(3, size=(16, 16))
    assert colours(encoded(image, kind)) == np.asarray(image).tolist()


@pytest.mark.parametrize("kind", ["JPEG2000", "PCX", "SGI", "TGA"])
def test_grey_stays_grey(kind: str) -> None:
    image = picture(3, mode="L")
    assert grey(encoded(image, kind)) == np.asarray(image).tolist()


def test_sixteen_bits_of_jpeg_2000() -> None:
    assert grey(encoded(Image.fromarray(WIDE), "JPEG2000")) == scaled(WIDE, 65535)


@pytest.mark.parametrize("kind", ["AVIF", "MPO"])
def test_lossy_formats_give_nearly_the_pixels_that_were_saved(kind: str) -> None:
    smooth = Image.fromarray(np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8).convert("RGB")
    found = np.array(colours(encoded(smooth, kind, quality=95)))
    assert np.abs(found - np.asarray(smooth, dtype=int)).max() <= 8


def test_black_and_white_bits() -> None:
    image = Image.fromarray(np.array([[True, False, True]]))
    for kind in ("PPM", "BMP", "TIFF", "PNG"):
        assert grey(encoded(image, kind)) == [[255, 0, 255]]


def test_a_gif_with_a_transparent_colour() -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    assert colours(encoded(palette, "GIF", transparency=0)) == [[[0, 0, 0], [200, 100, 50]]]


@pytest.mark.parametrize("start", [b"<html>404</html>", b"%!PS-Adobe-3.0", b"\0" * 64, b"BM", b"P5 no"])
def test_what_is_no_image_is_not_taken_for_one(start: bytes) -> None:
    with pytest.raises(Unreadable):
        examine(start)


def test_frames_but_the_first_are_ignored() -> None:
    """Also where the frames that follow are damaged."""
    first, second = picture(1), picture(2)
    data = encoded(first, "PNG", save_all=True, append_images=[second])
    assert b"fdAT" in data
    for content in (data, data.replace(b"fdAT", b"fdAT\xff")):
        assert colours(content) == np.asarray(first).tolist()
