"""The two kinds of source for a folder of images: decoded when they are asked for, or all in memory.

Both use `decoding`, and not torchvision's transforms, and both have the fingerprint of the files: a folder gives the
same pixels and the same fingerprint, whether it is above the memory limit or below.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, UInt8
from torch import Tensor

from dd_core.config import digest_of_lists
from dd_core.datasets.decoding import ImageFile, decode_file, decode_whole_file, quiet
from dd_core.datasets.file_rows import ImageFiles
from dd_core.datasets.folder_pixels import channel_counts
from dd_core.images import LabelledImages, require_within, resized_crop
from dd_core.system import surroundings
from dd_core.system.parallel import Workers

Job = TypeVar("Job")


@dataclass(frozen=True, eq=False)
class LoadedFolder(LabelledImages):
    """A folder's images in memory. A subset of them has the fingerprint of the subset's pixels.

    content: the fingerprint of the folder's files; unlabelled: the fingerprint of the files without their labels.
    """

    content: str = field(kw_only=True)
    unlabelled: str = field(kw_only=True)

    def fingerprint(self) -> str:
        """The fingerprint of the `StreamedFolder` of the same files."""
        return self.content

    def without_labels(self) -> LoadedFolder:
        """The same images, without labels and classes."""
        same = self.unlabelled
        return LoadedFolder(self.images, None, (), self.name, origin=self.origin, content=same, unlabelled=same)


@dataclass(frozen=True, eq=False)
class StreamedFolder:
    """Image files of one shape (C, H, W) below `folder`; labels: int64 (N,) or None. `origin`: see `images.called`.

    native_sizes: int32 (N, 2), height and width of each file's upright image. workers: the processes that decode all
    files for an artefact; while a network trains on the images, all but one of them decode.
    """

    folder: Path
    files: ImageFiles
    labels: Int64[Tensor, " N"] | None
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    origin: str = field(default="", kw_only=True)
    native_sizes: Int32[Tensor, "N 2"] = field(kw_only=True)
    workers: Workers = field(default=Workers(), kw_only=True)

    @property
    def name(self) -> str:
        """Always "folder": it travels in manifests, which hold no paths."""
        return "folder"

    def __len__(self) -> int:
        return len(self.files)

    @property
    def nbytes(self) -> int:
        """Bytes that all the pixels would take in memory, as uint8 at `image_shape`."""
        channels, height, width = self.image_shape
        return len(self) * channels * height * width

    @property
    def decoders(self) -> int:
        """The number of processes that decode for a training network: local workers but one, 0 on a cluster."""
        return self.workers.count - 1 if self.workers.engine == "processes" else 0

    def fingerprint(self) -> str:
        """sha256 over shape, classes and, in order, each relative path and content sha256."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        labels = None if self.labels is None else self.labels.tolist()
        return digest_of_lists(self.image_shape, self.classes, labels, self.files)

    def take(self, indices: Int64[Tensor, " n"]) -> UInt8[Tensor, "n C H W"]:
        """The images at `indices`, in that order; raises `UserError` for a file that changed meanwhile."""
        return self._decoded(self._files(indices))

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """All images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self._decoded(self.files[start : start + size])

    @surroundings.own()
    def channel_counts(self) -> Int64[Tensor, "C 256"]:
        """How often each value occurs in each channel; an artefact in the cache keeps the counts for the same files.

        Raises `UserError` for a file that changed meanwhile.
        """
        return torch.from_numpy(channel_counts(self))

    @surroundings.own()
    def subset(self, indices: Int64[Tensor, " n"]) -> StreamedFolder:
        """A source of the images at `indices`, with the same classes."""
        labels = None if self.labels is None else self.labels[indices]
        native_sizes = self.native_sizes[indices]
        return replace(self, files=self._files(indices), labels=labels, native_sizes=native_sizes)

    def without_labels(self) -> StreamedFolder:
        """The same images, without labels and classes."""
        return replace(self, labels=None, classes=())

    @surroundings.own()
    def sizes(self, rows: Int64[Tensor, " n"]) -> Int64[Tensor, "n 2"]:
        """(height, width) of the upright images `rows` at their files' own sizes; no file is read."""
        return self.native_sizes[rows].long()

    @surroundings.own()
    def views(
        self,
        rows: Int64[Tensor, " n"],
        boxes: Int64[Tensor, "n 4"],
        *,
        flips: Bool[Tensor, " n"],
        size: tuple[int, int],
    ) -> UInt8[Tensor, "n C H W"]:
        """Each row's image at its file's own size, cropped to its box, resized and flipped: see `images.resized_crop`.

        Raises `UserError` for a box that is not within its image, and for a file that changed meanwhile.
        """
        require_within(boxes, self.sizes(rows))
        channels = self.image_shape[0]

        def view(job: tuple[ImageFile, list[int], bool]) -> np.ndarray:
            file, box, flip = job
            pixels = decode_whole_file(self.folder, file, channels=channels)
            return resized_crop(pixels, box, flip=flip, size=size)

        jobs = list(zip(self._files(rows), boxes.tolist(), flips.tolist(), strict=True))
        return _stacked(view, jobs, shape=(channels, *size))

    def _files(self, rows: Int64[Tensor, " n"]) -> ImageFiles:
        return self.files.take(rows.cpu().numpy())

    @surroundings.own()
    def _decoded(self, files: ImageFiles) -> UInt8[Tensor, "n C H W"]:
        return _stacked(partial(decode_file, self.folder, shape=self.image_shape), files, shape=self.image_shape)


def _stacked(
    image_of: Callable[[Job], np.ndarray], jobs: Sequence[Job], *, shape: tuple[int, int, int]
) -> UInt8[Tensor, "n C H W"]:
    """The image (C, H, W) of each job, in order."""
    images = np.empty((len(jobs), *shape), dtype=np.uint8)
    # threads and not `parallel`: Pillow decodes without the GIL, and nothing is copied between processes
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row, pixels in zip(images, pool.map(image_of, jobs), strict=True):
            row[:] = pixels
    return torch.from_numpy(images)
