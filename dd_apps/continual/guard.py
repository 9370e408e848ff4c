"""The leak guard: any read of a training image outside the current experience fails the run.

A continual learner sees one experience at a time. So the stream gets its training images through `GuardedImages`, which
knows the rows that may be read now: those of the current experience, and those that the memory stored of earlier
experiences. A distiller, a teacher or a statistic that reads any other row raises `UserError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from dd_core.errors import UserError
from dd_core.images import Source

SHOWN = 3  # rows that an error names


class Guard:
    """The rows of N training images that may be read now, and a record of the rows that are read."""

    def __init__(self, count: int) -> None:
        self._allowed = bytearray(count)
        self._what = "outside an experience"
        self._record: list[int] | None = None

    @contextmanager
    def only(self, rows: Iterable[int], *, what: str) -> Iterator[None]:
        """Allow `rows` alone within the block; `what` says in an error who read a wrong row."""
        before = self._allowed, self._what
        self._allowed, self._what = bytearray(len(before[0])), what
        for row in rows:
            self._allowed[row] = 1
        try:
            yield
        finally:
            self._allowed, self._what = before

    @contextmanager
    def recording(self) -> Iterator[list[int]]:
        """Allow every row within the block, and collect those that are read, in their order."""
        self._record = record = []
        try:
            yield record
        finally:
            self._record = None

    def read(self, rows: Sequence[int]) -> None:
        """Note that `rows` are read; raises `UserError` if one of the rows may not be read now."""
        if self._record is not None:
            self._record += rows
            return
        if all(map(self._allowed.__getitem__, rows)):
            return
        foreign = sorted({row for row in rows if not self._allowed[row]})
        named = ", ".join(map(str, foreign[:SHOWN])) + (", ..." if len(foreign) > SHOWN else "")
        raise UserError(
            f"leak: {len(foreign)} training images that are not of the experience at hand were read {self._what} "
            f"(rows {named}); a method, a teacher and a statistic may see the current experience's images only"
        )


class GuardedImages:
    """A source whose reads the guard sees; a subset keeps the rows that its images have in the whole."""

    def __init__(self, source: Source, guard: Guard, rows: Int64[Tensor, " N"] | None = None) -> None:
        self._source, self._guard = source, guard
        self._rows = torch.arange(len(source)) if rows is None else rows

    @property
    def name(self) -> str:
        """Name of the images."""
        return self._source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._source.classes

    @property
    def labels(self) -> Int64[Tensor, " N"] | None:
        """(N,) class indices; a class-incremental stream says which classes come when, so labels are no secret."""
        return self._source.labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self._source.image_shape

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        """A digest that names the images; it is not guarded, because nothing can be learned from it."""
        return self._source.fingerprint()

    def take(self, indices: Int64[Tensor, " n"]) -> UInt8[Tensor, "n C H W"]:
        """The images at `indices`, if they may be read now."""
        self._guard.read(self._rows[indices].tolist())
        return self._source.take(indices)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """All images in order, `size` at a time, if they may be read now."""
        self._guard.read(self._rows.tolist())
        return self._source.batches(size)

    def subset(self, indices: Int64[Tensor, " n"]) -> GuardedImages:
        """The images at `indices`, guarded too."""
        return GuardedImages(self._source.subset(indices), self._guard, self._rows[indices])

    def without_labels(self) -> GuardedImages:
        """The same images without labels, guarded too."""
        return GuardedImages(self._source.without_labels(), self._guard, self._rows)

    def sizes(self, rows: Int64[Tensor, " n"]) -> Int64[Tensor, "n 2"]:
        """(height, width) of the images at `rows` in their files."""
        return self._source.sizes(rows)

    def views(
        self,
        rows: Int64[Tensor, " n"],
        boxes: Int64[Tensor, "n 4"],
        *,
        flips: Bool[Tensor, " n"],
        size: tuple[int, int],
    ) -> UInt8[Tensor, "n C H W"]:
        """Crops of the images at `rows`, if they may be read now."""
        self._guard.read(self._rows[rows].tolist())
        return self._source.views(rows, boxes, flips=flips, size=size)
