"""The figures of the tables, computed from the jobs' outcomes, and the notes below each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from dd_apps.continual.config import DISTILLED, ContinualScenario
from dd_apps.continual.job import Outcome, Trial
from dd_apps.continual.metrics import (
    Matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    incremental_accuracy,
    seen_accuracy,
    spread,
)
from dd_apps.continual.rows import REAL_MEMORIES, Table
from dd_apps.continual.standings import Standings, sentence, standings
from dd_apps.report.words import several
from dd_core.distiller import SelectionConfig
from dd_core.methods import decode_method

SECONDS = ("distilling", "storing", "training")  # parts of a ledger
REAL = {
    "real": "real: Avalanche's ClassBalancedBuffer, held to as many images of a class as the distilled rows keep",
    "real-adaptive": "real-adaptive: the same, all its room shared by the classes seen so far (Avalanche's default)",
}


def row_name(scenario: ContinualScenario, row: str) -> str:
    """The name of a row in the tables; the row 'distilled' has the name of the scenario's method."""
    return str(scenario.method["name"]) if row == DISTILLED else row


def told(scenario: ContinualScenario, trial: Trial) -> Matrix:
    """The accuracy matrix that the tables show; with `task_labels`, the matrix for known tasks."""
    return trial.known if scenario.task_labels else trial.matrix


def _of(scenario: ContinualScenario, table: Table, outcomes: Sequence[Outcome]) -> list[tuple[Matrix, Sequence[int]]]:
    """(matrix, test images of each experience) of every network of every class order."""
    return [(told(scenario, trial), outcome.counts) for outcome in outcomes for trial in outcome.trials[table]]


def final_by_order(scenario: ContinualScenario, table: Table, outcomes: Sequence[Outcome]) -> list[float]:
    """Accuracy on all test images after the last experience, the mean of each class order's networks."""
    finals: list[float] = []
    for outcome in outcomes:
        each = [seen_accuracy(told(scenario, trial), outcome.counts)[-1] for trial in outcome.trials[table]]
        finals.append(sum(each) / len(each))
    return finals


def table_row(scenario: ContinualScenario, name: str, table: Table, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A row of the table: mean and deviation over all networks of all class orders."""
    found = _of(scenario, table, outcomes)
    row: dict[str, Any] = {"row": name}
    for index, values in enumerate(zip(*(seen_accuracy(*each) for each in found), strict=True), start=1):
        row[f"after_{index}"] = spread(values)
    row["average"] = spread([average_accuracy(matrix) for matrix, _ in found])
    row["forgetting"] = spread([forgetting(matrix) for matrix, _ in found])
    ledgers = [trial.ledger for outcome in outcomes for trial in outcome.trials[table]]
    row["bytes"] = ledgers[0].nbytes
    row["seconds"] = sum(ledger.seconds for ledger in ledgers) / len(ledgers)
    return row


def measures_row(scenario: ContinualScenario, name: str, table: Table, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Further measures of a row: average incremental accuracy, backward transfer, and accuracies of known tasks."""
    found = _of(scenario, table, outcomes)
    known = [trial.known for outcome in outcomes for trial in outcome.trials[table]]
    return {
        "row": name,
        "strategy": scenario.row_of(_key(scenario, name)).strategy_in(table).name,
        "incremental": spread([incremental_accuracy(*each) for each in found]),
        "backward": spread([backward_transfer(matrix) for matrix, _ in found]),
        "task known": spread([average_accuracy(matrix) for matrix in known]),
    }


def ledger_row(name: str, table: Table, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The costs of a row: bytes at the end, and seconds as a mean over networks and class orders."""
    ledgers = [trial.ledger for outcome in outcomes for trial in outcome.trials[table]]

    def mean(part: str) -> float:
        return sum(asdict(ledger)[part] for ledger in ledgers) / len(ledgers)

    first = ledgers[0]
    return {
        "row": name,
        "table": table,
        "images": first.images,
        "pixels": first.pixels,
        "labels": first.labels,
        "earlier weights": first.state,
        **{part: mean(part) for part in SECONDS},
    }


def with_overhead(scenario: ContinualScenario, ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a ledger with `times real`: seconds as a multiple of those of real images in the same table.

    The row of real images is the first row that has a memory of real images and names no strategy. If no table has such
    a row, the ledger stays as it is.
    """
    real = [row for row in scenario.rows if scenario.row_of(row).memory in REAL_MEMORIES]
    plain = [row for row in real if scenario.row_of(row).strategy is None]
    seconds = {(row["row"], row["table"]): sum(row[part] for part in SECONDS) for row in ledger}
    of_real = {table: [seconds[row, table] for row in plain if (row, table) in seconds] for _, table in seconds}
    if not any(of_real.values()):
        return [dict(row) for row in ledger]

    def times(row: Mapping[str, Any]) -> float | None:
        real = of_real[row["table"]]
        return seconds[row["row"], row["table"]] / real[0] if real else None

    return [{**row, "times real": times(row)} for row in ledger]


@dataclass(frozen=True)
class Course:
    """Accuracy on the classes seen so far after each experience: mean, and half of its 95 % interval over class orders.

    half: None for a single class order, which shows no spread.
    """

    mean: tuple[float, ...]
    half: tuple[float | None, ...]


def course(scenario: ContinualScenario, table: Table, outcomes: Sequence[Outcome]) -> Course:
    """The curve of a row; class orders are the repetitions, each the mean of its networks."""
    by_order = []
    for outcome in outcomes:
        curves = [seen_accuracy(told(scenario, trial), outcome.counts) for trial in outcome.trials[table]]
        by_order.append([sum(values) / len(values) for values in zip(*curves, strict=True)])
    columns = [*zip(*by_order, strict=True)]
    return Course(tuple(sum(values) / len(values) for values in columns), tuple(map(half_interval, columns)))


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean, by Student's t; None of a single value."""
    if len(values) < 2:
        return None
    from scipy import stats  # takes a second to import

    deviation = spread(values)["std"]
    assert deviation is not None
    return float(stats.t.ppf(0.975, len(values) - 1)) * deviation / sqrt(len(values))


def table_standings(scenario: ContinualScenario, table: Table, outcomes: Mapping[str, Sequence[Outcome]]) -> Standings:
    """The standings of the rows whose method learns images, against all other rows of the table."""
    rows = [row for row in scenario.rows if table in scenario.tables_of(row)]
    finals = {row_name(scenario, row): final_by_order(scenario, table, outcomes[row]) for row in rows}
    return standings(finals, [row_name(scenario, row) for row in rows if _learns(scenario, row)])


def _learns(scenario: ContinualScenario, row: str) -> bool:
    """Whether a row has the scenario's method, or a method that does more than choose or average real images."""
    method = scenario.memory_method(row)
    return row == DISTILLED or (method is not None and not isinstance(decode_method(method), SelectionConfig))


def _key(scenario: ContinualScenario, name: str) -> str:
    return next(row for row in scenario.rows if row_name(scenario, row) == name)


def notes(scenario: ContinualScenario, table: Table, found: Standings) -> tuple[str, ...]:
    """The notes below a table: verdicts, settings, rows and protocol."""
    standing = sentence(found, orders=scenario.orders)
    rows = [row for row in scenario.rows if table in scenario.tables_of(row)]
    return (
        *([standing] if standing else []),
        _setting(scenario),
        *(REAL[row] for row in rows if row in REAL),
        *(_own(scenario, row, table) for row in rows if row in scenario.row),
        _protocol(scenario, table),
    )


def _setting(scenario: ContinualScenario) -> str:
    orders = "1 class order" if scenario.orders == 1 else f"{scenario.orders} class orders, mean and standard deviation"
    if scenario.networks > 1:
        orders = f"{scenario.orders} class orders x {scenario.networks} networks, mean and standard deviation over all"
    chosen = "; the task of a test image is known" if scenario.task_labels else ""
    stream = "" if scenario.images is None else f" ({scenario.images} training images)"
    same = "all rows with a memory are trained with the same settings"
    if any(row.training for row in scenario.row.values()):
        same += ", but for rows that say otherwise"
    return (
        f"{scenario.data}{stream}, {scenario.experiences} experiences, {orders}, seed {scenario.seed}, "
        f"{scenario.network}; test images of the classes seen so far, last epoch{chosen}; {same}"
    )


def _own(scenario: ContinualScenario, name: str, table: Table) -> str:
    """The memory, strategy and settings of a row of the scenario's table `row`, in words."""
    row, strategy = scenario.row[name], scenario.row[name].strategy_in(table)
    values = strategy.model_dump().items()
    options = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values)
    method = scenario.memory_method(name)
    memory = row.memory if method is None else f"{row.memory} ({method['name']})"
    shared = ", all room shared by the classes seen so far" if row.adaptive else ""
    for field in ("labels", "bank_epochs", "real_share", "features", "shrinking"):
        value = getattr(row, field)
        if value != type(row).model_fields[field].default or (field == "real_share" and row.memory == "hybrid"):
            shared += f", {field} {value}"
    changes = "".join(f", {key} {value}" for key, value in row.training.items())
    return f"{name}: memory {memory}{shared}; {strategy.name}{f' ({options})' if options else ''}{changes}"


def _protocol(scenario: ContinualScenario, table: Table) -> str:
    replay, retraining = scenario.replay, scenario.retraining
    if table == "taught":
        return (
            "taught: after each experience a fresh network learns the images of all experiences so far, and teachers "
            "label every view; a per-step teacher has seen its experience alone; a joint teacher has seen all classes, "
            "as no continual learner could: an upper bound"
        )
    if table == "retraining":
        return (
            f"retraining (Avalanche's GDumbPlugin): {several(retraining.epochs, 'epoch')} on the memory alone, from "
            f"the initial weights after each experience{_views(retraining)}; none and joint: "
            f"{several(replay.epochs, 'epoch')} on the current or on all real images"
        )
    filled = replay.share == "fill"
    share = f"filled to {replay.batch_size_mem} by repetition" if filled else "each stored image at most once"
    epochs = "1 epoch, each image once (an online stream)" if replay.epochs == 1 else several(replay.epochs, "epoch")
    tuned = f"; then {several(replay.tuning_epochs, 'epoch')} on the memory alone" if replay.tuning_epochs else ""
    return (
        f"replay (Avalanche's ReplayPlugin): {epochs}; mini-batches of {replay.batch_size} current "
        f"images and the memory's part, {share}{_views(replay)}{tuned}"
    )


def _views(settings: Any) -> str:
    return "" if settings.augmentation == "none" else f", augmentation {settings.augmentation}"
