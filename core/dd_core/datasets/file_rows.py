"""What is known of a folder's image files, in columns.

As columns, name, sha256 and `Header` of a file take a tenth of a kilobyte; as objects of Python a whole one, more than
the pixels of a small image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from dd_core.datasets.decoding import Header, ImageFile

# A `Header`, in which `levels` is the number of a text. Of a file that is not examined yet, the height is 0.
HEADER = np.dtype(
    [
        *(("height", "<i4"), ("width", "<i4"), ("grey", "?"), ("transparent", "?"), ("constant", "?")),
        *(("checksum", "<u4"), ("levels", "<i4")),
    ]
)
_TOGETHER = 4096  # rows that are Python's objects at a time


class Names:
    """Texts, such as file names, in one block of bytes (uint8). ends: int64 (N,), where each ends in the block."""

    def __init__(self, block: np.ndarray, ends: np.ndarray) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """`texts`, in that order; undecodable bytes of a file's name come back as they are."""
        return cls._joined(map(os.fsencode, texts))

    @classmethod
    def _joined(cls, texts: Iterable[bytes]) -> Names:
        block = bytearray()

        def ends() -> Iterator[int]:
            for text in texts:
                block.extend(text)
                yield len(block)

        after = np.fromiter(ends(), dtype=np.int64)
        return cls(np.frombuffer(block, dtype=np.uint8), after)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self._bytes(row))

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(self._bytes(row)) for row in range(len(self)))

    def take(self, rows: np.ndarray) -> Names:
        """The texts of `rows`, in that order."""
        numbers = (row for at in range(0, len(rows), _TOGETHER) for row in rows[at : at + _TOGETHER].tolist())
        return self._joined(self._bytes(row) for row in numbers)

    def _bytes(self, row: int) -> bytes:
        row = range(len(self))[row]
        begin = int(self.ends[row - 1]) if row else 0
        return self.block[begin : int(self.ends[row])].tobytes()


class ImageFiles(Sequence[ImageFile]):
    """Image files in order. sha256: uint8 (N, 32), the checksum of each file's bytes."""

    def __init__(self, names: Names, sha256: np.ndarray) -> None:
        self.names, self.sha256 = names, sha256

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> ImageFile: ...
    @overload
    def __getitem__(self, row: slice) -> ImageFiles: ...
    def __getitem__(self, row: int | slice) -> ImageFile | ImageFiles:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        return ImageFile(self.names[row], self.sha256[row].tobytes().hex())

    def take(self, rows: np.ndarray) -> ImageFiles:
        """The files of `rows`, in that order."""
        return ImageFiles(self.names.take(rows), self.sha256[rows])


class Headers:
    """The `Header` of each of N files. table: (N,) of `HEADER`; levels: the different texts of `Header.levels`."""

    def __init__(self, table: np.ndarray, levels: Iterable[str] = ()) -> None:
        self.table = table
        self._numbers = {text: number for number, text in enumerate(levels)}

    @property
    def levels(self) -> tuple[str, ...]:
        """The different texts of `Header.levels`, by their numbers."""
        return tuple(self._numbers)

    @property
    def known(self) -> np.ndarray:
        """bool (N,): whether a file is examined."""
        return self.table["height"] > 0

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: np.ndarray) -> Headers:
        """The headers of the files of `rows`, in that order."""
        return Headers(self.table[rows], self.levels)

    def put(self, row: int, header: Header) -> None:
        """The header of a file that was examined."""
        self.table[row] = (
            *(header.height, header.width, header.grey, header.transparent, header.constant),
            *(header.checksum, self._number(header.levels)),
        )

    def copy(self, rows: np.ndarray, table: np.ndarray, numbers: np.ndarray) -> None:
        """Fill `rows` with rows of another table; numbers: `numbers_of` the texts of that table."""
        self.table[rows] = table
        self.table["levels"][rows] = numbers[table["levels"]]

    def numbers_of(self, levels: Iterable[str]) -> np.ndarray:
        """int32, the number of each text of `Header.levels` in this table."""
        return np.array([self._number(text) for text in levels], dtype=np.int32)

    def _number(self, levels: str) -> int:
        return self._numbers.setdefault(levels, len(self._numbers))
