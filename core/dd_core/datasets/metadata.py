"""Strip image files of their metadata, and read the one part of it that matters: the orientation of the picture.

A decoder that parses metadata refuses good pixels for one odd tag. So parts without pixels are taken out of a file
before it is decoded (JPEG segments, PNG chunks, TIFF tags, AVIF's Exif item), and the orientation is read here: Exif
tag 0x0112 (Exif 2.32, section 4.6.4), else XMP's `tiff:Orientation`. Damaged metadata counts as upright.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

UPRIGHT = 1
ORIENTATION = 0x0112
_XMP_TAG = 700
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF types that may hold an orientation: BYTE, SHORT, LONG
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")
_TEXT_BYTES = 1 << 20  # most bytes of an unpacked text: metadata must not be a decompression bomb
# What a TIFF decoder needs: geometry, samples, compression, strips and tiles, colours.
_PIXEL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339}
    | {347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 50674}
)


class Bare(NamedTuple):
    """A file with the same pixels and no metadata, and its orientation: 1 (upright) to 8, as Exif numbers them."""

    data: bytes
    orientation: int


def bare(data: bytes) -> Bare:
    """The file without its metadata; one of another format, or of a damaged structure, stays as it is."""
    for magic, strip in _FORMATS:
        if magic.match(data):
            with suppress(struct.error, IndexError):
                return strip(data)
    return Bare(data, UPRIGHT)


def _stated(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation that Exif states, else the one that XMP states, else upright."""
    orientation = _of_exif(exif)
    match = _XMP.search(xmp) if orientation is None else None
    return int(match[1]) if match else orientation or UPRIGHT


def _of_exif(exif: bytes) -> int | None:
    """The orientation in the first directory of an Exif block, which is a TIFF file; None where it has none."""
    exif = re.sub(rb"^(?:Exif\0\0){1,2}", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    with suppress(struct.error):
        if order is not None:
            (at,) = struct.unpack_from(order + "I", exif, 4)
            (count,) = struct.unpack_from(order + "H", exif, at)
            for entry in range(at + 2, at + 2 + 12 * count, 12):
                if struct.unpack_from(order + "H", exif, entry)[0] == ORIENTATION:
                    return _value(exif, order, at=entry + 2, counts="I")
    return None


def _value(data: bytes, order: str, *, at: int, counts: str) -> int:
    """The integer of a directory entry whose type is at `at`: 1 to 8, or 1 for what is no orientation."""
    (kind,) = struct.unpack_from(order + "H", data, at)
    if kind not in _INTEGERS:
        return UPRIGHT
    (value,) = struct.unpack_from(order + _INTEGERS[kind], data, at + 2 + struct.calcsize(order + counts))
    return value if 1 <= value <= 8 else UPRIGHT


# --- JPEG (ITU T.81, annex B): segments up to the first scan ----------------------------------------------------


def _jpeg(data: bytes) -> Bare:
    kept, texts, at = [data[:2]], list[bytes](), 2
    while data[at] == 0xFF and data[at + 1] not in (0xD9, 0xDA):
        marker = data[at + 1]
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker == 0xFF:  # a filling byte
            end = at + 1
        # JFIF (APP0) and Adobe (APP14) say what the colours are; other APPs and comments are metadata
        elif 0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE):
            texts.append(data[at + 4 : end])
        else:
            kept.append(data[at:end])
        at = end
    return Bare(b"".join([*kept, data[at:]]), _stated(_first(texts, b"Exif\0"), _first(texts, b"http://ns.adobe")))


def _first(texts: Iterable[bytes], start: bytes) -> bytes:
    return next((text for text in texts if text.startswith(start)), b"")


# --- PNG (W3C, third edition, section 11): chunks ---------------------------------------------------------------


def _png(data: bytes) -> Bare:
    kept, texts, at = [data[:8]], dict[bytes, bytes](), 8
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        # critical chunks begin with a capital; of the others only tRNS belongs to the pixels
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(data[at:end])
        elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            key, text = _text(kind, data[at + 8 : end - 4])
            texts.setdefault(key, text)
        at = end
    exif = texts.get(b"eXIf") or _from_hex(texts.get(b"Raw profile type exif", b""))
    return Bare(b"".join(kept), _stated(exif, texts.get(b"XML:com.adobe.xmp", b"")))


def _text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """(keyword, text) of a text chunk; the keyword of an eXIf chunk, which has none, is "eXIf"."""
    if kind == b"eXIf":
        return kind, body
    key, _, text = body.partition(b"\0")
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"zTXt":
        text = text[1:]  # skip the compression method, of which there is only one
    elif kind == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]  # skip flag, method, language\0 and translated keyword\0
    with suppress(zlib.error):
        return key, zlib.decompressobj().decompress(text, _TEXT_BYTES) if packed else text
    return key, b""


def _from_hex(profile: bytes) -> bytes:
    """The bytes of ImageMagick's raw profile: a name and a length on lines of their own, then hexadecimal digits."""
    with suppress(ValueError):
        return bytes.fromhex("".join(profile.decode("latin-1").split("\n")[3:]))
    return b""


# --- WebP: its decoder leaves metadata alone, so nothing has to go ----------------------------------------------


def _webp(data: bytes) -> Bare:
    texts, at = dict[bytes, bytes](), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        texts.setdefault(kind, data[at + 8 : at + 8 + length] if kind in (b"EXIF", b"XMP ") else b"")
        at += 8 + length + length % 2
    return Bare(data, _stated(texts.get(b"EXIF", b""), texts.get(b"XMP ", b"")))


# --- TIFF 6.0, section 2, and BigTIFF: the tags of the first directory ------------------------------------------


class _Layout(NamedTuple):
    """struct's letters for an offset and for the number of entries, and where the first offset is."""

    offset: str
    number: str
    start: int


def _tiff(data: bytes) -> Bare:
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    layout = _Layout("Q", "Q", 8) if big else _Layout("I", "H", 4)
    entries = list(_entries(data, order, layout))
    stated = [_value(entry, order, at=2, counts=layout.offset) for tag, entry in entries if tag == ORIENTATION]
    xmp = [_XMP.search(_pointed(data, entry, order, layout)) for tag, entry in entries if tag == _XMP_TAG]
    orientation = stated[0] if stated else int(xmp[0][1]) if xmp and xmp[0] else UPRIGHT
    kept = [entry for tag, entry in entries if tag in _PIXEL_TAGS]
    # a new directory of the kept entries, at the end of the file; what they point to stays where it is
    at = len(data) + len(data) % 2
    start = layout.start + struct.calcsize(order + layout.offset)
    head = data[: layout.start] + struct.pack(order + layout.offset, at) + data[start:]
    count = struct.pack(order + layout.number, len(kept))
    ending = struct.pack(order + layout.offset, 0)
    return Bare(b"".join([head.ljust(at, b"\0"), count, *kept, ending]), orientation)


def _pointed(data: bytes, entry: bytes, order: str, layout: _Layout) -> bytes:
    """The bytes that an entry of type BYTE or UNDEFINED points to; none where they would be in the entry itself."""
    count, at = struct.unpack_from(order + 2 * layout.offset, entry, 4)
    return data[at : at + count] if count > struct.calcsize(order + layout.offset) else b""


def _entries(data: bytes, order: str, layout: _Layout) -> Iterator[tuple[int, bytes]]:
    """(tag, entry); raises struct.error where the directory is cut short."""
    (at,) = struct.unpack_from(order + layout.offset, data, layout.start)
    (count,) = struct.unpack_from(order + layout.number, data, at)
    size = 4 + 2 * struct.calcsize(order + layout.offset)
    at += struct.calcsize(order + layout.number)
    for entry in range(at, min(at + size * count, len(data)), size):
        yield struct.unpack_from(order + "H", data, entry)[0], data[entry : entry + size]


# --- AVIF (ISO 23008-12): Pillow takes the orientation from the image's own properties ---------------------------


def _avif(data: bytes) -> Bare:
    """The file with its Exif item renamed to a type that decoders skip; the length of the file stays the same."""
    return Bare(re.sub(rb"(infe\x02.{7})Exif", rb"\1skip", data, flags=re.DOTALL), UPRIGHT)


_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Bare]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), _tiff),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), _avif),
)
