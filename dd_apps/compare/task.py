"""The task `compare`: score every cell, test the differences, and make the report."""

from __future__ import annotations

from pathlib import Path

from dd_apps.compare.config import CompareScenario
from dd_apps.compare.reporting import Report
from dd_apps.compare.running import run_cells
from dd_apps.task import Outcome
from dd_core.runner import RunOptions
from dd_core.system import surroundings


@surroundings.own()
def run_task(scenario: CompareScenario, folder: Path, options: RunOptions) -> Outcome:
    """Make and score the cells that `folder` lacks, and report on all. Raises what `run_cells` raises."""
    results = run_cells(scenario, folder, options)
    report = Report(scenario, results)
    sets = {f"{method}-ipc-{ipc}": ds for (method, ipc), ds in results.sets.items()}
    return Outcome(report.sections(), sets, report.details())
