"""Images of a source, decoded ahead by processes while a network trains on those before.

torch's `DataLoader` owns the processes, the order, and how many batches wait. What is asked for is named in full, rows
and views, so that neither the number of processes nor their haste changes anything.
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
    """A batch of a source's images: by their rows alone as `Source.take` gives them, with boxes as `Source.views`."""

    rows: Int64[Tensor, " n"]
    boxes: Int64[Tensor, "n 4"] | None = None
    flips: Bool[Tensor, " n"] | None = None


class Reader:
    """Batches of a source; where it is known which ones come next, `workers` processes decode them ahead.

    workers: as of `prefetched`; 0: batches are read as they are asked for.
    """

    def __init__(self, source: Source, *, workers: int = 0) -> None:
        self.source, self.workers = source, workers
        self._loaded: Iterator[Tensor] | None = None
        self._expected = deque[Wanted]()

    @contextmanager
    def ahead(self, batches: Iterable[Wanted], *, size: tuple[int, int] | None = None) -> Iterator[None]:
        """Within the block, `batches` are asked for, in this order and at this `size`; its end ends the processes."""
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
        """A batch; raises what `prefetched` raises."""
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
    """The images of each batch, in order; a batch is drawn when its decoding begins. size: (H, W) of views.

    workers: processes of this machine, no more than it has cores. Each is at most `ahead` batches ahead, which bounds
    the memory. 0: images are decoded here as they are asked for; images in memory always are, unless views of them are
    wanted. Closing the iterator ends the processes. Raises what `take` and `views` raise, and `OutOfResources` where a
    process is lost.
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
            f"one of {count} processes that decode images ended, most likely for lack of memory; fewer need less"
        ) from error
    finally:
        # torch ends the processes when the last reference goes, and a failure that somebody keeps may have one
        getattr(loaded, "_shutdown_workers", lambda: None)()


class _Decoding(Dataset[Any]):
    """The batches of a source, by what is wanted of them."""

    def __init__(self, source: Source, size: tuple[int, int] | None) -> None:
        self.source, self.size = source, size

    def __getitem__(self, wanted: tuple[np.ndarray | None, ...]) -> np.ndarray | DDError:
        rows, boxes, flips = (None if array is None else torch.from_numpy(array) for array in wanted)
        assert rows is not None
        try:
            return _images(self.source, Wanted(rows, boxes, flips), self.size).numpy()
        except DDError as error:
            return error  # raised, it would come back with a traceback in its line


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
        generator=torch.Generator(),  # the processes draw nothing; without one, the caller's would be drawn from
    )
    return iter(loader)


def _as_it_is(images: Any) -> Any:
    return images
