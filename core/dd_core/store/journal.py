"""A folder in which one process at a time begins a run, scenario or search, or continues an earlier process's."""

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
    """The lock of a folder, the identity of the work in it, and a JSON line for each finished part of that work.

    All methods but `locked` are called under the lock. A folder that keeps its identity elsewhere calls only
    `refuse_difference`.

    Words in error lines: work: what processes do here; option: the option that gives another folder; contents: what is
    here already; remedy: what `fresh` is for. identity, lines: names of the files of the identity and of the records.
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
        """Lock the folder, made if missing, for this process; remove the temporary files that killed writers left.

        Raises `UserError` where another process holds the lock, and for a folder that cannot be made.
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
        """Begin the work that `identity` describes, or continue it; `fresh` removes the records that are here first.

        Raises `UserError` for a folder of another identity, and for a folder with records but without an identity.
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
        """Write the identity of the work to the folder."""
        write_json(self.folder / self.identity, identity)

    def identified(self) -> Mapping[str, Any] | None:
        """The identity in the folder, or None where there is none; raises `UserError` where it cannot be read."""
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
        """Raise `UserError`, with each key that differs, unless `held` (by `where`, or the folder) equals `asked`."""
        changes = difference(held, json.loads(json.dumps(plain(asked))))  # as files have it: a tuple is a list
        if changes:
            raise UserError(
                f"{where or self.folder}: holds {self.contents} other settings ({'; '.join(changes)}); {self.advice}"
            )

    @property
    def advice(self) -> str:
        """What a user can do about a folder of another identity, in words."""
        return f"use another {self.option}, or {FRESH} {self.remedy}"

    # --- what was done ----------------------------------------------------------------------------------------------

    def records(self) -> list[dict[str, Any]]:
        """The records that were appended, in order; a line that a kill cut short is left out."""
        return read_lines(self.folder / self.lines)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, which survives a kill of this process."""
        append_line(self.folder / self.lines, record)

    def keep(self, condition: Callable[[dict[str, Any]], bool] = lambda record: True) -> None:
        """Remove records that fail `condition`, and a line that a kill cut short, as `append` would continue it."""
        keep_lines(self.folder / self.lines, condition)

    def forget(self) -> None:
        """Remove the records, and then the identity."""
        with disk_errors(self.folder):
            (self.folder / self.lines).unlink(missing_ok=True)
            (self.folder / self.identity).unlink(missing_ok=True)
