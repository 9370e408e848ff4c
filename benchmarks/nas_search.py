"""Does a search find better cells of NAS-Bench-201 by a distilled proxy than by a zero-cost measure, or by chance?

    python benchmarks/nas_search.py --truth nb201.csv --data folder:DIR [--copy TEXT] [--seeds 5] [--small]

Regularized evolution (population 20, sample 5) and random search, 60 trials each, over all 15,625 cells. Each runs by
the distilled proxy, by its twin (as many random real images with the same training), and by the best zero-cost measure.
nb201.py chose the training and the measure, on cells that no figure here depends on; run it first. The regret of a
search is the accuracy of the best cell of the table minus that of the trial with the highest value of the proxy, in
points. Intervals are Student's, over seeds; comparisons are paired over seeds.

Histories are kept, and the same command goes on where it stopped. Appends to benchmarks/results/nas_search.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import nb201
import nb201_proxies
import numpy as np
from record import RESULTS, now
from scipy import stats

from dd_apps.nas.kit import Kit, ProxyTrial
from dd_apps.nas.search import Trial, best, search
from dd_apps.nas.strategies import EvolutionConfig, RandomConfig, SearchConfig, StrategyConfig
from dd_core.evaluation.verdicts import paired
from dd_core.system.parallel import Pool, Workers

NAME = "nas-search"
STRATEGIES: dict[str, StrategyConfig] = {
    "evolution": EvolutionConfig(population_size=20, sample_size=5),
    "random": RandomConfig(),
}
TRIALS, BATCH = 60, 4
SMALL: dict[str, Any] = {"seeds": 2, "trials": 24}


@dataclass(frozen=True)
class Proxy:
    """A proxy by name: its kit, on reduced or on whole networks."""

    name: str
    kit: Kit


def main() -> None:
    """Every search that is missing; then regrets and comparisons."""
    options = parse()
    with Pool(Workers(count=options.workers)) as pool:
        bench = nb201.Bench(options, pool)
        truth = bench.table.accuracies(options.column)
        proxies = proxies_of(bench)
        regrets: dict[tuple[str, str], list[float]] = {}
        for proxy, name in product(proxies, STRATEGIES):
            histories = [searched(proxy, name, seed, pool, options) for seed in range(options.seeds)]
            regrets[proxy.name, name] = [regret(history, truth) for history in histories]
            tell(
                options, {"what": "regret", "proxy": proxy.name, "strategy": name, **spread(regrets[proxy.name, name])}
            )
    distilled, *others = (proxy.name for proxy in proxies)
    pairs = [((distilled, name), (other, name)) for other in others for name in STRATEGIES]
    pairs += [((proxy.name, "evolution"), (proxy.name, "random")) for proxy in proxies]
    for first, second in pairs:
        verdict = paired([-value for value in regrets[first]], [-value for value in regrets[second]])
        tell(options, {"what": "comparison", "first": first, "second": second, "p": verdict.p, "word": verdict.word})


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    nb201.add_options(parser)
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind")
    options = parser.parse_args()
    options.trials = SMALL["trials"] if options.small else TRIALS
    if options.small:
        nb201.shrink(options)
        options.seeds = min(options.seeds, SMALL["seeds"])
    options.results = (options.out if options.small else RESULTS) / "nas_search.jsonl"
    options.run = now()
    return options


def proxies_of(bench: nb201.Bench) -> list[Proxy]:
    """The best distilled proxy and the best zero-cost measure on the other cells, and the twin of the former."""
    variant, by, _ = bench.choice()
    trained = {config.called: config for config in nb201_proxies.varied(bench.sets, variant)}
    free = next(config for config in nb201_proxies.free() if config.called == bench.best_measure())
    reduced = [trained[f"{name}, {by}"] for name in ("dm-10", "random-10")]
    return [
        *(Proxy(f"{config.called}, {variant}", bench.kit(config, reduced=True)) for config in reduced),
        Proxy(free.called, bench.kit(free, reduced=False)),
    ]


def searched(proxy: Proxy, strategy: str, seed: int, pool: Pool, options: argparse.Namespace) -> list[Trial]:
    """The history of a search, resumed where it stopped."""
    settings = SearchConfig(strategy=STRATEGIES[strategy], max_trials=options.trials, batch=BATCH, seed=seed)
    tools = proxy.kit.tools()
    identity = {"proxy": tools.trial(0), **tools.identity(), "by": getattr(proxy.kit.proxies[0], "by", None)}
    journal = options.out / "searches" / f"{proxy.kit.proxies[0].kind}-{strategy}-{seed}"
    return search(tools.space, ProxyTrial(proxy.kit), settings, workers=pool, journal=journal, identity=identity)


def regret(history: list[Trial], truth: Mapping[str, float]) -> float:
    """The regret of a search, in points of accuracy."""
    (chosen,) = best(history)
    return max(truth.values()) - truth[chosen.architecture]


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and Student's 95 % interval."""
    mean, error = float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else 0.0
    half = error * float(stats.t.ppf(0.975, max(1, len(values) - 1)))
    return {"values": [round(value, 3) for value in values], "mean": round(mean, 3), "half": round(half, 3)}


def tell(options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Print a record, and append it to the results."""
    print(json.dumps(record), flush=True)
    nb201.keep(options, NAME, record, names=("seeds",))


if __name__ == "__main__":
    main()
