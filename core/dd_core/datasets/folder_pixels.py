"""Artefacts of a folder's files: their decoded pixels, and the histogram of each channel.

The parts of both are made by processes that do not import torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import PIL
from pydantic import Field

from dd_core import artefacts
from dd_core.artefacts import ArtefactSpec, Progress, Tensors
from dd_core.config import digest_of_list
from dd_core.datasets import decoding
from dd_core.datasets.decoding import decode_file, quiet
from dd_core.datasets.file_rows import ImageFiles
from dd_core.datasets.folder_index import Say, local
from dd_core.errors import UserError
from dd_core.system import parallel
from dd_core.system.parallel import Workers

if TYPE_CHECKING:
    from dd_core.datasets.streaming import StreamedFolder

_PART_BYTES = 16 << 20
_COUNTED_FILES = 2048  # files in a part of channel statistics: about a minute of decoding photographs


class Files(NamedTuple):
    """Where the pixels of a `FilesSpec` come from."""

    folder: Path
    files: ImageFiles


class FilesSpec(ArtefactSpec):
    """An artefact made from the decoded images of a list of files, part by part."""

    uses_torch: ClassVar[bool] = False

    fingerprint: str = Field(description="digest of the files' paths and contents")
    shape: tuple[int, int, int] = Field(description="channels, height and width of the decoded images")
    count: int = Field(description="number of images")
    part_size: int = Field(description="images in a part")
    pillow: str = Field(description="version of Pillow, which decodes")
    decoding: int = Field(description="version of this library's own decoding steps after Pillow's")

    def parts(self) -> int:
        """Parts of `part_size` images; the last may be smaller."""
        return -(-self.count // self.part_size)


class FolderPixelsSpec(FilesSpec):
    """The decoded images of a list of files, in that order."""

    kind: ClassVar[str] = "folder"

    def make_part(self, index: int, *, resources: Files, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Decode one part."""
        return {"images": _decode_part(_Part(self, index, resources))}, {}


class ChannelStatsSpec(FilesSpec):
    """The histogram of the 256 values in each channel of a list of files: it gives mean and deviation exactly."""

    kind: ClassVar[str] = "channel-stats"
    verb: ClassVar[str] = "counting"

    def make_part(self, index: int, *, resources: Files, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Count one part, a file at a time."""
        return {"counts": _count_part(_Part(self, index, resources))}, {}


S = TypeVar("S", bound=FilesSpec)


def _spec_of(kind: type[S], source: StreamedFolder, *, part_size: int) -> S:
    return kind(
        fingerprint=digest_of_list(source.files),
        shape=source.image_shape,
        count=len(source),
        part_size=part_size,
        pillow=PIL.__version__,
        decoding=decoding.VERSION,
    )


def pixels_of(source: StreamedFolder) -> FolderPixelsSpec:
    """The artefact that holds all the pixels of `source`."""
    part_size = max(1, min(4096, _PART_BYTES * len(source) // source.nbytes))
    return _spec_of(FolderPixelsSpec, source, part_size=part_size)


@dataclass(frozen=True)
class _Part:
    spec: FilesSpec
    index: int
    source: Files


def _decode_part(part: _Part) -> np.ndarray:
    return np.stack(list(_images_of(part)))


def _count_part(part: _Part) -> np.ndarray:
    counts = np.zeros((part.spec.shape[0], 256), dtype=np.int64)
    for image in _images_of(part):
        for channel, values in zip(counts, image, strict=True):
            channel += np.bincount(values.reshape(-1), minlength=256)
    return counts


def _images_of(part: _Part) -> Iterator[np.ndarray]:
    folder, files = part.source
    start = part.index * part.spec.part_size
    with quiet():
        for file in files[start : start + part.spec.part_size]:
            yield decode_file(folder, file, shape=part.spec.shape)


def parts_of(source: StreamedFolder, *, workers: Workers, progress: Say) -> Iterator[np.ndarray]:
    """The pixels part by part: from the cache, or decoded anew where the cache cannot be written or is damaged."""
    spec, files = pixels_of(source), Files(source.folder, source.files)
    workers = local(workers, spec.parts())
    try:
        cached = artefacts.get(spec, resources=files, workers=workers)
    except UserError as error:
        if _is_writable(artefacts.cache_folder()):
            raise
        progress(f"{error}; decoding without a cache")
        jobs = (_Part(spec, index, files) for index in range(spec.parts()))
        yield from parallel.run(_decode_part, jobs, workers=workers, uses_torch=False)
        return
    for index in range(spec.parts()):
        try:
            yield cached.part(index)[0]["images"]
        except UserError as error:
            progress(f"{error}; decoding these images again")
            yield _decode_part(_Part(spec, index, files))


def channel_counts(source: StreamedFolder) -> np.ndarray:
    """int64 (C, 256): how often each value occurs in each channel; from the cache, or counted now and cached."""
    spec, files = _spec_of(ChannelStatsSpec, source, part_size=_COUNTED_FILES), Files(source.folder, source.files)
    workers = local(source.workers, spec.parts())
    try:
        parts = [tensors["counts"] for tensors, _ in artefacts.get(spec, resources=files, workers=workers)]
    except UserError:
        if _is_writable(artefacts.cache_folder()):
            raise
        jobs = (_Part(spec, index, files) for index in range(spec.parts()))
        parts = list(parallel.run(_count_part, jobs, workers=workers, uses_torch=False))
    return np.sum(parts, axis=0)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
