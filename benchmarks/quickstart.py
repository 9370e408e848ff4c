"""The quickstart's two tables for several seeds, and with the memory's share left as Avalanche has it.

    python benchmarks/quickstart.py [--seeds 0 1 2] [--scenario quickstart]

Each run appends one line for each seed to benchmarks/results/quickstart.jsonl, and one more for the first seed with
`replay.share = "stored"`. A line has the tables and, for every row, the accuracy on all test images after the last
experience, class order by class order (`final`): both sides of a comparison are drawn and distilled anew in each class
order, so that a paired t-test over them tells a difference from noise. `verdicts` are those of one seed alone. The
images of `dm`, first seed and class order 0, are drawn in benchmarks/results/SCENARIO.png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import record
import torch

from dd_apps import scenario
from dd_apps.continual import ContinualScenario, Results, run
from dd_apps.continual.benchmark import class_order, experience_sizes
from dd_apps.continual.metrics import Matrix, seen_accuracy
from dd_core import datasets, store
from dd_core.config import plain
from dd_core.distilled import DistilledSet
from dd_core.distilled.pictures import contact_sheet, png_bytes
from dd_core.evaluation import verdicts
from dd_core.images import require_labels

RESULTS = record.RESULTS / "quickstart.jsonl"
LEARNED = ("dm", "dataset-distillation")  # the others are real images, chosen or averaged
SCENARIOS = ("quickstart", "digits-replay-ipc1")
DATA = "digits of scikit-learn, 8x8: 1438 training and 359 test images"
Finals = dict[str, dict[str, list[float]]]  # table -> row -> accuracy for each class order


def main() -> None:
    """Run all and append to the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0])
    options = parser.parse_args()
    name, began = options.scenario, record.now()
    for seed, share in [*((seed, "fill") for seed in options.seeds), (options.seeds[0], "stored")]:
        settings = [f"seed={seed}", f"replay.share={share}"]
        values = scenario.load(name, overrides=settings).values
        assert isinstance(values, ContinualScenario)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
            results = run(values, folder=Path(folder), device="cpu")
        facts = record.facts("quickstart", {"scenario": name, "seeds": options.seeds}, run=began, data=DATA)
        figures = figures_of(values, results, seconds=time.perf_counter() - begun)
        record.append(RESULTS, facts | {"name": name, "settings": settings} | figures)
        print(name, *settings, *(f"\n  {table}: {words(found)}" for table, found in figures["verdicts"].items()))
        if (seed, share) == (options.seeds[0], "fill"):
            store.write_bytes(RESULTS.with_name(f"{name}.png"), picture(results.memories["dm"]))


def figures_of(values: ContinualScenario, results: Results, *, seconds: float) -> dict[str, Any]:
    """One run of the scenario."""
    final = finals(values, results.matrices)
    learned = [row for row in LEARNED if row in results.memories]
    return {
        "seed": values.seed,
        "share": values.replay.share,
        "seconds": round(seconds, 1),
        "final": final,
        "verdicts": {table: against(rows, learned) for table, rows in final.items()},
        "tables": results.tables,
        "notes": results.notes,
        "scenario": plain(values),
    }


def finals(values: ContinualScenario, matrices: Mapping[Any, Mapping[str, Sequence[Matrix]]]) -> Finals:
    """Accuracy on the test images of all classes after the last experience, as the tables' last column has it."""
    test = datasets.load(values.data, split="test", image_size=values.image_size)
    sizes = experience_sizes(len(test.classes), values.experiences)
    images = torch.bincount(require_labels(test), minlength=len(test.classes))

    def final(matrix: Matrix, order: int) -> float:
        classes = torch.tensor(class_order(len(test.classes), seed=values.seed, order=order)).split(list(sizes))
        return seen_accuracy(matrix, [int(images[part].sum()) for part in classes])[-1]

    return {
        table: {row: [final(matrix, order) for order, matrix in enumerate(found)] for row, found in rows.items()}
        for table, rows in matrices.items()
    }


def against(rows: Mapping[str, Sequence[float]], learned: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The verdict on each row of learned images against every other row, over class orders; in points of accuracy."""
    return {
        f"{ours} - {theirs}": asdict(verdicts.paired(percent(rows[ours]), percent(rows[theirs])))
        for ours in learned
        for theirs in rows
        if theirs != ours
    }


def percent(values: Sequence[float]) -> list[float]:
    """Fractions of 1 as percentages."""
    return [100 * value for value in values]


def words(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Differences and verdicts on one line."""
    return "; ".join(f"{pair} {verdict['difference']:+.1f} ({verdict['word']})" for pair, verdict in found.items())


def picture(ds: DistilledSet) -> bytes:
    """All images, those of a class below one another, as a PNG file."""
    order = torch.tensor(ds.labels).argsort(stable=True).reshape(len(ds.manifest.classes), -1).T.flatten()
    # without labels a sheet has no row for each class
    manifest = ds.manifest.model_copy(update={"task": "self-supervised"})
    unlabelled = replace(ds, images=ds.images[order.numpy()], labels=None, manifest=manifest)
    return png_bytes(contact_sheet(unlabelled, columns=len(ds.manifest.classes), side=80))


if __name__ == "__main__":
    main()
