"""The decoded pixels of a folder as an artefact, made by processes that do without torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import PIL
from pydantic import Field

from dd_core import artefacts
from dd_core.artefacts import ArtefactSpec, Progress, Tensors
from dd_core.config import digest
from dd_core.datasets import decoding
from dd_core.datasets.decoding import ImageFile, decode_file, quiet
from dd_core.datasets.folder_index import Say, local
from dd_core.errors import UserError
from dd_core.system import parallel
from dd_core.system.parallel import Workers

if TYPE_CHECKING:
    from dd_core.datasets.streaming import StreamedFolder

_PART_BYTES = 16 << 20


class Files(NamedTuple):
    """Where the pixels of a `FolderPixelsSpec` come from."""

    folder: Path
    files: tuple[ImageFile, ...]


class FolderPixelsSpec(ArtefactSpec):
    """The decoded images of a list of files, in that order."""

    kind: ClassVar[str] = "folder"
    uses_torch: ClassVar[bool] = False

    fingerprint: str = Field(description="digest of the files' paths and contents")
    shape: tuple[int, int, int] = Field(description="channels, height and width of the decoded images")
    count: int = Field(description="number of images")
    part_size: int = Field(description="images in a part")
    pillow: str = Field(description="version of Pillow, which decodes")
    decoding: int = Field(description="version of what is done with Pillow's pixels")

    def parts(self) -> int:
        """Parts of `part_size` images; the last may be smaller."""
        return -(-self.count // self.part_size)

    def make_part(self, index: int, *, resources: Files, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Decode one part."""
        return {"images": _decode_part(_Part(self, index, resources))}, {}


def pixels_of(source: StreamedFolder) -> FolderPixelsSpec:
    """The artefact that holds all the pixels of `source`."""
    return FolderPixelsSpec(
        fingerprint=digest(source.files),
        shape=source.image_shape,
        count=len(source),
        part_size=max(1, min(4096, _PART_BYTES * len(source) // source.nbytes)),
        pillow=PIL.__version__,
        decoding=decoding.VERSION,
    )


@dataclass(frozen=True)
class _Part:
    spec: FolderPixelsSpec
    index: int
    source: Files


def _decode_part(part: _Part) -> np.ndarray:
    folder, files = part.source
    start = part.index * part.spec.part_size
    with quiet():
        wanted = files[start : start + part.spec.part_size]
        return np.stack([decode_file(folder, file, shape=part.spec.shape) for file in wanted])


def parts_of(source: StreamedFolder, *, workers: Workers, progress: Say) -> Iterator[np.ndarray]:
    """The pixels part by part: from the cache, or decoded here where the cache is of no use."""
    spec, files = pixels_of(source), Files(source.folder, source.files)
    workers = local(workers, spec.parts())
    try:
        cached = artefacts.get(spec, resources=files, workers=workers)
    except UserError as error:
        if _is_writable(artefacts.cache_folder()):
            raise
        progress(f"{error}: decoding without a cache")
        jobs = (_Part(spec, index, files) for index in range(spec.parts()))
        yield from parallel.run(_decode_part, jobs, workers=workers, uses_torch=False)
        return
    for index in range(spec.parts()):
        try:
            yield cached.part(index)[0]["images"]
        except UserError as error:
            progress(f"{error}; decoding these images again")
            yield _decode_part(_Part(spec, index, files))


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
