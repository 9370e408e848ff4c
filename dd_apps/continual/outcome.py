"""The benchmark as a task of the command line: its two tables, its memories as sets, and all its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.experiment import run
from dd_apps.report.tables import Table, Unit
from dd_apps.task import Outcome
from dd_core.errors import Interrupted
from dd_core.runner import RunOptions


def run_task(scenario: ContinualScenario, folder: Path, options: RunOptions) -> Outcome:
    """Run the benchmark, and put what it found into the form that every task has. Raises what `run` raises."""
    try:
        results = run(
            scenario, workers=options.workers, reporter=options.reporter, folder=folder, device=options.device
        )
    except Interrupted as error:  # one of its jobs was; the command that it names is not the user's
        raise Interrupted(f"interrupted; to go on: {options.resume_command}", error.exit_code - 128) from None
    tables = [
        Table(title, rows, units=_units(rows), notes=results.notes[title]) for title, rows in results.tables.items()
    ]
    # a memory of real images was not made by a run, and is no distilled set
    kept = {name: ds for name, ds in results.memories.items() if ds.manifest.provenance is not None}
    drawn = {name: ds for name, ds in results.memories.items() if name not in kept}
    verdicts = {
        table: {row: {other: asdict(verdict) for other, verdict in against.items()} for row, against in rows.items()}
        for table, rows in results.verdicts.items()
    }
    return Outcome(tables, kept, {"matrices": results.matrices, "verdicts": verdicts}, drawn)


def _units(rows: Sequence[Mapping[str, Any]]) -> dict[str, Unit]:
    """Accuracies and what is made of them are the columns with a mean and a std; bytes and seconds say so."""
    spreads = {column for row in rows for column, value in row.items() if isinstance(value, Mapping)}
    units: dict[str, Unit] = dict.fromkeys(spreads, "percent")
    return {**units, "bytes": "bytes", "seconds": "seconds"}
