"""The benchmark as a task of the command line: tables, pictures, its memories as sets, and all its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.drawing import pictures
from dd_apps.continual.experiment import Results, run
from dd_apps.report.tables import Table, Unit
from dd_apps.task import Outcome
from dd_core import store
from dd_core.errors import Interrupted
from dd_core.runner import RunOptions

TRIALS = "trials.jsonl"  # everything that was measured, a network at a time


def run_task(scenario: ContinualScenario, folder: Path, options: RunOptions) -> Outcome:
    """Run the benchmark, and put what it found into the form that every task has. Raises what `run` raises."""
    try:
        results = run(
            scenario, workers=options.workers, reporter=options.reporter, folder=folder, device=options.device
        )
    except Interrupted as error:  # one of its jobs was; the command that it names is not the user's
        raise Interrupted(f"interrupted; to go on: {options.resume_command}", error.exit_code - 128) from None
    store.write_bytes(folder / TRIALS, "".join(json.dumps(trial) + "\n" for trial in results.trials).encode())
    # a memory of real images was not made by a run, and is no distilled set
    kept = {name: ds for name, ds in results.memories.items() if ds.manifest.provenance is not None}
    drawn = {name: ds for name, ds in results.memories.items() if name not in kept}
    verdicts = {
        table: {row: {other: asdict(verdict) for other, verdict in against.items()} for row, against in rows.items()}
        for table, rows in results.verdicts.items()
    }
    sections = [*_tables(results), *pictures(results.tables, results.matrices, results.courses)]
    return Outcome(sections, kept, {"matrices": results.matrices, "verdicts": verdicts}, drawn)


def _tables(results: Results) -> list[Table]:
    main = [
        Table(title, rows, units=_units(rows), notes=results.notes[title]) for title, rows in results.tables.items()
    ]
    more = [
        Table(f"{name}: further measures", rows, units=_units(rows), notes=[MEASURES])
        for name, rows in results.measures.items()
    ]
    return [*main, *more, Table("costs", results.ledger, units=_COSTS, notes=[COSTS])]


MEASURES = (
    "incremental: mean over the experiences of the accuracy on the classes seen so far; backward: mean over the old "
    "experiences of the final accuracy minus that just after it was learned; task known: average accuracy after the "
    "last experience where the network chooses among the classes of a test image's own experience"
)
COSTS = (
    "pixels: of the memory in the end, uint8; labels: logits, soft labels and learned rates that are kept with them; "
    "earlier weights: what the strategy keeps beside the network that learns; seconds of one network, mean over "
    "networks and class orders: distilling once for all experiences, storing into the memory, training; times real: "
    "all three against those of the first memory of real images in the table"
)
_COSTS: dict[str, Unit] = {
    **dict.fromkeys(("pixels", "labels", "earlier weights"), "bytes"),
    **dict.fromkeys(("distilling", "storing", "training"), "seconds"),
    "times real": "times",
}


def _units(rows: Sequence[Mapping[str, Any]]) -> dict[str, Unit]:
    """Accuracies and what is made of them are the columns with a mean and a std; bytes and seconds say so."""
    spreads = {column for row in rows for column, value in row.items() if isinstance(value, Mapping)}
    units: dict[str, Unit] = dict.fromkeys(spreads, "percent")
    return {**units, "bytes": "bytes", "seconds": "seconds"}
