"""The distilled sets of `nb201.py`: CIFAR-10, 1 and 10 images a class, by `dm`, `mtt` and `ftd`, on a CPU.

    python benchmarks/nb201_sets.py --data folder:DIR [--copy TEXT] [--workers 2] [--nets 2] [--small]

Sets are made of 48,000 training images; the other 2,000 validate the proxies, and no set has seen them. Scores, under
`mtt-1000` on the test images beside as many random real ones, say how good the sets are; nothing is chosen by them.

The settings are those of `cifar10_cpu.py`, shorter: 5 experts by SGD and 5 by GSAM, 800 outer iterations at 1 image a
class, and 150 with 20 inner steps at 10; `dm` has 500 iterations (20,000). The network is ConvNet-3 of width 32.

Sets are kept in --out, experts in the artefact cache; the same command goes on where it stopped. Appends to
benchmarks/results/nb201_sets.jsonl.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nb201_images import OUT, kit_of, set_file
from record import RESULTS, append, facts, now, rounded

from dd_core import artefacts, datasets, store
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.distiller import MethodConfig
from dd_core.evaluation import evaluate
from dd_core.images import Source
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages

NAME = "nb201-sets"
METHODS, SIZES = ("dm", "mtt", "ftd"), (10, 1)
PROTOCOL = "mtt-1000"
RECIPE = {"network": "convnet-3-w32"}
BY_SGD: dict[str, Any] = {"learning_rate": 0.01, "batch_size": 256, "augmentation": "auto"}
MATCHING = {"expert_epochs": 2, "last_epoch": 2, "lr_img": 100.0, "lr_student": 0.01, "lr_lr": 1e-7, "experts": 5}
STEPS = {1: {"steps": 800, "syn_steps": 30}, 10: {"steps": 150, "syn_steps": 20}}
SMALL: dict[str, Any] = {"steps": 3}


class Job(NamedTuple):
    """One set."""

    method: str
    ipc: int


def main() -> None:
    """Experts, sets, scores."""
    options = parse()
    workers = Workers(count=options.workers)
    jobs = [Job(name, ipc) for ipc in SIZES for name in METHODS]
    for name in ("mtt", "ftd"):
        spec = config(Job(name, 1), options).needs(train(options), size=Size(ipc=1), seed=0)["experts"]
        resources = Resources.of([train(options)], device="cpu")
        artefacts.get(spec, resources=resources, workers=workers, reporter=Messages(print))
    for record in parallel.run(partial(distilled, options=options), jobs, workers=workers):
        write(options, record)
    for job in jobs if options.nets else ():
        write(options, scored(job, options, workers))


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of CIFAR-10 this is, in words")
    parser.add_argument("--workers", type=int, default=2, help="one-thread jobs that run in parallel")
    parser.add_argument("--nets", type=int, default=2, help="networks of each score; 0: no scores")
    parser.add_argument("--small", action="store_true", help="try it out in minutes; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the sets")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
    options.results = (options.out if options.small else RESULTS) / "nb201_sets.jsonl"
    options.run = now()
    return options


def train(options: argparse.Namespace) -> Source:
    """The images that sets are made from; with --small, few."""
    return kit_of(options.data, small=options.small).tools().images.train


def config(job: Job, options: argparse.Namespace) -> MethodConfig:
    """A set's method with its settings."""
    if job.method == "dm":
        return method("dm", **{"steps": 500, "recipe": RECIPE, **(SMALL if options.small else {})})
    training = BY_SGD if job.method == "mtt" else BY_SGD | {"sharpness": {"rho": 0.01, "alpha": 0.3}}
    average = {} if job.method == "mtt" else {"ema": 0.98}
    few = SMALL | {"experts": 1} if options.small else {}
    return method(
        job.method, **{**MATCHING, **STEPS[job.ipc], **average, **few, "training": training, "recipe": RECIPE}
    )


def distilled(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """Distil a set, or find it; the record."""
    out = set_file(options.out, job.method, job.ipc)
    out.parent.mkdir(parents=True, exist_ok=True)
    run = RunOptions(device="cpu", threads=1, resume_command="the same command")
    ds = distill(config(job, options), train(options), Size(ipc=job.ipc), out=out, options=run)
    cost = store.read_json(out.with_suffix(".run") / "run.json")
    assert ds.manifest.provenance is not None
    return {
        "what": "distilled",
        **job._asdict(),
        "minutes": round(cost["seconds"] / 60, 1),
        "rate": ds.manifest.recipe.learning_rate,
        "config": ds.manifest.provenance.config,
    }


def scored(job: Job, options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    """Score a set and its twin; the record."""
    ds = store.read_set(set_file(options.out, job.method, job.ipc))
    test = datasets.load(options.data, split="test")
    score = evaluate(
        ds, train=train(options), test=test, protocol=PROTOCOL, nets=options.nets, workers=workers, device="cpu"
    )
    figures = {"accuracy": score.accuracy.mean, "std": score.accuracy.std}
    figures |= {"real": score.random_real.mean, "real_std": score.random_real.std}
    return {
        "what": "score",
        **job._asdict(),
        **{name: rounded(value) for name, value in figures.items()},
        "verdict": asdict(score.verdict),
    }


def write(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Print the main figures of a record, and append all of it to the results."""
    print(json.dumps({key: value for key, value in record.items() if key != "config"}), flush=True)
    given = {name: getattr(options, name) for name in ("data", "nets", "workers", "small")}
    common = facts(NAME, given | {"copy": f'"{options.copy}"'}, run=options.run, data=f"CIFAR-10, {options.copy}")
    append(options.results, {**common, **record})


if __name__ == "__main__":
    main()
