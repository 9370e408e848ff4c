"""The continual-learning benchmark: rows x class orders as independent jobs, and the two tables out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd_apps.continual.checks import check_scenario
from dd_apps.continual.config import DISTILLED, TABLES, ContinualScenario, Table
from dd_apps.continual.job import Job, Outcome
from dd_apps.continual.metrics import Matrix, average_accuracy, forgetting, seen_accuracy, spread
from dd_apps.continual.standings import Standings, sentence, standings
from dd_core.distilled import DistilledSet
from dd_core.distiller import SelectionConfig
from dd_core.errors import UserError
from dd_core.methods import decode_method
from dd_core.runner import Reporter, Silent
from dd_core.system import parallel, surroundings
from dd_core.system.parallel import Workers

REAL = {
    "real": "real: Avalanche's ClassBalancedBuffer, held to as many images of a class as the distilled rows keep",
    "real-adaptive": "real-adaptive: the same, all its room shared by the classes seen so far (Avalanche's default)",
}


@dataclass(frozen=True)
class Results:
    """What a scenario found.

    tables: "retraining" and "replay", rows ready for JSON. Accuracies are fractions of 1 as mean and standard
    deviation over class orders (no deviation of a single one); `after_3` is over the test images of all classes of
    three experiences; seconds are the mean over class orders. matrices: [table][row][order], see `metrics`. memories:
    what a row's memory held at the end of class order 0. verdicts: [table][distilled row][other row], after the last
    experience. notes: what belongs below each table.
    """

    tables: dict[Table, list[dict[str, Any]]]
    matrices: dict[Table, dict[str, list[Matrix]]]
    memories: dict[str, DistilledSet]
    verdicts: dict[Table, Standings]
    notes: dict[Table, tuple[str, ...]]


@surroundings.own()
def run(
    scenario: ContinualScenario,
    *,
    workers: Workers | None = None,
    reporter: Reporter | None = None,
    folder: Path | None = None,
    device: str = "cpu",
) -> Results:
    """Both tables of a scenario. Nothing but the seconds depends on the workers.

    With a `folder`, the distilled sets are written there, and found again by another run. Raises what a job raises,
    and before the first job what `check_scenario` raises.
    """
    reporter = reporter or Silent()
    workers = workers or Workers(count=scenario.workers)
    jobs = [Job(scenario, row, order, folder, device) for row in scenario.rows for order in range(scenario.orders)]
    outcomes: dict[str, list[Outcome]] = {row: [] for row in scenario.rows}
    # once, here: a job finds in the cache what was fetched or decoded
    images = scenario.real_images
    train, test = (images.load(split, workers=workers, say=reporter.message) for split in ("train", "test"))
    remarks = check_scenario(scenario, train, test)
    for remark in remarks:
        reporter.message(remark)
    del train, test  # every job loads its own
    with reporter.stage("rows x class orders", total=len(jobs)) as stage:
        for job, outcome in zip(jobs, parallel.run(work, jobs, workers=workers), strict=True):
            outcomes[job.row].append(outcome)
            stage.advance({table: average_accuracy(outcome.matrices[table]) for table in TABLES})
    return _results(scenario, outcomes, remarks)


def work(job: Job) -> Outcome:
    """Run one job, in whatever process: Avalanche is imported there only."""
    try:
        from dd_apps.continual.learner import run_job
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "avalanche":
            raise
        raise UserError("task 'continual' needs Avalanche: pip install 'dd-apps[continual]'") from None
    return run_job(job)


def row_name(scenario: ContinualScenario, row: str) -> str:
    """What a row is called: the one of the scenario's method goes by the method's name."""
    return str(scenario.method["name"]) if row == DISTILLED else row


def _results(scenario: ContinualScenario, outcomes: dict[str, list[Outcome]], remarks: tuple[str, ...]) -> Results:
    names = {row: row_name(scenario, row) for row in scenario.rows}
    memories = {names[row]: by_order[0].memory for row, by_order in outcomes.items()}
    verdicts: dict[Table, Standings] = {table: _standings(scenario, table, outcomes) for table in TABLES}
    return Results(
        tables={table: [_table_row(names[row], table, outcomes[row]) for row in scenario.rows] for table in TABLES},
        matrices={
            table: {names[row]: [outcome.matrices[table] for outcome in outcomes[row]] for row in scenario.rows}
            for table in TABLES
        },
        memories={name: memory for name, memory in memories.items() if memory is not None},
        verdicts=verdicts,
        notes={table: (*notes(scenario, table, verdicts[table]), *remarks) for table in TABLES},
    )


def _standings(scenario: ContinualScenario, table: Table, outcomes: Mapping[str, Sequence[Outcome]]) -> Standings:
    """The verdicts of the rows that learn their images, against all others."""
    finals = {
        row_name(scenario, row): [
            seen_accuracy(outcome.matrices[table], outcome.counts)[-1] for outcome in outcomes[row]
        ]
        for row in scenario.rows
    }
    return standings(finals, [row_name(scenario, row) for row in scenario.rows if _learns(scenario, row)])


def _learns(scenario: ContinualScenario, row: str) -> bool:
    """Whether a row is the scenario's method, or one that does not just choose or average real images."""
    method = scenario.memory_method(row)
    return row == DISTILLED or (method is not None and not isinstance(decode_method(method), SelectionConfig))


def _table_row(name: str, table: Table, outcomes: list[Outcome]) -> dict[str, Any]:
    matrices = [outcome.matrices[table] for outcome in outcomes]
    seen = [seen_accuracy(outcome.matrices[table], outcome.counts) for outcome in outcomes]
    row: dict[str, Any] = {"row": name}
    for index, values in enumerate(zip(*seen, strict=True), start=1):
        row[f"after_{index}"] = spread(values)
    row["average"] = spread([average_accuracy(matrix) for matrix in matrices])
    row["forgetting"] = spread([forgetting(matrix) for matrix in matrices])
    row["bytes"] = outcomes[0].nbytes
    row["seconds"] = sum(outcome.seconds[table] for outcome in outcomes) / len(outcomes)
    return row


def notes(scenario: ContinualScenario, table: Table, verdicts: Standings) -> tuple[str, ...]:
    """What a reader has to know of the verdicts and the protocol to trust a table."""
    replay, retraining = scenario.replay, scenario.retraining
    standing = sentence(verdicts, orders=scenario.orders)
    orders = "1 class order" if scenario.orders == 1 else f"{scenario.orders} class orders, mean and standard deviation"
    common = (
        *([standing] if standing else []),
        f"{scenario.data}, {scenario.experiences} experiences, {orders}, seed {scenario.seed}, {scenario.network}; "
        "test images of the classes seen so far, last epoch; all rows with a memory are trained with the same settings",
        *(REAL[row] for row in scenario.rows if row in REAL),
    )
    if table == "retraining":
        return (
            *common,
            f"retraining (Avalanche's GDumbPlugin): {retraining.epochs} epochs on the memory alone, from the first "
            f"weights after each experience; none and joint: {replay.epochs} epochs on the current or on all real "
            "images",
        )
    filled = replay.share == "fill"
    share = f"filled to {replay.batch_size_mem} by repetition" if filled else "each stored image at most once"
    return (
        *common,
        f"replay (Avalanche's ReplayPlugin): {replay.epochs} epochs; mini-batches of {replay.batch_size} current "
        f"images and the memory's part, {share}",
    )
