"""Which proxy ranks the cells of NAS-Bench-201 as full training does, and what does it cost?

    python benchmarks/nb201.py --truth nb201.csv --data folder:DIR [--copy TEXT] [--cells 100] [--workers 2] [--small]

Cells are drawn by seed from the table of the truth: a CSV file with a column `architecture` and one of accuracies in
percent after 200 epochs of full training. Each proxy scores each cell's untrained network: 16 channels and 5 cells a
stack, as the benchmark has them. The zero-cost measures take 64 training images (128 for `naswot`), drawn by the same
seed, the same for every cell. A cell whose measure has no value, such as one through which no input passes, ranks
last. Correlations have bootstrap intervals over cells; differences have a paired bootstrap with Holm's correction.
Nothing is selected, and no test image is looked at: the truth is the table's. Published are Spearman's correlations
over all 15,625 cells, on the original pixels (Abdelfattah et al. 2021).

Values are kept, and the same command goes on where it stopped. Appends to benchmarks/results/nb201.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from nb201_trials import Record, Trial, lost, measure
from record import RESULTS, append, facts, now

from dd_apps.nas import measures, ranking, truth
from dd_core import store
from dd_core.config import plain
from dd_core.system.parallel import Pool, Workers

NAME = "nb201"
AVERAGES = {"synflow + jacob_cov": ("synflow", "jacob_cov")}
SMALL_CELLS = 6
REFERENCE = "synflow"  # what every other proxy is compared with: the strongest that was published


def main() -> None:
    """The values that are missing; then how each proxy ranks the cells."""
    options = parse()
    table = truth.read(options.truth, [options.column])
    cells = table.draw(options.cells, seed=options.seed)
    values = measured(cells, options)
    truths = table.accuracies(options.column, cells)
    proxies = {name: {cell: values[cell, name]["value"] for cell in cells} for name in options.measures}
    averages = {name: parts for name, parts in AVERAGES.items() if {*parts} <= {*proxies}}
    proxies |= {name: ranking.rank_average([proxies[part] for part in parts]) for name, parts in averages.items()}
    for name, proxy in proxies.items():
        parts = [[values[cell, part] for cell in cells] for part in averages.get(name, (name,))]
        told(options, summary(name, proxy, truths, parts))
    pairs = [(name, REFERENCE) for name in proxies if name != REFERENCE and REFERENCE in proxies]
    for statistic in ("spearman", f"spearman@{max(3, options.cells // 5)}"):
        for line in ranking.compare(proxies, truths, statistic=statistic, pairs=pairs) if pairs else ():
            told(options, {"what": "comparison", **plain(line)})


def parse() -> argparse.Namespace:
    """The command line; `results` is where the records go, `run` when the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--truth", type=Path, required=True, help="CSV file of cells and their accuracies")
    parser.add_argument("--column", default="cifar10", help="the column of the accuracies")
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data it is, for the record")
    parser.add_argument("--cells", type=int, default=100, help="drawn from the table")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, of weights and of mini-batches")
    parser.add_argument("--measures", nargs="+", default=list(measures.names()), choices=measures.names())
    parser.add_argument("--channels", type=int, default=16, help="of the first stack")
    parser.add_argument("--modules", type=int, default=5, help="cells a stack")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--small", action="store_true", help="to try it out: no figures")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-nb201"), help="where values are kept")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
        options.cells, options.channels, options.modules = SMALL_CELLS, 4, 1
    options.results = (options.out if options.small else RESULTS) / f"{NAME}.jsonl"
    options.run = now()
    return options


def measured(cells: tuple[str, ...], options: argparse.Namespace) -> dict[tuple[str, str], Record]:
    """The record of each cell and measure: those that are kept, and the missing ones, which are kept too."""
    of_trial = partial(Trial, data=options.data, channels=options.channels, modules=options.modules, seed=options.seed)
    trials = {(cell, name): of_trial(cell, name) for cell in cells for name in options.measures}
    kept = {line["trial"]: line for line in _kept(options.out)}
    missing = [trial for trial in trials.values() if trial.digest not in kept]
    print(f"{len(trials) - len(missing)} of {len(trials)} values are kept", flush=True)
    with Pool(Workers(count=options.workers)) as pool:
        for index, line in pool.as_finished(measure, missing, lost=lost):
            kept[line["trial"]] = line
            append(options.out / "values.jsonl", line)
            trial = missing[index]
            if trial.measure == options.measures[-1]:
                print(f"{len(kept)}: {trial.architecture} {line['value']}", flush=True)
    return {key: kept[trial.digest] for key, trial in trials.items()}


def _kept(out: Path) -> list[Record]:
    path = out / "values.jsonl"
    return list(store.read_lines(path)) if path.exists() else []


def summary(name: str, proxy: ranking.Values, truths: Mapping[str, float], parts: list[list[Record]]) -> Record:
    """How a proxy ranks the cells, and the mean seconds of a cell: an average costs what its parts cost together."""
    means = [statistics.mean(line["seconds"] for line in part if line["seconds"] is not None) for part in parts]
    return {
        "what": "proxy",
        "name": name,
        "seconds": round(sum(means), 4),
        "ranking": plain(ranking.rank(proxy, truths)),
        "reasons": sorted({line["reason"] for part in parts for line in part if line["reason"]}),
    }


def told(options: argparse.Namespace, record: Record) -> None:
    """Print the gist, keep all."""
    print(json.dumps(gist(record)), flush=True)
    names = ("truth", "column", "data", "copy", "cells", "seed", "channels", "modules", "workers", "small")
    given = {name: getattr(options, name) for name in names}
    given |= {"truth": options.truth.name, "copy": f'"{options.copy}"'}
    data = f"{Path(options.data.removeprefix('folder:')).name}, {options.copy}; truth: {options.truth.name}"
    append(options.results, {**facts(NAME, given, run=options.run, data=data), **record})


def gist(record: Record) -> Record:
    """What is printed of a record."""
    if record["what"] == "comparison":
        return record
    whole, top = record["ranking"]["whole"], record["ranking"]["top_fifth"]
    figures = {"spearman": whole["spearman"], "kendall": whole["kendall"]["value"]}
    top_fifth = {} if top is None else {"top fifth": top["spearman"]}
    failed = record["ranking"]["failed"]
    return {"name": record["name"], **figures, **top_fifth, "failed": failed, "seconds": record["seconds"]}


if __name__ == "__main__":
    main()
