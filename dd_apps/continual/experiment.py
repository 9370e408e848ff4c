"""The continual-learning benchmark: rows x class orders as independent jobs, and the tables of their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dd_apps.continual.checks import check_scenario
from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.job import Job, Outcome
from dd_apps.continual.metrics import Matrix, average_accuracy
from dd_apps.continual.orders import stream_of
from dd_apps.continual.rows import Table
from dd_apps.continual.standings import Standings
from dd_apps.continual.summaries import (
    Course,
    course,
    ledger_row,
    measures_row,
    notes,
    row_name,
    table_row,
    table_standings,
    told,
    with_overhead,
)
from dd_core.distilled import DistilledSet
from dd_core.runner import Reporter, Silent
from dd_core.system import parallel, surroundings
from dd_core.system.parallel import Workers


@dataclass(frozen=True)
class Results:
    """The results of a scenario, by the names of its rows and in their order.

    tables: of each table, its rows, ready for JSON. Accuracies are fractions of 1, as mean and standard deviation over
    all networks of all class orders (None for a single one); `after_3` is on the test images of all classes of the
    first three experiences; seconds are a mean too. measures: of each table, incremental accuracy, backward transfer
    and accuracy of known tasks. ledger: the bytes and seconds of each row in each table. matrices: [table][row], a
    matrix for each network of class order 0, then of order 1, and so on, see `metrics`. courses: [table][row], accuracy
    after each experience with intervals. memories: by row, the memory at the end of class order 0. verdicts:
    [table][distilled row][other row], after the last experience. notes: lines below each table. trials: everything that
    was measured, a JSON object for each network in each table.
    """

    tables: dict[Table, list[dict[str, Any]]]
    measures: dict[Table, list[dict[str, Any]]]
    ledger: list[dict[str, Any]]
    matrices: dict[Table, dict[str, list[Matrix]]]
    courses: dict[Table, dict[str, Course]]
    memories: dict[str, DistilledSet]
    verdicts: dict[Table, Standings]
    notes: dict[Table, tuple[str, ...]]
    trials: list[dict[str, Any]]


@surroundings.own()
def run(
    scenario: ContinualScenario,
    *,
    workers: Workers | None = None,
    reporter: Reporter | None = None,
    folder: Path | None = None,
    device: str = "cpu",
) -> Results:
    """Run the jobs of a scenario and make its tables. No figure but the seconds depends on the workers.

    With a `folder`, the distilled sets and the outcomes of finished jobs are written there, and the next run uses them.
    Raises what a job raises, and before the first job what `check_scenario` raises.
    """
    reporter = reporter or Silent()
    workers = workers or Workers(count=scenario.workers)
    jobs = [Job(scenario, row, order, folder, device) for row in scenario.rows for order in range(scenario.orders)]
    outcomes: dict[str, list[Outcome]] = {row: [] for row in scenario.rows}
    # loaded once here, so that jobs find the downloaded or decoded images in the cache
    images = scenario.real_images
    train, test = (images.load(split, workers=workers, say=reporter.message) for split in ("train", "test"))
    remarks = check_scenario(scenario, stream_of(train, scenario.images, seed=scenario.seed), test)
    for remark in remarks:
        reporter.message(remark)
    del train, test  # every job loads its own
    with parallel.Pool(workers) as pool:
        if makers := _makers(jobs):
            with reporter.stage("memories that rows share", total=len(makers)) as stage:
                for _ in pool.run(make, makers):
                    stage.advance()
        with reporter.stage("rows x class orders", total=len(jobs)) as stage:
            for job, outcome in zip(jobs, pool.run(work, jobs), strict=True):
                outcomes[job.row].append(outcome)
                stage.advance(
                    {table: average_accuracy(told(scenario, trials[-1])) for table, trials in outcome.trials.items()}
                )
    return _results(scenario, outcomes, remarks)


def _makers(jobs: Sequence[Job]) -> list[Job]:
    """For each memory that several rows share, the first job with it: the memory is made before any row learns."""
    sharing: dict[Path, list[Job]] = {}
    for job in jobs:
        if (folder := job.sets_folder) is not None:
            sharing.setdefault(folder, []).append(job)
    return [of_memory[0] for of_memory in sharing.values() if len(of_memory) > 1]


def work(job: Job) -> Outcome:
    """Run one job; only the process that runs it imports Avalanche."""
    return _learner().run_job(job)


def make(job: Job) -> None:
    """Make the memory of one job."""
    _learner().make_memory(job)


def _learner() -> ModuleType:
    from dd_apps.continual import adapter, learner

    del adapter  # imported first, because its error says what to install where Avalanche is missing
    return learner


def _results(scenario: ContinualScenario, outcomes: Mapping[str, list[Outcome]], remarks: tuple[str, ...]) -> Results:
    names = {row: row_name(scenario, row) for row in scenario.rows}
    of_table: dict[Table, list[str]] = {
        table: [row for row in names if table in scenario.tables_of(row)] for table in scenario.protocols
    }
    verdicts: dict[Table, Standings] = {table: table_standings(scenario, table, outcomes) for table in of_table}
    memories = {names[row]: by_order[0].memory for row, by_order in outcomes.items()}
    return Results(
        tables={
            table: [table_row(scenario, names[row], table, outcomes[row]) for row in rows]
            for table, rows in of_table.items()
        },
        measures={
            table: [measures_row(scenario, names[row], table, outcomes[row]) for row in rows]
            for table, rows in of_table.items()
        },
        ledger=with_overhead(
            scenario, [ledger_row(names[row], table, outcomes[row]) for table, rows in of_table.items() for row in rows]
        ),
        matrices={
            table: {
                names[row]: [told(scenario, trial) for outcome in outcomes[row] for trial in outcome.trials[table]]
                for row in rows
            }
            for table, rows in of_table.items()
        },
        courses={
            table: {names[row]: course(scenario, table, outcomes[row]) for row in rows}
            for table, rows in of_table.items()
        },
        memories={name: memory for name, memory in memories.items() if memory is not None},
        verdicts=verdicts,
        notes={table: (*notes(scenario, table, verdicts[table]), *remarks) for table in of_table},
        trials=[*_trials(names, outcomes)],
    )


def _trials(names: Mapping[str, str], outcomes: Mapping[str, list[Outcome]]) -> Iterator[dict[str, Any]]:
    """Everything that was measured: an object for each network in each table."""
    for row, by_order in outcomes.items():
        for order, outcome in enumerate(by_order):
            for table, trials in outcome.trials.items():
                for network, trial in enumerate(trials):
                    where = {"row": names[row], "table": table, "order": order, "network": network}
                    yield {**where, "counts": outcome.counts, **asdict(trial)}
