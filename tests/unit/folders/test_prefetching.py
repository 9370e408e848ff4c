"""Batches that processes decode ahead: the same ones in the same order, few at a time, and failures in one line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from image_trees import load, put_classes, spoil

from dd_core.augment.views import draw_boxes
from dd_core.datasets.streaming import StreamedFolder
from dd_core.errors import OutOfResources, UserError
from dd_core.streams import generator
from dd_core.testing import blobs
from dd_core.training.prefetching import Wanted, prefetched


@pytest.fixture
def source(root: Path) -> StreamedFolder:
    put_classes(root, count=10)
    streamed = load(root, memory_limit=0)
    assert isinstance(streamed, StreamedFolder)
    return streamed


@pytest.fixture
def begun() -> Callable[[], int]:
    """How many processes of torch's loaders were begun by a test and are alive.

    joblib's are none of them: those stay from one test to the next, and are begun anew in the background.
    """

    def forked() -> set[BaseProcess]:
        return {child for child in multiprocessing.active_children() if isinstance(child, multiprocessing.Process)}

    before = forked()
    return lambda: len(forked() - before)


def orders(source: StreamedFolder, *, size: int = 5) -> list[torch.Tensor]:
    draw = generator(0, "a test's order")
    return [rows for _ in range(2) for rows in torch.randperm(len(source), generator=draw).split(size)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_batches_are_those_of_the_source_in_order(source: StreamedFolder, workers: int) -> None:
    batches = orders(source)
    before = torch.get_rng_state()
    images = list(prefetched(source, map(Wanted, batches), workers=workers))
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator was drawn from"
    assert [len(shown) for shown in images] == [5, 5, 5, 1] * 2
    assert all(torch.equal(shown, source.take(rows)) for shown, rows in zip(images, batches, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_decoded_ahead_too(source: StreamedFolder, workers: int) -> None:
    draw, wanted = generator(0, "a test's views"), list[Wanted]()
    for rows in orders(source):
        boxes = draw_boxes(source.sizes(rows), scale=(0.1, 1.0), ratio=(0.5, 2.0), generator=draw)
        wanted.append(Wanted(rows, boxes, torch.rand(len(rows), generator=draw) < 0.5))
    wanted.append(Wanted(wanted[0].rows, wanted[0].boxes))
    images = list(prefetched(source, wanted, size=(4, 7), workers=workers))
    for shown, (rows, boxes, flips) in zip(images, wanted, strict=True):
        assert boxes is not None
        flips = torch.zeros(len(rows), dtype=torch.bool) if flips is None else flips
        assert torch.equal(shown, source.views(rows, boxes, flips=flips, size=(4, 7)))


def test_few_batches_wait_and_leaving_early_ends_the_processes(
    source: StreamedFolder, begun: Callable[[], int]
) -> None:
    drawn: list[int] = []

    def endless() -> Iterator[Wanted]:
        while True:
            drawn.append(len(drawn))
            yield Wanted(torch.tensor([len(drawn) % len(source)]))

    images = prefetched(source, endless(), workers=2, ahead=3)
    for index in range(5):
        assert torch.equal(next(images), source.take(torch.tensor([(index + 1) % len(source)])))
        assert len(drawn) <= 2 * 3 + index + 1
    assert begun() == min(2, os.cpu_count() or 1)
    images.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not begun()


def _ended(begun: Callable[[], int]) -> bool:
    """Whether the processes end; a busy machine takes a while."""
    for _ in range(100):
        if not begun():
            return True
        time.sleep(0.1)
    return False


def test_a_failure_is_the_line_that_it_is_without_processes(
    root: Path, source: StreamedFolder, begun: Callable[[], int]
) -> None:
    spoil(root)
    lines: list[str] = []
    for workers in (0, 2):
        with pytest.raises(UserError, match="its content changed") as caught:
            list(prefetched(source, map(Wanted, orders(source)), workers=workers))
        assert _ended(begun), f"the failure, which is kept here, keeps {multiprocessing.active_children()}"
        lines.append(str(caught.value))
    assert lines[0] == lines[1]


class Fatal(StreamedFolder):
    """Images that no process survives."""

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().take(indices)


def test_a_lost_process_is_a_lack_of_resources(source: StreamedFolder) -> None:
    fatal = Fatal(**vars(source) | {"native_sizes": source.native_sizes})
    with pytest.raises(OutOfResources, match=r"one of \d processes that decode images ended"):
        list(prefetched(fatal, map(Wanted, orders(source)), workers=2))


def test_images_in_memory_need_no_processes(begun: Callable[[], int]) -> None:
    source = blobs()
    images = prefetched(source, map(Wanted, torch.arange(10).split(4)), workers=2)
    assert torch.equal(next(images), source.images[:4])
    assert not begun()
    assert torch.equal(torch.cat(list(images)), source.images[4:10])
