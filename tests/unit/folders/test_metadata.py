"""The orientation is applied, and nothing else in metadata is looked at: damaged metadata leaves good pixels alone."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from image_trees import encoded, picture
from PIL import Image
from raw_images import Tag, chunk, exif, jpeg_with, tiff

from dd_core.datasets.decoding import Unreadable, decode, examine

# what is seen of stored pixels (h, w, c), for the values of the tag as Exif 2.32 defines them
SEEN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
STORED = picture(5, size=(6, 4))
PIXELS = np.asarray(STORED)


def turned(value: int) -> Tag:
    return (0x0112, 3, [value])


def xmp(value: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{value}"/></x:xmpmeta>'.encode()


def read(data: bytes) -> np.ndarray:
    """(h, w, c), at the size at which the file is seen."""
    header = examine(data)
    return decode(data, shape=(3, header.height, header.width)).transpose(1, 2, 0)


def png_with(*chunks: bytes, before: bytes = b"IDAT") -> bytes:
    data = encoded(STORED)
    at = data.index(before) - 4
    return data[:at] + b"".join(chunks) + data[at:]


def hexadecimal(block: bytes) -> bytes:
    return f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()


def jpeg(*segments: bytes, marker: int = 0xE1) -> bytes:
    return jpeg_with(encoded(STORED, "JPEG", quality=95), *segments, marker=marker)


JPEG_PIXELS = np.asarray(Image.open(io.BytesIO(encoded(STORED, "JPEG", quality=95))))
XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
XMP_IN_PNG = b"XML:com.adobe.xmp\0"

STATED: dict[str, Callable[[int], bytes]] = {
    "png eXIf": lambda v: png_with(chunk(b"eXIf", exif(turned(v))[6:])),
    "png eXIf, the other byte order": lambda v: png_with(chunk(b"eXIf", exif(turned(v), order=">")[6:])),
    "png eXIf behind the pixels": lambda v: png_with(chunk(b"eXIf", exif(turned(v))[6:]), before=b"IEND"),
    "png text of ImageMagick": lambda v: png_with(
        chunk(b"tEXt", b"Raw profile type exif\0" + hexadecimal(exif(turned(v))))
    ),
    "png packed text of ImageMagick": lambda v: png_with(
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal(exif(turned(v)))))
    ),
    "png XMP": lambda v: png_with(chunk(b"iTXt", XMP_IN_PNG + b"\0\0\0\0" + xmp(v))),
    "png packed XMP": lambda v: png_with(chunk(b"iTXt", XMP_IN_PNG + b"\1\0\0\0" + zlib.compress(xmp(v)))),
    "webp": lambda v: encoded(STORED, "WEBP", lossless=True, exif=exif(turned(v))),
    "webp XMP": lambda v: encoded(STORED, "WEBP", lossless=True, xmp=xmp(v)),
    "tiff": lambda v: tiff(PIXELS, photometric=2, more=[turned(v)]),
    "tiff, the other byte order": lambda v: tiff(PIXELS, photometric=2, order=">", more=[turned(v)]),
    "tiff, packed": lambda v: tiff(PIXELS, photometric=2, deflate=True, more=[turned(v)]),
    "tiff XMP": lambda v: tiff(PIXELS, photometric=2, more=[(700, 1, xmp(v))]),
    "big tiff": lambda v: encoded(STORED, "TIFF", big_tiff=True, tiffinfo={0x0112: v}),
}


@pytest.mark.parametrize("value", SEEN)
@pytest.mark.parametrize("place", STATED)
def test_a_picture_is_turned_as_it_says(place: str, value: int) -> None:
    assert np.array_equal(read(STATED[place](value)), SEEN[value](PIXELS))


@pytest.mark.parametrize("value", SEEN)
def test_a_jpeg_is_turned_as_it_says(value: int) -> None:
    for segment in (exif(turned(value)), exif(turned(value), order=">"), XMP_IN_JPEG + xmp(value)):
        assert np.array_equal(read(jpeg(segment)), SEEN[value](JPEG_PIXELS))


@pytest.mark.parametrize("value", SEEN)
def test_an_avif_is_turned_as_it_says(value: int) -> None:
    tag = Image.Exif()
    tag[0x0112] = value
    image = Image.fromarray(np.kron([[0, 80], [160, 240]], np.ones((8, 16))).astype(np.uint8)).convert("RGB")
    found = read(encoded(image, "AVIF", quality=95, exif=tag.tobytes())).astype(int)
    assert np.abs(found - SEEN[value](np.asarray(image).astype(int))).mean() < 4


def test_exif_goes_before_xmp() -> None:
    assert np.array_equal(read(jpeg(XMP_IN_JPEG + xmp(8), exif(turned(6)))), SEEN[6](JPEG_PIXELS))


# --- damage -----------------------------------------------------------------------------------------------------

RESOLUTION_AS_TEXT: Tag = (0x011A, 2, b"72\0")
NOTHING_TO_DIVIDE_BY: Tag = (0x011A, 5, b"\x48\0\0\0\0\0\0\0")
FAR_DIRECTORY: Tag = (0x8769, 4, [99999])
DAMAGED: dict[str, tuple[list[bytes], int]] = {
    "XMP that is no UTF-8": ([XMP_IN_JPEG + b"<x:xmpmeta>\xa8\xff</x:xmpmeta>"], 1),
    "the same before good Exif": ([XMP_IN_JPEG + b"\xa8\xff", exif(turned(6))], 6),
    "Exif's name twice": ([b"Exif\0\0" + exif(turned(6))], 6),
    "a tag cut short": ([exif(turned(6))[:-8]], 1),
    "nothing": ([b"Exif\0\0"], 1),
    "garbage": ([b"Exif\0\0\x93garbage garbage"], 1),
    "orientation 0": ([exif(turned(0))], 1),
    "orientation 9": ([exif(turned(9))], 1),
    "orientation 9, and 6 in XMP": ([exif(turned(9)), XMP_IN_JPEG + xmp(6)], 1),
    "an orientation as text": ([exif((0x0112, 2, b"6\0\0\0"))], 1),
    "a resolution as text": ([exif(turned(6), RESOLUTION_AS_TEXT, (0x0128, 3, [2]))], 6),
    "a resolution over 0": ([exif(turned(6), NOTHING_TO_DIVIDE_BY, (0x0128, 3, [2]))], 6),
    "a directory past the end": ([exif(turned(6), FAR_DIRECTORY)], 6),
    "a directory far away": ([b"Exif\0\0II*\0\xff\xff\xff\x7f"], 1),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_odd_metadata_of_a_jpeg_leave_its_pixels_alone(damage: str) -> None:
    segments, value = DAMAGED[damage]
    assert np.array_equal(read(jpeg(*segments)), SEEN[value](JPEG_PIXELS))


@pytest.mark.parametrize(
    ("marker", "segment"),
    [
        (0xE2, b"MPF\0garbage garbage"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x05\0\0\0\0\0\0\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\xff\xff\xff"),
        (0xE2, b"ICC_PROFILE\0\x09"),
        (0xFE, b"\xff\xd9 a comment \xff\xda"),
    ],
)
def test_other_segments_of_a_jpeg_are_not_looked_at(marker: int, segment: bytes) -> None:
    assert np.array_equal(read(jpeg(segment, marker=marker)), JPEG_PIXELS)


@pytest.mark.parametrize(
    "spoilt",
    [
        chunk(b"tEXt", b"Title\0wrong checksum", checksum=7),
        chunk(b"pHYs", b"\0\0"),
        chunk(b"iCCP", b"name\0\0garbage"),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"iTXt", b"no zero byte"),
        chunk(b"eXIf", b"II*\0"),
        chunk(b"tIME", b""),
    ],
    ids=lambda spoilt: spoilt[4:8].decode(),
)
def test_damaged_chunks_of_a_png_leave_its_pixels_alone(spoilt: bytes) -> None:
    stated = chunk(b"eXIf", exif(turned(6))[6:])
    assert np.array_equal(read(png_with(spoilt)), PIXELS)
    assert np.array_equal(read(png_with(spoilt) + b"behind the end"), PIXELS)
    if b"eXIf" not in spoilt:
        assert np.array_equal(read(png_with(spoilt, stated)), SEEN[6](PIXELS))


def test_a_chunk_of_the_pixels_is_still_checked() -> None:
    data = encoded(STORED)
    at = data.index(b"IDAT") + 8
    spoilt = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(Unreadable):
        examine(spoilt)


@pytest.mark.parametrize("order", ["<", ">"])
def test_odd_tags_of_a_tiff_leave_its_pixels_alone(order: str) -> None:
    odd: list[Tag] = [
        (0x011A, 2, b"72\0"),
        (0x011B, 2, b"72\0"),
        (0x0128, 3, [3]),
        (0x8769, 4, [0xFFFFFF]),
        (700, 1, b"\xa8\xff\xfe\xfd"),
    ]
    data = tiff(PIXELS, order=order, photometric=2, more=[*odd, turned(6)])
    assert np.array_equal(read(data), SEEN[6](PIXELS))


def test_an_orientation_of_another_type_means_not_turned() -> None:
    assert np.array_equal(read(tiff(PIXELS, photometric=2, more=[(0x0112, 2, b"6\0")])), PIXELS)
    assert np.array_equal(read(tiff(PIXELS, photometric=2, more=[(0x0112, 4, [6])])), SEEN[6](PIXELS))


def test_damaged_exif_of_an_avif_leaves_its_pixels_alone() -> None:
    tag = Image.Exif()
    tag[0x010F] = "a camera"
    data = encoded(STORED, "AVIF", quality=95, exif=tag.tobytes())
    at = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
    spoilt = data[:at] + b"garb" + data[at + 4 :]
    assert np.array_equal(read(spoilt), read(encoded(STORED, "AVIF", quality=95)))
    assert np.array_equal(read(data), read(spoilt))
