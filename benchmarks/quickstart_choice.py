"""How the quickstart's settings were chosen: on a quarter of the training images of digits, held out for it.

    python benchmarks/quickstart_choice.py [--ipc 2 4 5 8] [--steps 100 200 400] [--lr-img 1 3] [--set KEY=VALUE ...]

The test images are never read: the training images are written into a folder, three quarters of each class as its
training images and a quarter as its test images, and the quickstart runs on that folder, with `dm` as in START unless
an option says otherwise. Class orders are those of seeds that the published tables do not use. Rows that know no step
and no rate run once for each number of images a class. Each run appends a line for each setting and row to
benchmarks/results/quickstart_choice.jsonl: accuracies after the last experience, order by order, in both tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import record

from dd_apps import scenario
from dd_apps.continual import ContinualScenario, run
from dd_apps.continual.config import DISTILLED
from dd_apps.continual.metrics import average_accuracy, spread
from dd_core import datasets
from dd_core.images import LabelledImages
from dd_core.system.parallel import Workers

RESULTS = record.RESULTS / "quickstart_choice.jsonl"
HELD_OUT = 0.25  # the share of the training images that settings are judged by
SPLIT_SEED = 10  # of the draw of those images
START = (  # what the choice began with; the augmentation is what `auto` means for images that are called "digits"
    "method.batch_real=256",
    "method.recipe.network=convnet-2-w32",
    "method.augmentation=color_crop_cutout_scale_rotate",
)
BASELINES = ("k-means", "herding", "average", "real", "real-adaptive")


def main() -> None:
    """Run every setting and append to the results."""
    options = parse()
    began = record.now()
    with tempfile.TemporaryDirectory(prefix="quickstart-choice-") as name:
        folder = Path(name)
        write_images(folder)
        for row, settings in plan(options):
            figures = measure(row, settings, folder=folder, options=options)
            data = f"digits of scikit-learn: {HELD_OUT:g} of its training images held out (seed {SPLIT_SEED})"
            facts = record.facts("quickstart-choice", vars(options), run=began, data=data)
            record.append(RESULTS, facts | {"row": row, "settings": settings} | figures)
            means = {table: round(100 * figures[table]["mean"], 1) for table in ("retraining", "replay")}
            print(row, *settings, means, f"{figures['seconds']:.0f} s", flush=True)


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ipc", type=int, nargs="+", default=[2, 4, 5, 8], help="images a class")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 400], help="outer iterations of dm")
    parser.add_argument("--lr-img", type=float, nargs="+", default=[1.0, 3.0], help="rates of the pixels of dm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10], help="seeds of the class orders and of all else")
    parser.add_argument("--orders", type=int, default=2, help="class orders of each seed")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", help="further settings for every row")
    parser.add_argument("--rows", nargs="+", default=[*BASELINES, DISTILLED], help="rows to run")
    return parser.parse_args()


def plan(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Rows and their settings, those that cost least first."""
    further = options.set or []
    for ipc, row in product(options.ipc, [row for row in options.rows if row != DISTILLED]):
        yield row, [f"images_per_class={ipc}", *further]
    if DISTILLED not in options.rows:
        return
    for steps, rate, ipc in product(options.steps, options.lr_img, options.ipc):
        yield DISTILLED, [f"images_per_class={ipc}", f"method.steps={steps}", f"method.lr_img={rate:g}", *further]


def write_images(folder: Path) -> None:
    """`folder`/train and `folder`/test: the training images of digits, parted class by class, as PNG files."""
    source = datasets.load("digits", split="train")
    assert isinstance(source, LabelledImages)
    parts = dict(zip(("train", "test"), source.split(HELD_OUT, SPLIT_SEED), strict=True))
    for split, part in parts.items():
        assert isinstance(part, LabelledImages)
        write_part(part, folder / split)


def write_part(part: LabelledImages, folder: Path) -> None:
    """One PNG file for each image, in a folder for each class."""
    from PIL import Image

    for index, (image, label) in enumerate(zip(part.images, part.labels.tolist(), strict=True)):
        path = folder / part.classes[label] / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)


def measure(row: str, settings: Sequence[str], *, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of one row after the last experience (mean over experiences), for every seed and class order."""
    begun = time.perf_counter()
    accuracies: dict[str, list[float]] = {"retraining": [], "replay": []}
    for seed in options.seeds:
        places = [f"data=folder:{folder}", f"seed={seed}", f"orders={options.orders}", f'rows=["{row}"]']
        values = scenario.load("quickstart", overrides=[*places, *START, *settings]).values
        assert isinstance(values, ContinualScenario)
        results = run(values, workers=Workers(count=2), device="cpu")
        for table, matrices in results.matrices.items():
            accuracies[table] += [average_accuracy(matrix) for orders in matrices.values() for matrix in orders]
    scores = {table: spread(values) | {"each": values} for table, values in accuracies.items()}
    return {**scores, "seconds": round(time.perf_counter() - begun, 1)}


if __name__ == "__main__":
    main()
