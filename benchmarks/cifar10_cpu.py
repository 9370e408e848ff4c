"""Trajectory matching on CIFAR-10 with ten images, on a CPU: `mtt`, `ftd`, and `datm` with hard labels.

    python benchmarks/cifar10_cpu.py [--data cifar10|folder:DIR] [--copy TEXT] [--workers 2] [--nets 5] [--small]

Ten experts are trained by SGD and ten by GSAM, for the three epochs that are matched and no further. `mtt` matches the
former, `ftd` and `datm` the latter. So `datm` starts from random real images and keeps hard labels: choosing images
that an expert classifies correctly, and its logits as labels, would need fully trained experts. Each set is scored on
test images under `mtt-1000`, last epoch, beside its twin (as many random real images). The set's record says whether
its mean is at least twice the twin's, and whether it is ahead by the test of `dd_core.evaluation.verdicts.new_draw`.

The settings are the papers' for CIFAR-10, one image a class, except those that decide the time: ConvNet-3 is 32 wide
(128), images are not whitened, 10 experts (100), 1500 outer iterations (5000; `datm` 10000), 30 inner steps (50; `datm`
80), and students start from two epochs in `datm` too (four). `ftd` averages pixels with a decay that suits
fewer iterations. Nothing was chosen on test images.

Experts are kept in the artefact cache and sets in --out; the same command goes on where it stopped. Each run appends to
benchmarks/results/cifar10_cpu.jsonl and draws the losses and the images in benchmarks/results/cifar10_cpu.png.
`--small` shows in minutes that all of it works: few training images, scored on others of them; its records and its
picture stay in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from record import RESULTS, append, facts, now, rounded

from dd_apps.report.scores import percent
from dd_core import artefacts, datasets, store
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.distilled.pictures import contact_sheet
from dd_core.distiller import MethodConfig
from dd_core.evaluation import Score, evaluate
from dd_core.images import Source, split_indices
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages

NAME = "cifar10-cpu"
PROTOCOL = "mtt-1000"
COMMON: dict[str, Any] = {
    "steps": 1500,
    "syn_steps": 30,
    "expert_epochs": 2,
    "last_epoch": 2,
    "lr_img": 100.0,
    "lr_student": 0.01,
    "lr_lr": 1e-7,
    "experts": 10,
    "recipe": {"network": "convnet-3-w32"},
}
BY_SGD = {"learning_rate": 0.01, "batch_size": 256, "augmentation": "auto"}
BY_GSAM = {**BY_SGD, "sharpness": {"rho": 0.01, "alpha": 0.3}}
METHODS: dict[str, dict[str, Any]] = {
    "mtt": {"training": BY_SGD},
    "ftd": {"training": BY_GSAM, "ema": 0.98},
    "datm": {
        "training": BY_GSAM,
        "initial": "random",
        "soft_labels": False,
        "range_start": None,
        "threshold": 1.1,
    },
}
SMALL = {"steps": 10, "experts": 2}
AVERAGED = 100  # outer iterations that a mean loss is of


def main() -> None:
    """Experts, sets, scores; then the picture."""
    options = parse()
    begun = time.monotonic()
    train, test = images(options)
    workers = Workers(count=options.workers)
    make_experts(options, train, workers)
    for record in parallel.run(partial(distil, options=options), METHODS, workers=workers):
        write(options, record)
    scores = [score(name, train, test, options, workers) for name in METHODS]
    for record in scores:
        write(options, record)
    write(options, {"what": "all", "minutes": minutes(begun)})
    draw(options, scores)


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `run` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of CIFAR-10 this is, in words")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--nets", type=int, default=5, help="number of networks for each score")
    parser.add_argument("--small", action="store_true", help="try it out in minutes; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder for the sets")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
        options.nets = min(options.nets, 2)
    options.results = (options.out if options.small else RESULTS) / "cifar10_cpu.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    options.run = now()
    return options


def write(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Print the main figures of a record, and append all of it to the results."""
    gist = (
        "what",
        "name",
        "minutes",
        "rate",
        "loss",
        "accuracy",
        "std",
        "real",
        "real_std",
        "twice_the_twin",
        "verdict",
    )
    print(json.dumps({key: record[key] for key in gist if key in record}), flush=True)
    told = {name: getattr(options, name) for name in ("data", "nets", "workers", "small")}
    small = ", 2,000 images, scored on others of the training images" if options.small else ""
    data = f"CIFAR-10, {options.copy}{small}"
    append(options.results, {**facts(NAME, told, run=options.run, data=data), **record})


def minutes(begun: float) -> float:
    """Minutes since `begun`."""
    return round((time.monotonic() - begun) / 60, 1)


# --- the steps -------------------------------------------------------------------------------------------------


def images(options: argparse.Namespace) -> tuple[Source, Source]:
    """Images to learn from, and those to score on."""
    train = datasets.load(options.data)
    if not options.small:
        return train, datasets.load(options.data, split="test")
    others, few = split_indices(train, 0.04, seed=0)
    return train.subset(few), train.subset(others[::50])


def configure(name: str, options: argparse.Namespace) -> MethodConfig:
    """A method's config."""
    return method(name, **COMMON | METHODS[name] | (SMALL if options.small else {}))


def make_experts(options: argparse.Namespace, train: Source, workers: Workers) -> None:
    """Train the experts of every method in parallel; a later call finds them."""
    for name, kind in (("mtt", "SGD"), ("ftd", "GSAM")):
        begun = time.monotonic()
        spec = configure(name, options).needs(train, size=Size(ipc=1), seed=0)["experts"]
        resources = Resources.of([train], device="cpu")
        found = artefacts.get(spec, resources=resources, workers=workers, reporter=Messages(print))
        losses = [told["losses"] for _, told in found]
        record = {"what": "experts", "name": kind, "minutes": minutes(begun), "losses": losses}
        write(options, {**record, "spec": spec.model_dump(mode="json")})


def path_of(name: str, options: argparse.Namespace) -> Path:
    """Where a method's set is kept."""
    return options.out / f"{name}.safetensors"


def logged(name: str, options: argparse.Namespace, what: str) -> list[float]:
    """The log of each outer iteration: `loss`, the matching loss; `taken`, whether a step was taken (`datm` only)."""
    lines = store.read_lines(path_of(name, options).with_suffix(".run") / "metrics.jsonl")
    return [line.get(what, 1.0) for line in lines]


def distil(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Distil ten images, or find them; the record."""
    out = path_of(name, options)
    run = RunOptions(device="cpu", threads=1, resume_command="the same command")
    ds = distill(configure(name, options), images(options)[0], Size(ipc=1), out=out, options=run)
    cost, losses = store.read_json(out.with_suffix(".run") / "run.json"), logged(name, options, "loss")
    assert ds.manifest.provenance is not None
    return {
        "what": "distilled",
        "name": name,
        "minutes": round(cost["seconds"] / 60, 1),
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "rate": ds.manifest.recipe.learning_rate,
        "loss": [round(fmean(part), 4) for part in (losses[:AVERAGED], losses[-AVERAGED:])],
        "steps_taken": round(fmean(logged(name, options, "taken")), 3),
        "seed": ds.manifest.provenance.seed,
        "config": ds.manifest.provenance.config,
    }


def score(name: str, train: Source, test: Source, options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    """Score a set and its twin; the record."""
    ds = store.read_set(path_of(name, options))
    found = evaluate(ds, train=train, test=test, protocol=PROTOCOL, nets=options.nets, workers=workers, device="cpu")
    return {
        "what": "score",
        "name": name,
        "accuracy": round(found.accuracy.mean, 4),
        "std": rounded(found.accuracy.std),
        "real": round(found.random_real.mean, 4),
        "real_std": rounded(found.random_real.std),
        "over_real": round(found.accuracy.mean / found.random_real.mean, 2),
        "twice_the_twin": found.accuracy.mean >= 2 * found.random_real.mean,
        "verdict": asdict(found.verdict),
        "evaluation": found.model_dump(mode="json"),
    }


def draw(options: argparse.Namespace, scores: Sequence[dict[str, Any]]) -> None:
    """The loss of each method, and under its score the images, class by class."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(scores), 2, figsize=(12, 1.9 * len(scores)), width_ratios=(1, 3))
    for (left, right), record in zip(axes, scores, strict=True):
        name = record["name"]
        losses = logged(name, options, "loss")
        every = max(1, min(AVERAGED, len(losses)) // 2)
        starts = range(0, len(losses), every)
        left.plot(starts, [fmean(losses[start : start + every]) for start in starts])
        left.set_title(f"{name}: matching loss", fontsize=8)
        left.tick_params(labelsize=7)
        ds = store.read_set(path_of(name, options))
        # without labels a sheet has no row for each class
        bare = replace(ds, labels=None, manifest=ds.manifest.model_copy(update={"task": "self-supervised"}))
        right.imshow(contact_sheet(bare, columns=len(ds), side=64))
        both = (record["evaluation"][who]["per_network"] for who in ("accuracy", "random_real"))
        ours, real = (percent(Score.of(accuracies)) for accuracies in both)
        right.set_title(f"{name}: {ours}; random real images {real}", fontsize=8)
        right.axis("off")
    figure.tight_layout()
    figure.savefig(options.results.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
