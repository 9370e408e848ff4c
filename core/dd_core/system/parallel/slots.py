"""The slot of a local worker process: the smallest number that no other living worker of the same parent has.

The slot decides which GPU the worker computes on. A worker that is replaced leaves both to its successor.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import BaseFileLock, FileLock, Timeout


def folder() -> Path:
    """The folder in which the workers of this process claim their slots; it is removed with the process."""
    return Path(_folder().name)


def pin(folder: Path) -> None:
    """Have this process compute on the GPU of its slot; without GPUs nothing changes."""
    from dd_core.system import device  # workers whose jobs do without torch import this module too

    device.pin(claim(folder))


@cache
def claim(folder: Path) -> int:
    """The slot of this process among those of `folder`, from the first call until the process ends."""
    return next(slot for slot in count() if _locked(folder / str(slot)))


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="dd-apps-slots-")


@cache  # the cache keeps the lock object: a lock that nothing refers to is released
def _locked(path: Path) -> BaseFileLock | None:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
