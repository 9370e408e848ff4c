"""stdin, stdout and stderr as a shell may leave them: closed, on a full disk, into a pipe that nobody reads any more.

No verb fails because it cannot print: the verb runs to its end, and `main` checks afterwards whether its answer was
written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_SPELT = str.maketrans({"±": "+-"})  # for an encoding that lacks the character


class Written:
    """A text stream whose writes never raise: `failure` keeps the first error, and later text is dropped.

    A character that the stream's encoding lacks is written as an escape. All other attributes are the stream's.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write `text`, unless the stream has failed; returns the number of its characters."""
        if self.failure is None:
            try:
                self._stream.write(encodable(text, self._stream))
            except OSError as error:
                self.failure = error
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it has failed."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.failure = error

    def discard(self) -> None:
        """Point the file of a failed stream to the null device: Python flushes the stream once more at exit."""
        if self.failure is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def encodable(text: str, stream: Any) -> str:
    """`text` with escapes for what the stream cannot encode."""
    encoding, errors = getattr(stream, "encoding", None) or "utf-8", getattr(stream, "errors", None) or "strict"
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return text.translate(_SPELT).encode(encoding, "backslashreplace").decode(encoding)
    return text


@contextmanager
def taken() -> Iterator[Written]:
    """Within the block, writing to stdout or stderr never raises; yields stdout, for its `failure`.

    A closed stdin, stdout or stderr becomes the null device: otherwise the next opened file would get its number, and
    would receive what libraries and child processes print.
    """
    _fill_closed()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as null:
        out, err = (Written(stream or null) for stream in before)
        sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
        try:
            yield out
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before
            for written in (out, err):
                written.discard()


def _fill_closed() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest number that is free: this one
