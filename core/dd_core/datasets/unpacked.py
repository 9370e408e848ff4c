"""Detect damage in files that were unpacked from torchvision's archives.

torchvision checks the files of CIFAR and STL-10 by their checksums, but of MNIST and its kin only that the files exist:
networks would learn from a file with flipped bits.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

# md5 of the unpacked files, for folders without the archives
_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FASHION = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PUBLISHED = {"MNIST": _MNIST, "FashionMNIST": _FASHION}
_BYTES = 8  # IDX's code for unsigned bytes


@dataclass(frozen=True)
class Unpacked:
    """A file below the root, its md5 or None if unknown, and for an IDX file its .gz archive: (path, md5)."""

    path: str
    md5: str | None
    archive: tuple[str, str] | None = None

    def damage(self, root: Path) -> str | None:
        """What is wrong with the file below `root`, in words; None for a good one and for one that is not there."""
        path = root / self.path
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{error.strerror}"
        if self.archive is None:
            return None if _md5(data) == self.md5 else "wrong checksum"
        return _idx_damage(data, dimensions=3 if "idx3" in path.name else 1) or self._changes(data, root)

    def _changes(self, data: bytes, root: Path) -> str | None:
        """How an IDX file differs from its archive or, without the archive, from the published one; None: equal."""
        assert self.archive is not None
        name, md5 = self.archive
        archive = root / name
        if archive.is_file() and _md5(packed := archive.read_bytes()) == md5:
            checksum = int.from_bytes(packed[-8:-4], "little")  # gzip's trailer: the CRC-32 of the unpacked bytes
            return None if zlib.crc32(data) == checksum else f"its bytes are not those of {archive.name}"
        return None if self.md5 in (None, _md5(data)) else "wrong checksum"


def of_idx(kind: Any, split: str) -> list[Unpacked]:
    """The two files of a split of MNIST or its kin."""
    side, published = "train" if split == "train" else "t10k", PUBLISHED.get(kind.__name__, {})
    return [
        Unpacked(f"{kind.__name__}/raw/{file}", published.get(file), (f"{kind.__name__}/raw/{archive}", md5))
        for archive, md5 in kind.resources
        if (file := archive.removesuffix(".gz")).startswith(side)
    ]


def of_batches(kind: Any, split: str) -> list[Unpacked]:
    """The files of CIFAR or STL-10."""
    return [Unpacked(f"{kind.base_folder}/{file}", md5) for file, md5 in [*kind.train_list, *kind.test_list]]


def _idx_damage(data: bytes, *, dimensions: int) -> str | None:
    """What is wrong with an IDX file: bytes 0, 0, 8, number of dimensions; each dimension in 4 bytes; the values."""
    start = 4 * (1 + dimensions)
    if len(data) >= 4 and data[:4] != bytes([0, 0, _BYTES, dimensions]):
        return f"no IDX file of bytes in {dimensions} dimensions"
    sides = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    size = start + prod(sides)
    if len(data) < max(start, size):
        return f"cut short: {len(data):,} of {max(start, size):,} bytes"
    return None if len(data) == size else f"{len(data):,} bytes, and its header says {size:,}"


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
