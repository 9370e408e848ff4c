"""The files of finished jobs in the folder of a run: the next run of the same job only reads its outcome.

A file is named by a digest of all that determines the outcome, so a job of another scenario, with other images or in
another environment does not read it. Outcomes are JSON and distilled sets; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dd_apps.continual.job import Job, Ledger, Outcome, Trial
from dd_apps.continual.rows import Table
from dd_core import store
from dd_core.config import digest, plain
from dd_core.images import Source
from dd_core.system import device as devices

VERSION = 1  # raise it when a change of the code changes outcomes
FREE = ("rows", "orders", "others", "row", "protocols", "workers", "loggers")  # fields that do not identify a job


@dataclass(frozen=True)
class Finished:
    """The files of a job's outcome: figures, and the set that its memory held. Without a folder nothing is kept."""

    path: Path | None

    def read(self) -> Outcome | None:
        """The outcome that an earlier run left; None where there is none."""
        if self.path is None or not self.path.exists():
            return None
        figures = store.read_json(self.path)
        trials = {table: tuple(map(_trial, of_table)) for table, of_table in figures["trials"].items()}
        memory = store.read_set(self._set) if figures["memory"] else None
        return Outcome(trials, tuple(figures["counts"]), memory)

    def write(self, outcome: Outcome) -> None:
        """Write an outcome; the file of figures is written last, because it marks the outcome as complete."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if outcome.memory is not None:
            store.write_set(self._set, outcome.memory)
        trials = {table: [asdict(trial) for trial in of_table] for table, of_table in outcome.trials.items()}
        store.write_json(self.path, {"trials": trials, "counts": outcome.counts, "memory": outcome.memory is not None})

    def progress(self, table: Table, network: int) -> Path | None:
        """The file of the progress of a network in a table, as long as the job is not finished."""
        return None if self.path is None else self.path.with_suffix(f".{table}-{network}.state")

    @property
    def _set(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".safetensors")


def finished(job: Job, train: Source, test: Source) -> Finished:
    """The files of a job's outcome."""
    if job.own_folder is None:
        return Finished(None)
    return Finished(job.own_folder / f"job-{digest(identity(job, train, test))[:16]}.json")


def identity(job: Job, train: Source, test: Source) -> Mapping[str, Any]:
    """All that determines the outcome of a job."""
    scenario, row = job.scenario, job.row
    return {
        "version": VERSION,
        "scenario": {name: value for name, value in plain(scenario).items() if name not in FREE},
        "row": plain(scenario.row_of(row)),
        "method": scenario.memory_method(row),
        "tables": scenario.tables_of(row),
        "order": job.order,
        "images": [train.fingerprint(), test.fingerprint()],
        "environment": plain(devices.environment(devices.resolve(job.device))),
    }


def _trial(values: Mapping[str, Any]) -> Trial:
    return Trial(values["matrix"], values["known"], Ledger(**values["ledger"]))
