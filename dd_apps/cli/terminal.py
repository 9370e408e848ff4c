"""Output of the verbs: an answer on stdout, progress and messages on stderr."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dd_apps.cli.standard import encodable
from dd_apps.report.tables import Table, printable, rich_table
from dd_core.system.progress import Lines, words
from dd_core.system.reporter import Stage

_PIPE_WIDTH = 400  # columns of output that is no terminal, so that a table in a pipe is not folded


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
        return shell_line(["dd-apps", *(word for word in self.arguments if word != "--fresh")])

    def reporter(self) -> TerminalReporter:
        """The reporter of a run's progress; it draws bars on a terminal, but not with `--json`."""
        return TerminalReporter(bar=not self.json and sys.stderr.isatty())


def shell_line(words: Iterable[str]) -> str:
    """A command for the user's shell, which can be pasted wherever it is shown.

    A word with a byte or a letter that a terminal or a file in this locale's encoding does not show is written by the
    octal numbers of its bytes, in $'...' (bash, zsh, ksh, POSIX 2024).
    """
    return " ".join(shlex.quote(word) if _is_shown(word) else _octal(word) for word in words)


def as_argument(path: Path) -> str:
    """A path as a word of a command; `./` before a leading dash keeps it from being read as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _is_shown(word: str) -> bool:
    return word.isprintable() and all(encodable(word, stream) == word for stream in (sys.stdout, sys.stderr))


def _octal(word: str) -> str:
    plain = frozenset(range(0x20, 0x7F)) - frozenset(b"\\'")
    return "$'" + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(word)) + "'"


@dataclass(frozen=True)
class Answer:
    """The answer of a verb: `fields` for `--json`, `show` for people, and the exit code."""

    fields: Mapping[str, Any]
    show: Callable[[Page], None]
    exit_code: int = 0


class Page:
    """The page on which an answer is written for people. Text is never taken as markup."""

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
    """Redirect to stderr what the block, a library or a child process prints to stdout."""
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
    """The engine's `Reporter`: on a terminal a bar with the time left for each stage, else a line every few seconds."""

    def __init__(self, *, bar: bool) -> None:
        self._bar = bar
        self._progress: Progress | None = None
        self._depth = 0
        self._lines = Lines(lambda text: print(printable(text), file=sys.stderr, flush=True))

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """A bar below the bars of enclosing stages. An inner bar is removed at its stage's end; the outermost stays."""
        if not self._bar or total == 0:
            with self._lines.stage(name, total=total, first=first) as stage:
                yield stage
            return
        progress = self._progress = self._progress or _bars()
        self._depth += 1
        progress.start()  # does nothing if already started
        task = progress.add_task("  " * (self._depth - 1) + name, total=total, completed=first, metrics="")
        try:
            yield _Bar(progress, task)
        finally:
            self._depth -= 1
            if self._depth:
                progress.remove_task(task)
            else:
                progress.stop()
                self._progress = None

    def message(self, text: str) -> None:
        """One line for the user, above the bars."""
        if self._progress is None:
            self._lines.message(text)
        else:
            self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=Console(stderr=True),
    )


@dataclass(frozen=True)
class _Bar:
    """A stage as a bar."""

    progress: Progress
    task: TaskID

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        self.progress.update(self.task, advance=1, metrics=words(metrics))
