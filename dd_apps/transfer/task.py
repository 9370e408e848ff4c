"""The task `transfer`: make or read sets, pre-train backbones on each row's lesson, and score them on targets."""

from __future__ import annotations

from pathlib import Path

from dd_apps.task import Outcome
from dd_apps.transfer.config import TransferScenario
from dd_apps.transfer.drawing import source_of
from dd_apps.transfer.preparing import Preparation
from dd_apps.transfer.reporting import Report
from dd_apps.transfer.running import run_jobs
from dd_apps.transfer.teaching import FindLabeller, labeller_of
from dd_core.runner import RunOptions
from dd_core.system import surroundings


@surroundings.own()
def run_task(
    scenario: TransferScenario, folder: Path, options: RunOptions, *, find: FindLabeller = labeller_of
) -> Outcome:
    """Run the jobs that `folder` lacks, and report. `find` finds the teacher of a set with features.

    Raises what making the sets raises, and `UserError` for sets, backbones, targets and source that do not go together.
    """
    source = source_of(scenario, options)
    prepared = Preparation(scenario, source, folder, options, find).run()
    results = run_jobs(scenario, prepared, folder, options)
    report = Report(scenario, prepared, results)
    return Outcome(report.sections(), prepared.made, report.details())
