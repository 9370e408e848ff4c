"""Images of a source, decoded ahead by processes while a network trains on earlier images.

torch's `DataLoader` owns the processes, the order, and the number of waiting batches. A request names rows and views in
full, so neither the number of processes nor their timing changes any result.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dd_core.errors import DDError, OutOfResources
from dd_core.images import LabelledImages, Source
from dd_core.system import surroundings


class Wanted(NamedTuple):
    """A request for a batch of a source's images: without boxes for `Source.take`, with boxes for `Source.views`."""

    rows: Int64[Tensor, " n"]
    boxes: Int64[Tensor, "n 4"] | None = None
    flips: Bool[Tensor, " n"] | None = None


class Reader:
    """Batches of a source, which `workers` processes decode ahead where the next batches are announced.

    workers: see `prefetched`; 0: batches are read on demand.
    """

    def __init__(self, source: Source, *, workers: int = 0) -> None:
        self.source, self.workers = source, workers
        self._loaded: Iterator[Tensor] | None = None
        self._expected = deque[Wanted]()

    @contextmanager
    def ahead(self, batches: Iterable[Wanted], *, size: tuple[int, int] | None = None) -> Iterator[None]:
        """Announce calls of `images` for `batches`, in this order and at `size`; the block's end stops processes."""
        if not self.workers:
            yield
            return
        self._loaded = loaded = prefetched(self.source, self._noted(batches), size=size, workers=self.workers)
        try:
            yield
        finally:
            loaded.close()
            self._loaded = None
            self._expected.clear()

    def images(self, wanted: Wanted, *, size: tuple[int, int] | None = None) -> UInt8[Tensor, "n C H W"]:
        """The images of a batch; raises what `prefetched` raises."""
        if self._loaded is None:
            return _images(self.source, wanted, size)
        images = next(self._loaded)
        assert torch.equal(self._expected.popleft().rows, wanted.rows), "another batch was announced"
        return images

    def _noted(self, batches: Iterable[Wanted]) -> Iterator[Wanted]:
        for wanted in batches:
            self._expected.append(wanted)
            yield wanted


def prefetched(
    source: Source,
    batches: Iterable[Wanted],
    *,
    size: tuple[int, int] | None = None,
    workers: int = 0,
    ahead: int = 2,
) -> Generator[UInt8[Tensor, "n C H W"]]:
    """The images of each batch, in order; `batches` is advanced when the decoding of a batch begins.

    size: (H, W) of views; None: whole images. workers: the number of processes, at most the number of cores; each is at
    most `ahead` batches ahead, which bounds the memory; 0: this process decodes images on demand, as it always does for
    images in memory, unless views of them are wanted. Closing the iterator ends the processes. Raises what `take` and
    `views` raise, and `OutOfResources` where a process is lost.
    """
    if workers == 0 or (size is None and isinstance(source, LabelledImages)):
        yield from (_images(source, wanted, size) for wanted in batches)
        return
    count = min(workers, os.cpu_count() or 1)
    loaded = _loading(_Decoding(source, size), batches, workers=count, ahead=ahead)
    try:
        for images in loaded:
            if isinstance(images, DDError):
                raise images
            yield torch.from_numpy(images)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OutOfResources(
            f"one of {count} processes that decode images ended, most likely for lack of memory; use fewer processes"
        ) from error
    finally:
        # torch ends the processes with the last reference to the loader, which a kept exception may hold
        getattr(loaded, "_shutdown_workers", lambda: None)()


class _Decoding(Dataset[Any]):
    """A torch `Dataset` whose index is a `Wanted`, as numpy arrays, and whose item is that batch of the source."""

    def __init__(self, source: Source, size: tuple[int, int] | None) -> None:
        self.source, self.size = source, size

    def __getitem__(self, wanted: tuple[np.ndarray | None, ...]) -> np.ndarray | DDError:
        rows, boxes, flips = (None if array is None else torch.from_numpy(array) for array in wanted)
        assert rows is not None
        try:
            return _images(self.source, Wanted(rows, boxes, flips), self.size).numpy()
        except DDError as error:
            return error  # raised here, the error would come back with a traceback in its line


def _images(source: Source, wanted: Wanted, size: tuple[int, int] | None) -> Tensor:
    if size is None:
        return source.take(wanted.rows)
    assert wanted.boxes is not None
    flips = torch.zeros(len(wanted.rows), dtype=torch.bool) if wanted.flips is None else wanted.flips
    return source.views(wanted.rows, wanted.boxes, flips=flips, size=size)


@surroundings.own()
def _loading(
    decoding: _Decoding, batches: Iterable[Wanted], *, workers: int, ahead: int
) -> Iterator[np.ndarray | DDError]:
    # as numpy arrays both ways: tensors would travel through /dev/shm, which is small in a container
    wanted = (tuple(None if tensor is None else tensor.numpy() for tensor in batch) for batch in batches)
    loader = DataLoader(
        decoding,
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # without one, torch would draw from the caller's generator
    )
    return iter(loader)


def _as_it_is(images: Any) -> Any:
    return images
