"""A folder in which one process at a time goes on with what an earlier one began: a run, a scenario, a search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dd_core.config import difference, plain
from dd_core.errors import FRESH, OUT, Option, UserError
from dd_core.store.files import (
    append_line,
    disk_errors,
    keep_lines,
    read_json,
    read_lines,
    remove_leftovers,
    write_json,
)

LOCK = "lock"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The lock of a folder, what the folder is of, and a line of JSON for each thing that was done.

    All methods but `locked` are called under the lock. A folder that keeps its identity elsewhere calls only
    `refuse_difference`.

    work: what processes do here, in the user's word. option: what gives another folder. contents, remedy: the words
    about what is here already and what `fresh` does to it. identity, lines: the files' names.
    """

    folder: Path
    work: str = "run"
    option: Option = OUT
    contents: str = "a run with"
    remedy: str = "to start over"
    identity: str = "identity.json"
    lines: str = "records.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, made where there is none, for this process alone; remove what a killed writer left.

        Raises `UserError` where another process is at work, and for a folder that cannot be made.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"{self.folder}: another {self.work} is at work here; wait for it, or use another {self.option}"
                ) from None
        try:
            remove_leftovers(self.folder)
            yield
        finally:
            lock.release()

    # --- what the folder is of --------------------------------------------------------------------------------------

    def claim(self, identity: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Begin what `identity` describes, or go on with it; `fresh` forgets what is here.

        Raises `UserError` where the folder is of something else, and where it does not say what its records are of.
        """
        if fresh:
            self.forget()
        held = self.identified()
        if held is None:
            if self.records():
                raise UserError(
                    f"{self.folder}: holds {self.lines} and no {self.identity} that says what they are; {self.advice}"
                )
            self.identify(identity)
        else:
            self.refuse_difference(held, identity)
            self.keep()

    def identify(self, identity: Mapping[str, Any]) -> None:
        """Say what the folder is of."""
        write_json(self.folder / self.identity, identity)

    def identified(self) -> Mapping[str, Any] | None:
        """What the folder is of, None where it does not say; raises `UserError` where that cannot be read."""
        path = self.folder / self.identity
        if not path.exists():
            return None
        held = read_json(path)
        if not isinstance(held, Mapping):
            raise UserError(f"{self.folder}: its {self.identity} is no JSON object; {self.advice}")
        return held

    def refuse_difference(
        self, held: Mapping[str, Any], asked: Mapping[str, Any], *, where: Path | None = None
    ) -> None:
        """Raise `UserError`, key by key, where `held` is not what is asked for; `where` is what holds it."""
        changes = difference(held, json.loads(json.dumps(plain(asked))))  # as files have it: a tuple is a list
        if changes:
            raise UserError(
                f"{where or self.folder}: holds {self.contents} other settings ({'; '.join(changes)}); {self.advice}"
            )

    @property
    def advice(self) -> str:
        """What to do where the folder is of something else."""
        return f"use another {self.option}, or {FRESH} {self.remedy}"

    # --- what was done ----------------------------------------------------------------------------------------------

    def records(self) -> list[dict[str, Any]]:
        """What was appended, in order; a line that a kill cut short is left out."""
        return read_lines(self.folder / self.lines)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, which survives a kill of this process."""
        append_line(self.folder / self.lines, record)

    def keep(self, condition: Callable[[dict[str, Any]], bool] = lambda record: True) -> None:
        """Forget the records that do not fulfil the condition, and a line that was cut short: none continues it."""
        keep_lines(self.folder / self.lines, condition)

    def forget(self) -> None:
        """Forget the records, and then what the folder is of."""
        with disk_errors(self.folder):
            (self.folder / self.lines).unlink(missing_ok=True)
            (self.folder / self.identity).unlink(missing_ok=True)
