"""Progress of the engine's work, for a terminal, a notebook or a test: stages within stages, and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Stage(Protocol):
    """Work that is under way and consists of units: steps of a method, networks, parts of an artefact."""

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        """One more unit of the stage is done; `metrics` are what was measured in that unit."""


@runtime_checkable
class Reporter(Protocol):
    """A listener of the engine. The engine prints nothing itself."""

    def stage(self, name: str, *, total: int, first: int = 0) -> AbstractContextManager[Stage]:
        """Work of `total` units, of which `first` were done earlier; it ends with the block, finished or failed.

        Stages nest: a stage that begins within another's block is a part of the outer stage's current unit.
        """
        ...

    def message(self, text: str) -> None:
        """One line that the user should see."""


class Silent:
    """A reporter that says nothing, and the base class of reporters that use only some of the calls."""

    @contextmanager
    def stage(self, name: str, *, total: int, first: int = 0) -> Iterator[Stage]:
        """A stage that nobody watches."""
        del name, total, first
        yield self

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        """Hear that a unit of the innermost stage is done."""

    def message(self, text: str) -> None:
        """Hear a line for the user."""


class Messages(Silent):
    """A reporter that hands its messages to a function, such as `print`."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def message(self, text: str) -> None:
        """Hand on a line for the user."""
        self._say(text)
