"""Tasks that take steps in turn in one process, so that a GPU works on several of them at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from dd_core.errors import Interrupted
from dd_core.system import device as devices

R = TypeVar("R")
Task = Generator[object, None, R]


def in_turns(tasks: Iterable[Callable[[], Task[R]]], device: torch.device, *, most: int) -> Iterator[R]:
    """The results of `tasks`, in the order in which they are done; up to `most` tasks take a step in turn.

    Calling a task begins it; then it yields after each of its steps, and returns its result. Each task draws from
    torch's global generators as if it were alone. On a GPU the steps of each task lie in a `Queue` of its own, and
    another task begins only where memory has room for it; a task that runs out of memory beside others begins again
    when it is alone. Where a task raises, the tasks that have begun are finished before the error is raised. An
    interrupt ends all at once.
    """
    waiting, running = deque(tasks), list[_Running[R]]()
    free = devices.queues(device, most)
    together, full, failure = most, False, None
    try:
        while running or (waiting and failure is None):
            if waiting and failure is None and len(running) < together and not full:
                full = bool(running) and not devices.has_room(device, beside=len(running))
                if not full:
                    running.append(_Running(waiting.popleft(), free.pop(), device, alone=most == 1))
            for one in [*running]:
                try:
                    if not one.ends():
                        continue
                except Interrupted:
                    raise
                except Exception as error:
                    if len(running) > 1 and devices.is_out_of_memory(error):
                        waiting.appendleft(one.begin)
                        together = 1
                    else:
                        failure = failure or error
                running.remove(one)
                free.append(one.queue)
                full = False
                yield from one.result
        if failure is not None:
            raise failure
    finally:
        for one in running:
            one.task.close()
        devices.emptied(device, most)


class _Running(Generic[R]):
    """A task that has begun."""

    def __init__(
        self, begin: Callable[[], Task[R]], queue: devices.Queue, device: torch.device, *, alone: bool
    ) -> None:
        self.begin, self.task, self.queue, self.device = begin, begin(), queue, device
        self.result: list[R] = []  # at the end, the task's
        self._state = None if alone else devices.generator_states(device)
        queue.begin()

    def ends(self) -> bool:
        """Take a step; returns whether it was the last."""
        with self.queue.used(), self._own_draws():
            try:
                next(self.task)
            except StopIteration as end:
                self.result.append(end.value)
                return True
        return False

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        if self._state is None:
            yield
            return
        before = devices.generator_states(self.device)
        devices.set_generator_states(self.device, self._state)
        try:
            yield
        finally:
            self._state = devices.generator_states(self.device)
            devices.set_generator_states(self.device, before)
