"""The time limit while a run's artefacts are made: the run may stop after any part, and resumes with those made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from dd_core.system.reporter import Reporter, Stage


class TimedReporter:
    """A reporter that hands everything on to another reporter, and checks the time after each unit of work.

    `check` is given what is done ("3 of 10 experts"), and raises once the time limit is reached.
    """

    def __init__(self, reporter: Reporter, check: Callable[[str], None]) -> None:
        self._reporter, self._check = reporter, check

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """See `Reporter`."""
        with self._reporter.stage(name, total=total, first=first) as stage:
            yield _TimedStage(stage, self._check, name, first, total)

    def message(self, text: str) -> None:
        """See `Reporter`."""
        self._reporter.message(text)


class _TimedStage:
    def __init__(self, stage: Stage, check: Callable[[str], None], name: str, done: int, total: int) -> None:
        self._stage, self._check, self._name, self._done, self._total = stage, check, name, done, total

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        self._stage.advance(metrics)
        self._done += 1
        if self._done < self._total:  # after the last part the artefact is still put together
            self._check(f"{self._done} of {self._total} {self._name}")
