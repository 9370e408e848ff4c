"""The benchmark as a task of the command line: tables, pictures, memories as sets, and all figures."""

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

TRIALS = "trials.jsonl"  # everything that was measured, a line for each network in each table


def run_task(scenario: ContinualScenario, folder: Path, options: RunOptions) -> Outcome:
    """Run the benchmark, and return its results as a task's outcome. Raises what `run` raises."""
    try:
        results = run(
            scenario, workers=options.workers, reporter=options.reporter, folder=folder, device=options.device
        )
    except Interrupted as error:  # a job was interrupted, and its error does not name the user's command
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
    "experiences of final accuracy minus accuracy just after learning; task known: average accuracy after the last "
    "experience where the network chooses among the classes of a test image's own experience"
)
COSTS = (
    "pixels: bytes of the final memory's images as uint8; labels: bytes of logits, soft labels and learned rates kept "
    "with them; earlier weights: bytes of weights that the strategy keeps beside the trained network; seconds of one "
    "network, mean over networks and class orders: distilling once for all experiences, storing into the memory, "
    "training; times real: their sum as a multiple of that of the table's first memory of real images"
)
_COSTS: dict[str, Unit] = {
    **dict.fromkeys(("pixels", "labels", "earlier weights"), "bytes"),
    **dict.fromkeys(("distilling", "storing", "training"), "seconds"),
    "times real": "times",
}


def _units(rows: Sequence[Mapping[str, Any]]) -> dict[str, Unit]:
    """The unit of each column: percent where cells have a mean and a std, for these are accuracies."""
    spreads = {column for row in rows for column, value in row.items() if isinstance(value, Mapping)}
    units: dict[str, Unit] = dict.fromkeys(spreads, "percent")
    return {**units, "bytes": "bytes", "seconds": "seconds"}
