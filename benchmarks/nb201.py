"""Which proxy ranks the cells of NAS-Bench-201 as full training does, and what does it cost?

    python benchmarks/nb201.py --truth nb201.csv --data folder:DIR [--copy TEXT] [--parts ...] [--workers 2] [--small]

100 cells are drawn by seed from the table of the truth: a CSV file with a column `architecture` and one of accuracies
in percent after 200 epochs of full training. Parts:

measures  the zero-cost measures, on networks as the benchmark has them (16 channels, 5 cells a stack)
trained   networks trained for 3,000 image-passes on distilled sets (`make bench-nb201-sets`), on as many random real
          images, and at the beginning of training on all; they are reduced networks (8 channels, 1 cell a stack), and
          the measures of these show what reducing costs
own       networks trained on the sets of one image a class by the sets' own recipes, all epochs, on ten of the cells
vary      ways to train on ten images a class within the same image-passes, distilled by `dm` or real, on 50 other
          cells: nothing is chosen on the 100
chosen    the way that is best on the 50 cells, on the 100: alone, and rank-averaged with the best measure on the 50

A trained network is scored on 2,000 training images that no set and no network has seen; no test image is looked at:
the truth is the table's. A cell without a value ranks last. Correlations have bootstrap intervals over cells. Paired
bootstraps with Holm's correction compare every proxy with `synflow`, and distilled sets with random images and with
early stopping. Seconds are those of one core, the images loaded before; all parts take about four core hours.

Values are kept, and the same command goes on where it stopped. Appends to benchmarks/results/nb201.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nb201_proxies as proxies
from nas_tables import Scores, compared, draw, gist, records
from nb201_images import OUT, kit_of
from record import RESULTS, append, facts, now

from dd_apps.nas import measures, ranking, reporting, truth
from dd_apps.nas.kit import Kit
from dd_apps.nas.proxies.config import ProxyConfig
from dd_apps.nas.rank_task import ranked_proxies
from dd_apps.nas.reporting import RankedProxy
from dd_apps.nas.scores import score_all
from dd_core.system.parallel import Pool, Workers

NAME = "nb201"
PARTS = ("measures", "trained", "own", "vary", "chosen")
AVERAGES = {"synflow + jacob_cov": ("synflow", "jacob_cov")}  # the two strongest that were published
REDUCED = {"channels": 8, "modules": 1}
OWN_CELLS, SMALL_CELLS = 10, 6
REFERENCE = "synflow"  # what every other proxy is compared with: the strongest that was published


class Bench:
    """The command line's options, the truth, an open pool, and the kind of each proxy by its name."""

    def __init__(self, options: argparse.Namespace, pool: Pool) -> None:
        self.options, self.pool = options, pool
        self.table = truth.read(options.truth, [options.column])
        self.cells = self.table.draw(options.cells, seed=options.seed)
        others = self.table.draw(len(self.cells) + options.others, seed=options.seed + 1)
        self.others = tuple(cell for cell in others if cell not in self.cells)[: options.others]
        self.sets = options.sets
        self.kinds: dict[str, str] = {}

    def kit(self, *configs: ProxyConfig, reduced: bool) -> Kit:
        """The kit that scores cells, on reduced networks or on those of NAS-Bench-201."""
        size = {"channels": 4, "modules": 1} if self.options.small else REDUCED if reduced else {}
        return kit_of(self.options.data, *configs, small=self.options.small, **size)

    def scores(self, cells: Sequence[str], configs: Sequence[ProxyConfig], *, reduced: bool) -> Scores:
        """By proxy and cell: those that are kept, and the missing ones, which are kept too."""
        self.kinds |= {config.called: config.kind for config in configs}
        folder = self.options.out / f"scores-{'reduced' if reduced else 'full'}"
        return score_all(self.kit(*configs, reduced=reduced), cells, workers=self.pool, journal=folder)

    def ranked(
        self, cells: Sequence[str], scores: Scores, *, averages: Mapping[str, Sequence[str]] = AVERAGES
    ) -> list[RankedProxy]:
        """How each proxy ranks the cells, and each rank average whose proxies are among them."""
        truths = self.table.accuracies(self.options.column, cells)
        proxies = {proxy.name: proxy for proxy in ranked_proxies(self.kinds, scores, truths)}
        for name, parts in averages.items():
            if {*parts} <= proxies.keys():
                average = reporting.averaged([proxies[part] for part in parts], truths)
                proxies[name] = replace(average, name=name)
        return [*proxies.values()]

    def rank(self, part: str, cells: Sequence[str], scores: Scores, **more: Any) -> list[RankedProxy]:
        """Tell how each proxy ranks the cells, and the differences between them."""
        averages = more.pop("averages", {})
        proxies = self.ranked(cells, scores, averages={**AVERAGES, **averages})
        truths = self.table.accuracies(self.options.column, cells)
        names = [proxy.name for proxy in proxies]
        statistics = ("spearman", f"spearman@{max(3, len(cells) // 5)}")
        free = [(name, REFERENCE) for name in names if name != REFERENCE and REFERENCE in names]
        for record in records(proxies, scores):
            self.tell({"part": part, **record, **more})
        for pairs in (free, _rivals(names)):  # Holm's correction is over the pairs of one question
            for record in compared(proxies, truths, pairs=pairs, statistics=statistics):
                self.tell({"part": part, **record, **more})
        return proxies

    def tell(self, record: Mapping[str, Any]) -> None:
        """Print the main figures of a record, and append all of it to the results."""
        print(json.dumps(gist(record)), flush=True)
        keep(self.options, NAME, record, names=("parts",))

    # --- parts ------------------------------------------------------------------------------------------------------

    def free(self, cells: Sequence[str], *, reduced: bool = False) -> Scores:
        """The zero-cost measures."""
        return self.scores(cells, proxies.free(), reduced=reduced)

    def measures(self) -> None:
        """The zero-cost measures, on networks as the benchmark has them."""
        self.rank("measures", self.cells, self.free(self.cells))

    def trained(self) -> None:
        """Sets by their own recipes within the budget, random images, early stopping; measures of reduced networks."""
        scores = self.scores(self.cells, proxies.trained(self.sets), reduced=True)
        self.rank("trained", self.cells, {**scores, REFERENCE: self.free(self.cells)[REFERENCE]})
        self.rank("reduced", self.cells, self.free(self.cells, reduced=True))

    def own(self) -> None:
        """The sets' own recipes, on a few cells; the measures of the same cells beside them."""
        cells = self.cells[:OWN_CELLS]
        scores = self.scores(cells, proxies.trained(self.sets, sizes=[1], passes=None), reduced=True)
        self.rank("own", cells, {**scores, **self.free(cells)})

    def vary(self) -> None:
        """Every variant on the other cells."""
        self.rank("vary", self.others, self.free(self.others), variant="")
        for name in proxies.VARIANTS:
            self.rank("vary", self.others, self.varied(name), variant=name)

    def varied(self, variant: str) -> Scores:
        """The scores of a variant on the other cells."""
        return self.scores(self.others, proxies.varied(self.sets, variant), reduced=True)

    def chosen(self) -> None:
        """The part `chosen`: what is best on the other cells, scored on the cells of the table."""
        variant, by, measure = self.choice()
        configs = proxies.trained(self.sets, sizes=[10], recipe=proxies.VARIANTS[variant])
        scores = {**self.scores(self.cells, configs, reduced=True), **self.free(self.cells)}
        averages = {f"{name} + {measure}": (name, measure) for name in scores if name.endswith(f", {by}")}
        ranked = self.rank("chosen", self.cells, scores, averages=averages, variant=variant, by=by, measure=measure)
        draw(self.options.results.with_suffix(".png"), ranked)

    def choice(self) -> tuple[str, str, str]:
        """(variant, accuracy or loss, measure to average with) with the highest correlations on the other cells."""
        tried = {
            (variant, by): self.varied(variant)[f"dm-10, {by}"]
            for variant in proxies.VARIANTS
            for by in ("accuracy", "loss")
        }
        best = max(tried, key=lambda key: self.spearman({"tried": tried[key]}))
        scores = {**self.free(self.others), "tried": tried[best]}
        measure = max(measures.names(), key=lambda name: self.spearman(scores, average=("tried", name)))
        return (*best, measure)

    def best_measure(self) -> str:
        """The measure with the highest correlation on the other cells."""
        free = self.free(self.others)
        return max(measures.names(), key=lambda name: self.spearman({name: free[name]}))

    def spearman(self, scores: Scores, *, average: tuple[str, ...] = ()) -> float:
        """The correlation on the other cells: of the only proxy, or of the rank average of those that are named."""
        values = [{cell: scores[name][cell].value for cell in self.others} for name in average or scores]
        truths = self.table.accuracies(self.options.column, self.others)
        ranks = ranking.rank_average(values)
        return ranking.rank(ranks, truths, resamples=ranking.FEWEST_RESAMPLES).whole.spearman.value


def _rivals(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each distilled set with random images of its size, and with early stopping, where both are scored alike."""
    pairs: list[tuple[str, str]] = []
    for name in names:
        start, comma, by = name.partition(",")
        method, dash, size = start.partition("-")
        if method in proxies.METHODS and dash:
            pairs += [(name, twin + comma + by) for twin in (f"random-{size}", "early stopping")]
    return [pair for pair in pairs if pair[1] in names]


def main() -> None:
    """The values that are missing; then how each proxy ranks the cells."""
    options = parse()
    with Pool(Workers(count=options.workers)) as pool:
        bench = Bench(options, pool)
        for part in options.parts:
            getattr(bench, part)()


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add_options(parser)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="parts to run, in this order")
    options = parser.parse_args()
    if options.small:
        shrink(options)
    options.results = (options.out if options.small else RESULTS) / f"{NAME}.jsonl"
    options.run = now()
    return options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks on these cells have."""
    parser.add_argument("--truth", type=Path, required=True, help="CSV file of cells and their accuracies")
    parser.add_argument("--column", default="cifar10", help="the column of the accuracies")
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--cells", type=int, default=100, help="number of cells drawn from the table")
    parser.add_argument("--others", type=int, default=50, help="other cells, on which variants are tried")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of cells")
    parser.add_argument("--workers", type=int, default=2, help="number of processes, of one thread each")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--sets", type=Path, default=OUT, help="folder of the distilled sets")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-nb201"), help="folder for values")


def shrink(options: argparse.Namespace) -> None:
    """Change the options to few cells, and a folder of their own."""
    options.out /= "small"
    options.cells, options.others = min(options.cells, SMALL_CELLS), min(options.others, SMALL_CELLS)


def keep(options: argparse.Namespace, name: str, record: Mapping[str, Any], *, names: Sequence[str]) -> None:
    """A line of the results, with the options that it follows from."""
    shared = ("truth", "column", "data", "copy", "cells", "others", "seed", "workers", "small")
    given = {option: getattr(options, option) for option in (*shared, *names)}
    given |= {"truth": options.truth.name, "copy": f'"{options.copy}"'}
    data = f"{Path(options.data.removeprefix('folder:')).name}, {options.copy}; truth: {options.truth.name}"
    append(options.results, {**facts(name, given, run=options.run, data=data), **record})


if __name__ == "__main__":
    main()
