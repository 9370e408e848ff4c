"""Trajectory matching on digits: mtt, ftd, datm, m-datm and tesla beside as many random real images.

    python benchmarks/trajectories.py [--ipc 1 10] [--seeds 3] [--nets 3] [--workers 2] [--protocol mtt-1000]

ConvNet of width 32, scored on the test images; `--width 128` is the methods' own default. A seed is that of experts,
set and networks. Required of each set: 20 points above its twin at one image a class, 2 points at ten. Methods have
their default settings, or at ten images a class those of the scenario `digits-ipc10-METHOD` where there is one; both
were chosen on a fifth of the training images.

Sets and experts are kept in --out and in the artefact cache; the same command goes on where it stopped. Each run
appends to benchmarks/results/trajectories.jsonl.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from record import append, facts, now

from dd_apps import scenario
from dd_core import datasets, store
from dd_core.distilled import Size
from dd_core.distiller import MethodConfig
from dd_core.evaluation import evaluate
from dd_core.evaluation.verdicts import paired
from dd_core.methods import decode_method
from dd_core.runner import RunOptions, distill
from dd_core.system import parallel
from dd_core.system.parallel import Workers

RESULTS = Path(__file__).parent / "results" / "trajectories.jsonl"
PRESETS = ("mtt", "ftd", "datm", "m-datm", "tesla")
ASKED = {1: 0.20, 10: 0.02}  # above the twin


@dataclass(frozen=True)
class Job:
    """One set, made and scored."""

    name: str
    ipc: int
    seed: int
    options: argparse.Namespace


def main() -> None:
    """Every preset, size and seed; then a line for each preset and size."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in vars(options).items() if key != "out"}
    common = facts("trajectories", given, run=now(), data="digits of scikit-learn, 8x8")
    jobs = [Job(name, ipc, seed, options) for ipc in options.ipc for name in PRESETS for seed in range(options.seeds)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for job, one in zip(jobs, parallel.run(work, jobs, workers=Workers(count=options.workers)), strict=True):
        append(RESULTS, {**common, **one})
        found.setdefault((job.name, job.ipc), []).append(one)
    for (name, ipc), several in found.items():
        append(RESULTS, {**common, **summary(name, ipc, several)})


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description="trajectory matching on digits")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10], help="images a class")
    parser.add_argument("--width", type=int, default=32, help="width of the ConvNet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", type=int, default=3, help="number of networks for each score")
    parser.add_argument("--protocol", default="mtt-1000", help="how networks are trained on a set and on its twin")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-trajectories"), help="folder for the sets")
    return parser.parse_args()


def configure(job: Job) -> MethodConfig:
    """The method's config: that of its scenario for this size, else its defaults."""
    name = f"digits-ipc{job.ipc}-{job.name}"
    found = scenario.load(name).plain()["method"] if name in scenario.shipped() else {"name": job.name}
    recipe = {"network": f"convnet-w{job.options.width}"}
    return decode_method({**found, "recipe": recipe, "experts_seed": job.seed})


def work(job: Job) -> dict[str, Any]:
    """Distil, score."""
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    out = job.options.out / f"{job.name}-ipc{job.ipc}-w{job.options.width}-{job.seed}.safetensors"
    ds = distill(
        configure(job),
        train,
        Size(ipc=job.ipc),
        seed=job.seed,
        out=out,
        options=RunOptions(device="cpu", threads=1, resume_command="the same command"),
    )
    score = evaluate(
        ds, train=train, test=test, protocol=job.options.protocol, nets=job.options.nets, seed=job.seed, device="cpu"
    )
    assert ds.manifest.provenance is not None
    return {
        "what": "set",
        "name": job.name,
        "ipc": job.ipc,
        "seed": job.seed,
        "seconds": store.read_json(out.with_suffix(".run") / "run.json")["seconds"],
        "config": ds.manifest.provenance.config,
        "evaluation": score.model_dump(mode="json"),
    }


def summary(name: str, ipc: int, several: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and std over seeds of the networks' means, and the set against its twin: points, worst seed, paired t-test.

    `met` compares the mean over seeds with the required lead, without a test; `verdict` is the test's.
    """
    ours, twins = ([one["evaluation"][who]["mean"] for one in several] for who in ("accuracy", "random_real"))
    ahead = [a - b for a, b in zip(ours, twins, strict=True)]
    return {
        "what": "summary",
        "name": name,
        "ipc": ipc,
        "accuracy": {"mean": statistics.fmean(ours), "std": statistics.stdev(ours) if len(ours) > 1 else None},
        "random_real": {"mean": statistics.fmean(twins), "std": statistics.stdev(twins) if len(twins) > 1 else None},
        "verdict": asdict(paired(ours, twins)),
        "ahead": statistics.fmean(ahead),
        "ahead_in_the_worst_seed": min(ahead),
        "asked": ASKED.get(ipc),
        "met": ipc in ASKED and statistics.fmean(ahead) >= ASKED[ipc],
        "seconds_at_most": max(one["seconds"] for one in several),
    }


if __name__ == "__main__":
    main()
