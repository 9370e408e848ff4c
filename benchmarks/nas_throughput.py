"""What does a search cost beside its trials, in one process, on two workers, and on NNI's own engine?

    python benchmarks/nas_throughput.py [--trials 24] [--seconds 0.5] [--rounds 3] [--small]

A trial is a fixed amount of computing, calibrated once to about half a second. Random search, regularized evolution and
TPE each run in one process, on two workers, and as NNI is used: its strategy on its `SequentialExecutionEngine`, the
same trial as the evaluator's function. They take turns within each round, so that a machine that slows down slows
all. A search is timed from its call to its history. Workers run before: a search of four trials that compute nothing
starts them, and its seconds are a figure of their own.

Figures are medians over the rounds. Claimed are: one process takes at most 1.1 times what its trials take by
themselves, and two workers are at least 1.8 times as fast as one process, with every strategy. The record says whether
that held. Appends to benchmarks/results/nas_throughput.jsonl.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import record
from nas_throughput_trials import Trial, calibrated
from torch import nn

from dd_apps.nas.search import search
from dd_apps.nas.strategies import EvolutionConfig, RandomConfig, SearchConfig, StrategyConfig, TPEConfig
from dd_core.system.parallel import Pool, Workers

import nni  # isort: skip (search imports it without its warnings)
from nni.nas.evaluator import FunctionalEvaluator  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.nn.pytorch import ModelSpace  # isort: skip
from nni.nas.space import SimplifiedModelSpace  # isort: skip
from nni.nas.strategy import TPE, Random, RegularizedEvolution  # isort: skip
from nni.nas.strategy.base import Strategy  # isort: skip

NAME = "nas-throughput"
RESULTS = record.RESULTS / "nas_throughput.jsonl"
EVOLUTION = {"population_size": 8, "sample_size": 4, "mutation_prob": 0.3}
STRATEGIES: Mapping[str, tuple[StrategyConfig, Callable[[], Strategy]]] = {
    "random": (RandomConfig(), lambda: Random(seed=0)),
    "evolution": (EvolutionConfig(**EVOLUTION), lambda: RegularizedEvolution(seed=0, **EVOLUTION)),
    "tpe": (TPEConfig(), lambda: TPE(optimize_mode="maximize", seed=0)),
}
MOST_OVER_OWN, LEAST_SPEED_UP = 1.1, 1.8

Values = list[float | None]


@dataclass(frozen=True)
class Run:
    """One search: its seconds from call to history, those of its trials by themselves, and the values that it found."""

    wall: float
    own: float
    values: Values


class Space(ModelSpace):
    """A space of 216 samples; the network of a sample computes nothing and holds the sample."""

    def __init__(self) -> None:
        super().__init__()
        for label in "xyz":
            self.add_mutable(nni.choice(label, [*range(6)]))

    @classmethod
    def create_fixed_module(cls, sample: dict[str, int]) -> nn.Module:
        """The network of a sample."""
        network = nn.Identity()
        network.sample = dict(sample)
        return network


def main() -> None:
    """Search in turns; then say what each took, and whether the claims held."""
    options = parse()
    logging.getLogger("nni").setLevel(logging.ERROR)
    began, trial = record.now(), calibrated(options.seconds)
    rounds: list[dict[str, dict[str, Run]]] = []
    with Pool(Workers(count=2), uses_torch=False) as pool:
        begun = time.perf_counter()
        ours(SearchConfig(max_trials=4), Trial(1), pool)
        start = time.perf_counter() - begun
        for number in range(options.rounds):
            rounds.append({name: turns(name, trial, pool, options.trials, first=number) for name in STRATEGIES})
            print(f"round {number + 1} of {options.rounds}", flush=True)
    rows = {name: summary([turn[name] for turn in rounds]) for name in STRATEGIES}
    figures = {"trial_rounds": trial.rounds, "start_seconds": round(start, 2), "strategies": rows, **claims(rows)}
    print(json.dumps(figures, indent=2))
    if not options.small:
        given = {name: getattr(options, name) for name in ("trials", "seconds", "rounds")}
        facts = record.facts(NAME, given, run=began, data="none: a trial is rounds of SHA-256")
        record.append(RESULTS, {**facts, "nni": nni.__version__, **figures})


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--trials", type=int, default=24, help="trials of each search; TPE's first 20 are random")
    parser.add_argument("--seconds", type=float, default=0.5, help="approximate seconds of a trial")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, each with every search once")
    parser.add_argument("--small", action="store_true", help="try the script out with little work; nothing is recorded")
    options = parser.parse_args()
    if options.small:
        options.trials, options.seconds, options.rounds = 6, 0.05, 1
    return options


def turns(name: str, trial: Trial, pool: Pool, trials: int, *, first: int) -> dict[str, Run]:
    """One search of each kind; each round begins with another kind."""
    config, strategy = STRATEGIES[name]
    settings = SearchConfig(strategy=config, max_trials=trials)
    kinds = {
        "one": lambda: ours(settings, trial, Pool(uses_torch=False)),
        "two": lambda: ours(settings, trial, pool),
        "nni": lambda: theirs(strategy(), trial, trials),
    }
    order = [*kinds][first % len(kinds) :] + [*kinds][: first % len(kinds)]
    runs = {kind: kinds[kind]() for kind in order}
    assert runs["one"].values == runs["two"].values, "two workers have another history"
    return runs


def ours(config: SearchConfig, trial: Trial, pool: Pool) -> Run:
    """A search by `dd_apps.nas.search`."""
    begun = time.perf_counter()
    history = search(Space(), trial, config, workers=pool)
    wall = time.perf_counter() - begun
    assert len(history) == config.max_trials
    return Run(wall, sum(each.seconds or 0 for each in history), [each.value for each in history])


def theirs(strategy: Strategy, trial: Trial, trials: int) -> Run:
    """A search by NNI's own engine."""
    own: list[float] = []

    def evaluate(model: Any) -> None:
        begun = time.perf_counter()
        value = trial(model.sample)
        own.append(time.perf_counter() - begun)
        nni.report_final_result(value)

    begun = time.perf_counter()
    engine = SequentialExecutionEngine(max_model_count=trials)
    strategy(SimplifiedModelSpace.from_model(Space(), FunctionalEvaluator(evaluate)), engine)
    wall = time.perf_counter() - begun
    models = [*engine.list_models()]
    assert len(models) == len(own) == trials
    return Run(wall, sum(own), [model.metric for model in models])


# --- what it comes to ------------------------------------------------------------------------------------------------


def summary(turns_of: Sequence[Mapping[str, Run]]) -> dict[str, dict[str, float]]:
    """Medians over rounds for each kind: seconds, seconds over the trials' own, and how much faster than one process.

    A ratio is taken within a round, and its median over the rounds.
    """

    def median(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        kind: {
            "seconds": median([turn[kind].wall for turn in turns_of]),
            "own_seconds": median([turn[kind].own for turn in turns_of]),
            "over_own": median([turn[kind].wall / turn[kind].own for turn in turns_of]),
            "speed_up": median([turn["one"].wall / turn[kind].wall for turn in turns_of]),
        }
        for kind in ("one", "two", "nni")
    }


def claims(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """The claims about one process and about two workers, for the strategy with the worst figure."""
    over = max(row["one"]["over_own"] for row in rows.values())
    speed = min(row["two"]["speed_up"] for row in rows.values())
    return {
        "one_process": {"asked": MOST_OVER_OWN, "over_own": over, "held": over <= MOST_OVER_OWN},
        "two_workers": {"asked": LEAST_SPEED_UP, "speed_up": speed, "held": speed >= LEAST_SPEED_UP},
    }


if __name__ == "__main__":
    main()
