"""TIFF and PNG files written by hand: Pillow writes few of the kinds that it reads, and checks what it writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_LETTERS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II"}
Tag = tuple[int, int, Sequence[int] | bytes]


def directory(tags: Sequence[Tag], *, order: str = "<", at: int = 8) -> bytes:
    """A TIFF directory that is to lie at `at`, its long values behind it."""
    entries, beyond = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, kind, values in sorted(tags, key=lambda row: row[0]):
        raw = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        count = len(values)
        if len(raw) > 4:
            entries += struct.pack(order + "HHII", tag, kind, count, behind + len(beyond))
            beyond += raw + b"\0" * (len(raw) % 2)
        else:
            entries += struct.pack(order + "HHI", tag, kind, count) + raw.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + beyond


def tiff(
    samples: np.ndarray,
    *,
    order: str = "<",
    photometric: int = 1,
    sample_format: int = 1,
    bits: int | None = None,
    extra: Sequence[int] = (),
    planes: bool = False,
    deflate: bool = False,
    more: Sequence[Tag] = (),
) -> bytes:
    """samples: (h, w) or (h, w, c), of the dtype that is stored; 12 bits are packed from uint16."""
    height, width, *rest = samples.shape
    channels = rest[0] if rest else 1
    stored = samples.transpose(2, 0, 1) if planes else samples
    strip = packed(samples) if bits == 12 else stored.astype(samples.dtype.newbyteorder(order)).tobytes()
    strips = [strip]
    if planes:
        size = len(strip) // channels
        strips = [strip[start : start + size] for start in range(0, len(strip), size)]
    if deflate:
        strips = [zlib.compress(part) for part in strips]
    starts = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    tags: list[Tag] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits or 8 * samples.dtype.itemsize] * channels),
        (259, 3, [8 if deflate else 1]),
        (262, 3, [photometric]),
        (273, 4, starts),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(part) for part in strips]),
        (284, 3, [2 if planes else 1]),
        (339, 3, [sample_format] * channels),
        *([(338, 3, extra)] if extra else []),
        *more,
    ]
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    head = b"II*\0" if order == "<" else b"MM\0*"
    at = 8 + len(body)
    return head + struct.pack(order + "I", at) + body + directory(tags, order=order, at=at)


def packed(samples: np.ndarray) -> bytes:
    """Rows of 12-bit samples, the highest bit first, each row from a whole byte on."""
    rows = ["".join(f"{value:012b}" for value in row) for row in samples.tolist()]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    """A PNG chunk; `checksum` instead of the right one."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum or zlib.crc32(kind + body))


def png_file(rows: Sequence[bytes], *, width: int, depth: int, colour: int, chunks: Sequence[bytes] = ()) -> bytes:
    """A PNG of unfiltered rows; colour: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", head), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def jpeg_with(jpeg: bytes, *segments: bytes, marker: int = 0xE1) -> bytes:
    """The JPEG with more segments (APP1) before its own."""
    return jpeg[:2] + b"".join(struct.pack(">BBH", 0xFF, marker, len(s) + 2) + s for s in segments) + jpeg[2:]


def exif(*tags: Tag, order: str = "<") -> bytes:
    """An Exif block with these tags in its first directory."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + head + struct.pack(order + "I", 8) + directory(tags, order=order)
