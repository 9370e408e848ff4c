"""Progress for people: tqdm's bars in a terminal or a notebook, and in a log a line every `LINE_SECONDS`.

    distill("dm", images, 1, progress=True)

Bars and lines say how many units of each stage are done, and how long the innermost stage will take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from dd_core.system.reporter import Reporter, Silent, Stage

LINE_SECONDS = 10.0  # between two lines of a log
DELAY = 5.0  # seconds that a stage may take before it has a bar


class Lines:
    """A reporter for a log: a line every `LINE_SECONDS` says how far the stages under way are, and the time left."""

    def __init__(self, say: Callable[[str], object] | None = None) -> None:
        """`say` writes a line; without it lines go to stderr."""
        self._say = say or _to_stderr
        self._stages: list[_Line] = []
        self._spoke = 0.0

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """A stage whose progress is told as long as it lasts."""
        line = _Line(self, name, total, first)
        if not self._stages:
            self._spoke = line.began
        self._stages.append(line)
        try:
            yield line
        finally:
            self._stages.remove(line)

    def message(self, text: str) -> None:
        """One line for the user."""
        self._say(text)

    def advanced(self, line: _Line, metrics: Mapping[str, float] | None) -> None:
        """Say how far all stages are, unless the last line is younger than `LINE_SECONDS`."""
        now = time.monotonic()
        if now - self._spoke < LINE_SECONDS:
            return
        self._spoke = now
        left = (now - line.began) / (line.done - line.first) * (line.total - line.done)
        path = ", ".join(f"{stage.name}: {stage.done} of {stage.total}" for stage in self._stages)
        self._say(f"{path}, {left:.0f} s left  {words(metrics)}".rstrip())


class _Line:
    """A stage in a log."""

    def __init__(self, lines: Lines, name: str, total: int, first: int) -> None:
        self.name, self.total, self.first, self.done = name, total, first, first
        self.began = time.monotonic()
        self._lines = lines

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        self.done += 1
        self._lines.advanced(self, metrics)


class Progress:
    """A reporter for a program or a notebook: bars where somebody watches, else `Lines`.

    A stage has a bar from `DELAY` seconds after its beginning until its end: quick work leaves no trace.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self._depth = 0

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """A bar below those of the stages around it, or lines."""
        if not watched() or total == 0:
            with self._lines.stage(name, total=total, first=first) as stage:
                yield stage
            return
        bar = tqdm(
            desc="  " * self._depth + name,
            total=total,
            initial=first,
            delay=DELAY,
            position=self._depth,
            leave=False,
            dynamic_ncols=True,
        )
        self._depth += 1
        try:
            yield _Bar(bar)
        finally:
            self._depth -= 1
            bar.close()

    def message(self, text: str) -> None:
        """One line for the user, above the bars."""
        if not self._depth:
            self._lines.message(text)
            return
        tqdm.write(text, file=sys.stderr)


class _Bar:
    """A stage as a bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        if metrics:
            self._bar.set_postfix_str(words(metrics), refresh=False)
        self._bar.update()


def reporting(reporter: Reporter | None, *, progress: bool) -> Reporter:
    """The reporter of a call: the one that is given, or `Progress` where the caller asks for it, or a silent one."""
    if reporter is not None:
        return reporter
    return Progress() if progress else Silent()


def watched() -> bool:
    """Whether stderr is a terminal, or the program a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def words(metrics: Mapping[str, float] | None) -> str:
    """Metrics as text: `loss 0.25 rate 0.01`."""
    return " ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
