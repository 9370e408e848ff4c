"""Tasks that take steps in turn in one process, so that a GPU works on several of them at the same time."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

import torch

from dd_core.system import device as devices

R = TypeVar("R")


def in_turns(tasks: Iterable[Generator[object, None, R]], device: torch.device, *, most: int) -> Iterator[R]:
    """The results of `tasks`, in the order in which they are done; up to `most` tasks take a step in turn.

    A task yields after each of its steps, and returns its result. On a GPU the steps of each task lie in a `Queue` of
    its own, and another task begins only where memory has room for it. Where a task raises, all of them are closed.
    """
    waiting, running = iter(tasks), list[tuple[Generator[object, None, R], devices.Queue]]()
    try:
        while True:
            if len(running) < most and (not running or devices.has_room(device, beside=len(running))):
                running += [(task, devices.Queue(device)) for task in [next(waiting, None)] if task is not None]
            if not running:
                return
            for task, queue in [*running]:
                try:
                    with queue.used():
                        next(task)
                except StopIteration as end:
                    running.remove((task, queue))
                    yield end.value
    finally:
        for task, _ in running:
            task.close()
