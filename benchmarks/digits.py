"""Sets of scikit-learn's digits beside random real images: the rows of REPRODUCIBILITY that need no experts.

    python benchmarks/digits.py [--rows NAME ...] [--workers 2]

Each row is a run of the task `distill`: a set is made, networks are trained on it and on as many random real images,
and both are scored on the 359 test images. The row `everything` scores 1,350 of the 1,438 training images under the
protocol of trajectory matching. Each run appends a line for each score to benchmarks/results/digits.jsonl.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import record

from dd_apps import distillation, scenario
from dd_apps.distillation import DistillScenario
from dd_apps.scoring import Scoring, score
from dd_core import datasets, store
from dd_core.config import decode
from dd_core.runner import RunOptions
from dd_core.system.parallel import Workers

RESULTS = record.RESULTS / "digits.jsonl"
FULL_STRENGTH = {"network": "convnet-w32", "augmentation": "auto", "learning_rate": 0.02}
ROWS: dict[str, dict[str, Any]] = {
    "dm": {"ipc": 1, "method": {"name": "dm", "steps": 300}},
    "average": {"ipc": 1, "method": {"name": "average"}},
    "k-means": {"ipc": 10, "method": {"name": "k-means"}},
    "herding": {"ipc": 10, "method": {"name": "herding"}},
    "dataset-distillation": {"ipc": 1, "nets": 20, "method": {"name": "dataset-distillation"}},
    "networks": {key: value for key, value in scenario.load("digits-dm").plain().items() if key != "task"},
    "everything": {
        "ipc": 135,
        "nets": 3,
        "protocol": "mtt-1000",
        "method": {"name": "random", "recipe": FULL_STRENGTH},
    },
}
ELSEWHERE = {"dataset-distillation": Scoring(protocol="plain-300", nets=20)}  # what its twin reaches in 300 epochs


def main() -> None:
    """Make and score every row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="rows to make; by default all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="networks trained at the same time")
    options = parser.parse_args()
    began = record.now()
    for row in options.rows or ROWS:
        for figures in scores(row, workers=options.workers):
            facts = record.facts("digits", {"rows": options.rows}, run=began, data="digits of scikit-learn, 8x8")
            record.append(RESULTS, facts | {"row": row} | figures)
            score, twin = (figures["evaluation"][who] for who in ("accuracy", "random_real"))
            print(row, figures["evaluation"]["network"], score["mean"], twin["mean"], figures["seconds"], flush=True)


def scores(row: str, *, workers: int) -> list[dict[str, Any]]:
    """The evaluations of a row: those of its scenario, and under a further protocol where there is one."""
    values = decode(DistillScenario, {"data": "digits", **ROWS[row]}, where=row)
    options = RunOptions(device="cpu", threads=1, workers=Workers(count=workers))
    with tempfile.TemporaryDirectory(prefix="digits-") as folder:
        out = Path(folder) / "set.safetensors"
        ds, scored = distillation.run(values, out=out, options=options)
        seconds = store.read_json(out.with_suffix(".run") / "run.json")["seconds"]
    evaluations = list(scored.evaluations)
    if row in ELSEWHERE:
        train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
        evaluations += score(ds, train, test, ELSEWHERE[row], options=options).evaluations
    made = ds.manifest.provenance
    assert made is not None
    return [
        {
            "method": made.method,
            "ipc": values.ipc,
            "config": made.config,
            "seconds": seconds,
            "evaluation": one.model_dump(mode="json"),
        }
        for one in evaluations
    ]


if __name__ == "__main__":
    main()
