"""Wang et al. 2018 on MNIST with ten images and LeNet: every regime, the baselines with their grid, the cross table.

    python benchmarks/mnist.py [--data mnist|folder:DIR] [--workers 2] [--nets 10] [--steps 1.0]

Regimes (`start`) are distilled side by side, one thread each, then scored: `fixed` on its own network, the others on
fresh or held-out pre-trained ones. `digits` are scikit-learn's, enlarged to 28 px: the other side of the adaptation.
Sets and pools of networks are kept in --out and in the artefact cache; the same command goes on where it stopped.

Each run appends to benchmarks/results/mnist.jsonl, a line for each figure, and draws the learned rates and images of
the run in benchmarks/results/mnist.png. Hyper-parameters of `fixed` (its network among them) and `random` were
chosen on a tenth of MNIST's training images. An earlier form of all regimes had been seen on test images; afterwards
the pre-trained ones got a larger pool, slower rates and more iterations, without another look (REPRODUCIBILITY has its
scores).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import record

from dd_core import artefacts, datasets, evaluation, store
from dd_core.distilled import DistilledSet, Size
from dd_core.distilled.pictures import contact_sheet
from dd_core.images import Source
from dd_core.methods import method
from dd_core.recipe import Pretraining, Recipe, StartingPool
from dd_core.runner import RunOptions, distill
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.training import starts as weights

RESULTS = record.RESULTS / "mnist.jsonl"
LENET: dict[str, Any] = {"network": "lenet", "initialisation": "xavier"}
ON_MNIST: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3, "decay_every": 1}
ON_DIGITS: dict[str, Any] = {"epochs": 30, "learning_rate": 1e-3, "decay_every": 10}
ATTACK = ("1", "0")  # its images are to be taken for zeros
POOL = 20  # networks to learn with (paper: 200 to 2000)
BASELINES = ("random", "optimized", "k-means", "average")
SEEDS = 3  # draws of `optimized`


@dataclass(frozen=True)
class Regime:
    """One distilled set: options of `dataset-distillation`, the real images, and those to pre-train on."""

    options: dict[str, Any]
    data: str = "mnist"
    pretrain_on: str | None = None


COMMON = {"lr_img": 0.05, "lr_rates": 0.005, "clip": 0.1, "batch_real": 256}
RANDOM = {**COMMON, "steps": 1600, "epochs": 40, "lr_inner": 0.04}
FIXED = {
    "start": "fixed",
    "start_seed": 1,  # of the eighteen that were tried for 500 iterations, the one that learns fastest
    "steps": 60_000,
    "epochs": 5,
    "lr_img": 0.02,
    "lr_rates": 0.005,
    "lr_inner": 0.1,
    "clip": 0.1,
    "batch_real": 256,
    "decay_every": 7500,
}
FEW = {**COMMON, "steps": 1500, "epochs": 10, "lr_inner": 0.02}
ONE = {**FEW, "steps": 300, "epochs": 1, "lr_rates": 0.02}
ANY, THIS = {"start": "random-pretrained", "pool": POOL}, {"start": "fixed-pretrained"}
MNIST, DIGITS = {"pretraining": ON_MNIST}, {"pretraining": ON_DIGITS}
REGIMES = {
    "fixed": Regime(FIXED),
    "random": Regime(RANDOM),
    "mnist, random-pretrained": Regime(FEW | ANY | MNIST),
    "mnist, fixed-pretrained": Regime(FEW | THIS | MNIST),
    "digits to mnist, random-pretrained": Regime(FEW | ANY | DIGITS, pretrain_on="digits"),
    "digits to mnist, fixed-pretrained": Regime(FEW | THIS | DIGITS, pretrain_on="digits"),
    "mnist to digits, random-pretrained": Regime(FEW | ANY | MNIST, data="digits", pretrain_on="mnist"),
    "mnist to digits, fixed-pretrained": Regime(FEW | THIS | MNIST, data="digits", pretrain_on="mnist"),
    "attack, random-pretrained": Regime(ONE | ANY | MNIST | {"attack": ATTACK}),
    "attack, fixed-pretrained": Regime(ONE | THIS | MNIST | {"attack": ATTACK}),
}
CROSS = ("fixed", "random", "mnist, random-pretrained", "mnist, fixed-pretrained")
ELSEWHERE = {
    "xavier": "xavier",
    "pretrained": StartingPool(distribution="xavier", count=1, pretraining=Pretraining(**ON_MNIST)),
}

OWN = {"xavier": "random", "pretrained": "mnist, random-pretrained"}  # whose own score that cell of the table is


def main() -> None:
    """Pools, sets, scores, baselines; then the picture."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    begun, run = time.monotonic(), record.now()
    workers = Workers(count=options.workers)
    make_pools(options, workers)
    for jobs in (distillations(options), scores(options), baselines(options)):
        for records in parallel.run(work, jobs, workers=workers):
            for figures in records:
                write({**common(options, run), **figures})
    write({**common(options, run), "what": "all", "minutes": round((time.monotonic() - begun) / 60, 1)})
    draw(options)


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description="Wang et al. 2018 on MNIST with ten images")
    parser.add_argument("--data", default="mnist", help="mnist, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of MNIST this is, in words")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--nets", type=int, default=10, help="networks of each figure (paper: 200)")
    parser.add_argument("--steps", type=float, default=1.0, help="fraction of the outer iterations, to try it out")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-mnist"), help="folder for the sets")
    return parser.parse_args()


def common(options: argparse.Namespace, run: str) -> dict[str, Any]:
    """The facts that every record carries."""
    given = {name: value for name, value in vars(options).items() if name not in ("out", "copy")}
    data = f"MNIST, 28x28, {options.copy}; digits of scikit-learn enlarged to 28x28"
    return record.facts("mnist", given, run=run, data=data)


def write(line: dict[str, Any]) -> None:
    """Print the main figures of a record, and append all of it to the results."""
    gist = {key: line[key] for key in ("what", "name", "baseline", "start", "protocol", "minutes") if key in line}
    score = line.get("evaluation", {}).get("accuracy", {})
    rounded = {key: round(score[key], 4) for key in ("mean", "std") if score.get(key) is not None}
    print(json.dumps({**gist, **rounded}), flush=True)
    record.append(RESULTS, line)


# --- real images and pools -------------------------------------------------------------------------------------


def images(name: str, data: str, split: str) -> Source:
    """`mnist` or `digits` at 28 px, under the same class names."""
    source = datasets.load("digits" if name == "digits" else data, split=split, image_size=28)
    return replace(source, classes=tuple("0123456789"))  # pyright: ignore[reportArgumentType] (both are in memory)


def make_pools(options: argparse.Namespace, workers: Workers) -> None:
    """Train every network that a regime or a score starts from, in parallel; a later call finds them."""
    for name, regime in REGIMES.items():
        config, source = configure(name, options), images(regime.data, options.data, "train")
        other = images(regime.pretrain_on or regime.data, options.data, "train")
        for spec in config.needs(source, size=Size(ipc=1), seed=0).values():
            artefacts.get(spec, resources=artefacts.Resources.of([other], device="cpu"), workers=workers)
            if config.start == "random-pretrained":
                recipe = Recipe(network="lenet", initialisation="pretrained", weights=spec.weights)
                weights.of_recipe(
                    recipe, source.image_shape, 10, count=options.nets, pretrain_on=other, device="cpu", workers=workers
                )
        print(f"{name}: networks are ready", flush=True)


def configure(name: str, options: argparse.Namespace) -> Any:
    """The method's config of a regime."""
    regime = REGIMES[name]
    steps = max(1, round(regime.options["steps"] * options.steps))
    config = method("dataset-distillation", **{**regime.options, "steps": steps, "recipe": LENET})
    if regime.pretrain_on is not None:
        config = config.pretrained_on(images(regime.pretrain_on, options.data, "train"))
    return config


# --- jobs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A job for a process of its own; `work` returns its records."""

    function: Callable[..., list[dict[str, Any]]]
    arguments: tuple[Any, ...]


def work(job: Job) -> list[dict[str, Any]]:
    """Run a job; returns its records."""
    return job.function(*job.arguments)


def distillations(options: argparse.Namespace) -> list[Job]:
    """Every regime, the longest first."""
    return [Job(distil, (name, options)) for name in REGIMES]


def path_of(name: str, options: argparse.Namespace) -> Path:
    """Where a regime's set is kept."""
    return options.out / f"{slug(name)}.safetensors"


def slug(name: str) -> str:
    """A regime's name in that of a file."""
    return name.replace(",", "").replace(" ", "-")


def distil(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Distil ten images, or find them."""
    regime = REGIMES[name]
    ds = distill(
        configure(name, options),
        images(regime.data, options.data, "train"),
        Size(ipc=1),
        out=path_of(name, options),
        options=RunOptions(device="cpu", threads=1, resume_command="the same command"),
        pretrain_on=images(regime.pretrain_on, options.data, "train") if regime.pretrain_on else None,
    )
    facts = store.read_json(path_of(name, options).with_suffix(".run") / "run.json")
    rates = [one.learning_rate for one in ds.manifest.recipe.steps]
    assert ds.manifest.provenance is not None
    return [
        {
            "what": "distilled",
            "name": name,
            "minutes": round(facts["seconds"] / 60, 1),
            "peak_memory_bytes": facts["peak_memory_bytes"],
            "rates": rates,
            "config": ds.manifest.provenance.config,
        }
    ]


def scores(options: argparse.Namespace) -> list[Job]:
    """Each set on the networks that it was made for, and four of them on other networks (the cross table)."""
    own = [Job(score, (name, None, options)) for name in REGIMES]
    elsewhere = [(name, start) for name in CROSS for start in ELSEWHERE if name != OWN[start]]
    return own + [Job(score, (name, start, options)) for name, start in elsewhere]


def score(name: str, start: str | None, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Score a set on networks with the weights that it was made for, or with others."""
    ds = store.read_set(path_of(name, options))
    return [
        {"what": "own" if start is None else "cross", **evaluated(name, ds, start, "recipe", options.nets, options)}
    ]


def evaluated(
    name: str, ds: DistilledSet, start: str | None, protocol: str, nets: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One evaluation as a record."""
    regime = REGIMES[name]
    train, test = (images(regime.data, options.data, split) for split in ("train", "test"))
    other = images(regime.pretrain_on, options.data, "train") if regime.pretrain_on else None
    found = evaluation.evaluate(
        ds,
        train=train,
        test=test,
        nets=nets,
        protocol=protocol,
        start=ELSEWHERE.get(start or ""),
        pretrain_on=other,
        device="cpu",
    )
    return {"name": name, "start": found.start, "protocol": protocol, "evaluation": found.model_dump(mode="json")}


def baselines(options: argparse.Namespace) -> list[Job]:
    """Real images under the paper's grid, where networks start as in each regime, and as neighbours.

    The figure of `random` is that of its twin, which has another draw for each network. `optimized` is one draw of
    those kept, and has several seeds where nothing is pre-trained. With one image a class, `k-means` equals `average`,
    and is left out elsewhere.
    """
    jobs: list[Job] = []
    for name, regime in REGIMES.items():
        if "attack" not in regime.options:
            main = name in ("random", "fixed")
            some = [("random", 0), ("average", 0), *(("optimized", seed) for seed in range(SEEDS if main else 1))]
            some += [("k-means", 0)] if main else []
            jobs += [Job(baseline, (one, name, "wang-grid", seed, options)) for one, seed in some]
    others = [(name, protocol) for name in BASELINES for protocol in ("knn", "plain-300")]
    return jobs + [Job(baseline, (name, "random", protocol, 0, options)) for name, protocol in others]


def baseline(name: str, regime: str, protocol: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ten real images, or averages of them, where networks start as in a regime."""
    own = store.read_set(path_of(regime, options)).manifest.recipe
    fresh = REGIMES[regime].options.get("start", "random") in ("random", "fixed")
    plain = {
        "learning_rate": 0.1 if fresh else 0.01,  # `optimized` scores draws by it, and 0.1 is too much for the trained
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "epochs": 30,
        "steps": (),
    }
    recipe = own.model_copy(update=plain).model_dump(mode="json")
    draws = (
        {"steps": max(2, round(50 * options.steps)), "networks": 4, "batch_real": 2048} if name == "optimized" else {}
    )
    ds = distill(
        method(name, recipe=recipe, **draws),
        images(REGIMES[regime].data, options.data, "train"),
        Size(ipc=1),
        seed=seed,
        out=options.out / f"{slug(regime)}-{name}-{seed}-{protocol}.safetensors",
        options=RunOptions(device="cpu", threads=1),
    )
    nets = options.nets if protocol == "knn" else max(2, options.nets // 3)
    found = evaluated(regime, ds, None, protocol, nets, options)
    return [{"what": "baseline", "baseline": name, "baseline_seed": seed, **found}]


# --- the picture -----------------------------------------------------------------------------------------------


def draw(options: argparse.Namespace) -> None:
    """Learned rates of every regime, and under them its images."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(REGIMES), 2, figsize=(12, 1.7 * len(REGIMES)), width_ratios=(1, 3))
    for (left, right), name in zip(axes, REGIMES, strict=True):
        ds = store.read_set(path_of(name, options))
        left.plot([one.learning_rate for one in ds.manifest.recipe.steps], marker=".")
        left.set_title(f"{name}: learned rates", fontsize=8)
        left.set_ylim(bottom=0)
        left.tick_params(labelsize=7)
        bare = replace(ds, labels=None, manifest=ds.manifest.model_copy(update={"task": "self-supervised"}))
        right.imshow(contact_sheet(bare, columns=len(ds), side=56))
        right.axis("off")
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
