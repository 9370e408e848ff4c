"""A disk that can be made to fail, or the process to die, at each single call that `store` makes for writing."""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dd_core.store import files as store

WATCHED = ("open", "fsync", "replace")

Moment = Callable[[str], None]
"""Called before and after each call, and with half of the bytes written; may raise, or kill."""


class _File:
    """A file opened for writing; each `write` has a middle."""

    def __init__(self, file: Any, moment: Moment) -> None:
        self._file, self._moment = file, moment

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()

    def write(self, data: Any) -> None:
        self._moment("before write")
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._moment("within write")
        self._file.write(data[half:])
        self._file.flush()
        self._moment("after write")

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


class _Os:
    """The module `os`, with the watched functions watched."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return _watch(name, real, self._moment) if name in WATCHED else real


def _watch(name: str, real: Callable[..., Any], moment: Moment) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        moment(f"before {name}")
        result = real(*arguments)
        try:
            moment(f"after {name}")
        except BaseException:
            if name == "open":
                os.close(result)
            raise
        return result

    return call


@contextmanager
def watched(moment: Moment) -> Iterator[None]:
    """Within the block, everything that `store` does to write goes through `moment`."""

    def opened(path: Path, mode: str = "r", **options: Any) -> Any:
        if "w" not in mode and "a" not in mode:
            return builtins.open(path, mode, **options)
        moment("before open")
        return _File(builtins.open(path, mode, **options), moment)

    store.os, store.open = _Os(moment), opened  # type: ignore[attr-defined]
    try:
        yield
    finally:
        store.os = os
        del store.open  # type: ignore[attr-defined]


class Counter:
    """How many moments there are, and what each is."""

    def __init__(self) -> None:
        self.moments: list[str] = []

    def __call__(self, what: str) -> None:
        self.moments.append(what)


class KillAt:
    """kill -9, sent to oneself at the given moment, counted from 0."""

    def __init__(self, index: int) -> None:
        self.left = index

    def __call__(self, what: str) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


class FailAt:
    """An OSError at the given moment; the disk stays broken from then on, or not."""

    def __init__(self, index: int, number: int, *, for_good: bool) -> None:
        self.left, self.number, self.for_good = index, number, for_good

    def __call__(self, what: str) -> None:
        failing = self.left <= 0 if self.for_good else self.left == 0
        self.left -= 1
        if failing and not what.startswith("after"):
            raise OSError(self.number, os.strerror(self.number))
