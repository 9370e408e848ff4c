"""The two sources that a folder can be: its images decoded when they are asked for, or all in memory.

Both use `decoding`, and not torchvision's transforms, and both have the fingerprint of the files: whichever side
of the memory limit a folder lies on, it is the same data, bit for bit and by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dd_core.config import digest
from dd_core.datasets.decoding import ImageFile, decode_file, quiet
from dd_core.datasets.folder_pixels import channel_counts
from dd_core.images import LabelledImages
from dd_core.system import surroundings
from dd_core.system.parallel import Workers


@dataclass(frozen=True, eq=False)
class LoadedFolder(LabelledImages):
    """A folder in memory. `content` is the fingerprint of its files; its subsets have that of their pixels."""

    content: str = field(kw_only=True)

    def fingerprint(self) -> str:
        """As of the same `StreamedFolder`."""
        return self.content


@dataclass(frozen=True, eq=False)
class StreamedFolder:
    """Labelled image files of one shape (C, H, W) below `folder`; labels: int64 (N,). `origin`: see `images.called`.

    workers: who decodes the files where all of them are decoded for an artefact.
    """

    folder: Path
    files: tuple[ImageFile, ...]
    labels: Int64[Tensor, " N"]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    origin: str = field(default="", kw_only=True)
    workers: Workers = field(default=Workers(), kw_only=True)

    @property
    def name(self) -> str:
        """Always "folder": it travels in manifests, which hold no paths."""
        return "folder"

    def __len__(self) -> int:
        return len(self.files)

    @property
    def nbytes(self) -> int:
        """Bytes of all the pixels, were they in memory."""
        channels, height, width = self.image_shape
        return len(self) * channels * height * width

    def fingerprint(self) -> str:
        """sha256 over shape, classes and, in order, each relative path and content sha256."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest([self.image_shape, self.classes, self.labels.tolist(), self.files])

    def take(self, indices: Int64[Tensor, " n"]) -> UInt8[Tensor, "n C H W"]:
        """The images at `indices`, in that order; raises `UserError` for a file that changed meanwhile."""
        return self._decoded([self.files[index] for index in indices.tolist()])

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """All images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self._decoded(self.files[start : start + size])

    @surroundings.own()
    def channel_counts(self) -> Int64[Tensor, "C 256"]:
        """How often each value occurs in each channel: an artefact, which is made once for the same files.

        Raises `UserError` for a file that changed meanwhile.
        """
        return torch.from_numpy(channel_counts(self))

    @surroundings.own()
    def subset(self, indices: Int64[Tensor, " n"]) -> StreamedFolder:
        """A source of the images at `indices`, with the same classes."""
        files = tuple(self.files[index] for index in indices.tolist())
        return replace(self, files=files, labels=self.labels[indices])

    @surroundings.own()
    def _decoded(self, files: list[ImageFile] | tuple[ImageFile, ...]) -> UInt8[Tensor, "n C H W"]:
        images = np.empty((len(files), *self.image_shape), dtype=np.uint8)
        read = partial(decode_file, self.folder, shape=self.image_shape)
        # threads and not `parallel`: Pillow decodes without the GIL, and nothing is copied between processes
        with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for row, pixels in zip(images, pool.map(read, files), strict=True):
                row[:] = pixels
        return torch.from_numpy(images)
