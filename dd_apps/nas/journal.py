"""The folder of a search: its lock, what the search is, and a line for each trial that has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dd_core import store
from dd_core.config import canonical, difference
from dd_core.errors import FRESH, Option, UserError

_JOURNAL = Option("journal")
_OTHERS = f"use another {_JOURNAL}, or {FRESH} to start over"


@dataclass(frozen=True)
class Journal:
    """A folder with `identity.json` and `records.jsonl`; all methods are called under its lock."""

    folder: Path

    @staticmethod
    @contextmanager
    def opened(folder: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Journal]:
        """The folder for this process alone, made where there is none; `fresh` forgets what is there.

        Raises `UserError` where another process is at work, and where the folder is of another identity.
        """
        with store.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"{folder}: another search is at work here; wait for it, or use another {_JOURNAL}"
                ) from None
        try:
            journal = Journal(folder)
            journal._prepare(identity, fresh=fresh)
            yield journal
        finally:
            lock.release()

    def records(self) -> list[dict[str, Any]]:
        """What was appended, in order; a line that a kill cut short is left out."""
        return store.read_lines(self._records)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, which survives a kill of this process."""
        store.append_line(self._records, record)

    @property
    def _records(self) -> Path:
        return self.folder / "records.jsonl"

    def _prepare(self, identity: Mapping[str, Any], *, fresh: bool) -> None:
        file = self.folder / "identity.json"
        store.remove_leftovers(self.folder)
        if fresh:
            with store.disk_errors(self.folder):
                self._records.unlink(missing_ok=True)
                file.unlink(missing_ok=True)
        if not file.exists():
            if self.records():
                raise UserError(f"{self.folder}: holds trials of which no identity.json says what they are; {_OTHERS}")
            store.write_json(file, identity)
        self._refuse_difference(store.read_json(file), identity)
        if self._records.exists():  # the next line must not continue one that was cut short
            store.keep_lines(self._records, lambda record: True)

    def _refuse_difference(self, held: object, identity: Mapping[str, Any]) -> None:
        if not isinstance(held, Mapping):
            raise UserError(f"{self.folder}: its identity.json is no JSON object; {_OTHERS}")
        if canonical(held) != canonical(identity):
            changes = "; ".join(difference(held, identity))
            raise UserError(f"{self.folder}: holds a search with other settings ({changes}); {_OTHERS}")
