"""The task `nas-rank`: proxies score the same architectures, and are compared with a truth and with each other.

Full training is scored on test images, because nothing is chosen by this truth and no proxy sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from dd_apps.nas import cells, ranking, reporting, spaces, truth
from dd_apps.nas.config import RankScenario
from dd_apps.nas.kit import Tools
from dd_apps.nas.preparing import prepared
from dd_apps.nas.ranking import Estimate, Values
from dd_apps.nas.reporting import RankedProxy
from dd_apps.nas.scores import Score, score_all
from dd_apps.nas.space_config import CellsConfig
from dd_apps.nas.trained_truth import TrainedTruth, truth_spec
from dd_apps.nas.truth import TruthTable
from dd_apps.nas.values import require_name
from dd_apps.report.words import several
from dd_apps.task import Outcome
from dd_core import artefacts
from dd_core.artefacts import Resources
from dd_core.errors import Option, UserError
from dd_core.runner import RunOptions
from dd_core.system import device as devices

Scores = Mapping[str, Mapping[str, Score]]  # by proxy, then by architecture


@dataclass(frozen=True)
class Truth:
    """True accuracies in percent, with notes on their origin.

    ceiling: correlation of full training under two seeds, None without two seeds; by_seed: accuracies of each seed.
    """

    accuracies: Mapping[str, float]
    notes: Sequence[str]
    ceiling: Estimate | None = None
    by_seed: Sequence[Mapping[str, float]] = field(default=())


def run_task(scenario: RankScenario, folder: Path, options: RunOptions) -> Outcome:
    """Make missing sets and the truth, score, rank and compare. Raises `UserError` as the parts do."""
    start = prepared(scenario, scenario.proxies, folder=folder, options=options)
    tools = start.kit.tools()
    real = _truth(scenario, tools, options)
    scores = score_all(
        start.kit,
        [*real.accuracies],
        workers=options.workers,
        journal=folder / "scores",
        fresh=options.fresh,
        reporter=options.reporter,
    )
    on_cpu = devices.resolve(options.device).type == "cpu"
    proxies = ranked_proxies(
        {config.called: config.kind for config in scenario.proxies},
        scores,
        real.accuracies,
        averages=scenario.averages,
        on_cpu=on_cpu,
        seed=scenario.seed,
    )
    pairs = reporting.pairs_to_compare(proxies)
    values = {proxy.name: proxy.values for proxy in proxies}
    comparisons = ranking.compare(values, real.accuracies, pairs=pairs, seed=scenario.seed) if pairs else ()
    clock = "of the CPU cores" if on_cpu else "by the clock"
    notes = [
        *real.notes,
        *start.notes(),
        f"times are seconds {clock}, the mean of the trials that ended",
        *_failures(scores),
    ]
    sections = reporting.ranking_sections(proxies, real.accuracies, comparisons, ceiling=real.ceiling, notes=notes)
    details = reporting.ranking_details(proxies, real.accuracies, comparisons)
    return Outcome(sections, start.made, {**details, **_figures(real, scores)})


# --- the truth ---------------------------------------------------------------------------------------------------


def _truth(scenario: RankScenario, tools: Tools, options: RunOptions) -> Truth:
    """The truth of the scenario's architectures, from its table or by full training."""
    if scenario.truth.file is None:
        return _trained(scenario, tools, options)
    check = cells.operations if isinstance(scenario.space, CellsConfig) else require_name
    path, column = Path(scenario.truth.file), scenario.truth.column
    accuracies = truth.read_column(path, column, option="truth.column", check=check)
    table = TruthTable({"truth": accuracies})
    chosen = table.accuracies("truth", _chosen(scenario, [*table.architectures]))
    given = f"column {column} of {path.name}" if column else path.name
    return Truth(chosen, [f"truth: {given}, a table that was given"])


def _trained(scenario: RankScenario, tools: Tools, options: RunOptions) -> Truth:
    kit, test = tools.kit, tools.kit.data.load("test")
    every = [] if isinstance(scenario.architectures, tuple) else _architectures(tools)
    names = sorted(_chosen(scenario, every))
    spec = truth_spec(
        tools.train, test, kit.space, names, scenario.truth.training, seeds=scenario.truth.seeds, seed=scenario.seed
    )
    resources = Resources.of([tools.train, test], device=kit.device)
    made = artefacts.get(spec, resources=resources, workers=options.workers, reporter=options.reporter)
    trained = TrainedTruth.of(made)
    agreement = trained.ceiling()
    ceiling = None if agreement is None else agreement.whole.spearman
    return Truth(trained.accuracies, [*_words(scenario, tools, trained, ceiling, len(test))], ceiling, trained.by_seed)


def _words(
    scenario: RankScenario, tools: Tools, trained: TrainedTruth, ceiling: Estimate | None, tested: int
) -> Iterator[str]:
    plan = scenario.truth
    mean = f"the mean of {plan.seeds} seeds" if plan.seeds > 1 else "of one seed"
    yield (
        f"truth: accuracy on all {tested:,} test images after {several(plan.epochs or 1, 'epoch')} on all "
        f"{len(tools.train):,} training images, {mean} (from {scenario.seed}), last epoch; nothing is chosen by it"
    )
    if ceiling is not None:
        shown = f"{ceiling.value:.2f} [{ceiling.low:.2f}, {ceiling.high:.2f}]"
        yield f"ceiling: full training under the first seed ranks as under the second with Spearman {shown}"
    if trained.diverged:
        count = f"{len(trained.diverged)} of {len(trained.diverged) + len(trained.accuracies)}"
        yield f"{count} architectures diverged in full training and are left out, the first: {trained.diverged[0]}"


def _architectures(tools: Tools) -> list[str]:
    """Every architecture of the space."""
    return [spaces.architecture_of(tools.space, sample) for sample in spaces.samples(tools.space)]


def _chosen(scenario: RankScenario, every: Sequence[str]) -> Sequence[str]:
    """The architectures that the scenario names, or a draw of its number of them from `every`."""
    if isinstance(scenario.architectures, tuple):
        return scenario.architectures
    count, most = scenario.architectures, len({*every})
    if count > most:
        raise UserError(f"{Option('architectures', most)}: {count} cannot be drawn, because there are {most}")
    return truth.draw(every, count, seed=scenario.seed)


# --- proxies -----------------------------------------------------------------------------------------------------


def ranked_proxies(
    kinds: Mapping[str, str],
    scores: Scores,
    truths: Mapping[str, float],
    *,
    averages: Sequence[Sequence[str]] = (),
    best: Sequence[int] = (),
    on_cpu: bool = True,
    seed: int = 0,
) -> list[RankedProxy]:
    """Each proxy with its ranking and its mean cost, and each rank average of some of them.

    kinds: kind of each proxy's config, by name. best: numbers k; proxies are ranked over the k architectures with the
    highest truth, too. on_cpu: whether costs are seconds of the CPU cores, or else by the clock. A proxy without a
    single value is left out, and so is an average with it. Raises `UserError` where no proxy has a value.
    """
    proxies: dict[str, RankedProxy] = {}
    for name, by_architecture in scores.items():
        finished = [score for score in by_architecture.values() if score.value is not None]
        if not finished:
            continue
        values: Values = {architecture: score.value for architecture, score in by_architecture.items()}
        seconds = fmean(score.core_seconds if on_cpu else score.seconds for score in finished)
        passes = fmean(score.passes for score in finished)
        ranking_of = ranking.rank(values, truths, best=best, seed=seed)
        proxies[name] = RankedProxy(name, kinds[name], values, ranking_of, seconds, passes)
    if not proxies:
        raise UserError(f"every trial of every proxy failed; {next(_failures(scores))}")
    whole = [[proxies[name] for name in names] for names in averages if {*names} <= proxies.keys()]
    return [*proxies.values(), *(reporting.averaged(parts, truths, best=best, seed=seed) for parts in whole)]


def _failures(scores: Scores) -> Iterator[str]:
    """For each proxy with failed trials, their number and the reason of the first."""
    for name, by_architecture in scores.items():
        failed = [score for score in by_architecture.values() if score.value is None]
        if failed:
            count = f"{len(failed)} of {len(by_architecture)}"
            left_out = ", and it is left out" if len(failed) == len(by_architecture) else ""
            yield f"{name} failed on {count}{left_out}; {failed[0].architecture}: {failed[0].reason}"


def _figures(real: Truth, scores: Scores) -> dict[str, object]:
    """Figures beyond those of `reporting.ranking_details`: the ceiling, the truth of each seed, and all trials."""
    trials = {name: [score._asdict() for score in by_architecture.values()] for name, by_architecture in scores.items()}
    ceiling = None if real.ceiling is None else real.ceiling.model_dump()
    return {"ceiling": ceiling, "truth_by_seed": [dict(seed) for seed in real.by_seed], "trials": trials}
