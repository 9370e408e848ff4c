"""What the verbs say and how: an answer on stdout, progress and messages on stderr."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dd_apps.report.tables import Table, printable, rich_table

_PIPE_WIDTH = 400  # columns where nobody's terminal sets them: a table in a pipe is never folded
_PLAIN_SECONDS = 10.0  # between two progress lines where stderr is no terminal


@dataclass(frozen=True)
class Session:
    """One call of the program."""

    arguments: tuple[str, ...]
    json: bool = False

    @property
    def verb(self) -> str:
        """The first word that is no option."""
        return next((word for word in self.arguments if not word.startswith("-")), "")

    def resume_command(self) -> str:
        """This very command line, but for `--fresh`, which would start over."""
        return shlex.join(["dd-apps", *(word for word in self.arguments if word != "--fresh")])

    def reporter(self) -> TerminalReporter:
        """Where a run reports its progress; no bar beside JSON."""
        return TerminalReporter(bar=not self.json and sys.stderr.isatty())


@dataclass(frozen=True)
class Answer:
    """What a verb found: `fields` for `--json`, `show` for people, and the exit code."""

    fields: Mapping[str, Any]
    show: Callable[[Page], None]
    exit_code: int = 0


class Page:
    """Where an answer is written for people. Text is never taken as markup."""

    def __init__(self, file: IO[str]) -> None:
        width = None if file.isatty() else _PIPE_WIDTH
        self._console = Console(file=file, width=width, markup=False, highlight=False, emoji=False)

    def line(self, text: str = "", *, style: str = "") -> None:
        """One line, folded only by the terminal itself."""
        self._console.print(printable(text), style=style, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table with its title and notes."""
        self.line(table.title if table.rows else f"{table.title}: none", style="bold")
        if table.rows:
            self._console.print(rich_table(table))
        for note in table.notes:
            self.line(note)

    def facts(self, facts: Mapping[str, object]) -> None:
        """Aligned `name  value` lines."""
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            self.line(f"{name:<{width}}  {value}")


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send whatever a block, a library in it or a child process prints to stdout to stderr instead."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class TerminalReporter:
    """The runner's `Reporter`: a bar with the time left on a terminal, else a line every few seconds."""

    def __init__(self, *, bar: bool) -> None:
        self._bar = bar
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._plain = _PlainProgress()

    def start(self, name: str, *, first: int, total: int) -> None:
        """A run of `total` steps begins, or goes on, at step `first`."""
        if not self._bar or total == 0:
            self._plain = _PlainProgress(name, total, first)
            return
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._task = self._progress.add_task(name, total=total, completed=first, metrics="")

    def step(self, index: int, metrics: Mapping[str, float]) -> None:
        """Step `index` is done."""
        words = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._progress is None or self._task is None:
            self._plain.step(index, words)
        else:
            self._progress.update(self._task, completed=index + 1, metrics=words)

    def message(self, text: str) -> None:
        """One line for the user, above the bar."""
        if self._progress is None:
            print(printable(text), file=sys.stderr, flush=True)
        else:
            self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """The run has ended, or stopped."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


class _PlainProgress:
    """Progress for a log file."""

    def __init__(self, name: str = "", total: int = 0, first: int = 0) -> None:
        self._name, self._total, self._first = name, total, first
        self._began = self._spoke = time.monotonic()

    def step(self, index: int, words: str) -> None:
        now = time.monotonic()
        if now - self._spoke < _PLAIN_SECONDS:
            return
        self._spoke = now
        left = (now - self._began) / (index + 1 - self._first) * (self._total - index - 1)
        line = f"{self._name}: step {index + 1}/{self._total}, {left:.0f} s left"
        print(f"{line}  {words}".rstrip(), file=sys.stderr, flush=True)
