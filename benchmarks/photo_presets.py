"""The time that the settings for photographs take, beside its forecast, and the scores of the sets.

    python benchmarks/photo_presets.py [--methods dm] [--sides 32 64 128 224] [--data folder:DIR]

Each method distils ten images of each class under `--preset photos`, in as many threads as there are cores, after a
forecast; then two networks train on the set, and two on its random-real twin. Without --data the photographs are made
here, 100 of each of eight classes and 25 to test on (see `photos.py`), at the size that is distilled; with it they are
resized to that size. Appends a line for each method and size to benchmarks/results/photo_presets.jsonl.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from photos import photographs
from record import RESULTS, append, facts, now

from dd_core import RunOptions, datasets, distill, evaluate, forecast, method, preset
from dd_core.system.threads import computing

CLASSES, PER_CLASS, TESTS = 8, 100, 25
MADE = f"{CLASSES} classes of photographs made here, {PER_CLASS} each"


def main() -> None:
    """Every size, every method."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["dm", "dataset-distillation", "mtt"])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 224], help="sides of images in pixels")
    parser.add_argument("--ipc", type=int, default=10, help="images per class")
    parser.add_argument("--nets", type=int, default=2, help="networks that are trained on each set")
    parser.add_argument("--data", help="folder:DIR with train/ and test/, instead of photographs that are made here")
    parser.add_argument("--of", default=MADE, help="what --data is, for the record")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    run, shown = now(), {name: " ".join(map(str, getattr(options, name))) for name in ("methods", "sides")}
    for side in options.sides:
        with tempfile.TemporaryDirectory(prefix="photo-presets-") as folder:
            os.environ["DD_APPS_CACHE"] = f"{folder}/cache"  # nothing is found there
            if not options.data:
                photographs(Path(folder), CLASSES * PER_CLASS, side, classes=CLASSES, tests=TESTS)
            for name in options.methods:
                record = {
                    "side": side,
                    "method": name,
                    **measure(name, options.data or f"folder:{folder}", side, options),
                }
                append(
                    options.results / "photo_presets.jsonl",
                    facts("photo-presets", shown, run=run, data=options.of, threads=threads()) | record,
                )
                print(record, flush=True)


def measure(name: str, data: str, side: int, options: argparse.Namespace) -> dict[str, Any]:
    """One method at one size."""
    train, test = (datasets.load(data, split=split, image_size=side) for split in ("train", "test"))
    config = method(name, **preset("photos", name, image_size=side))
    how = RunOptions(device="cpu", threads=threads())
    told, forecasting = timed(lambda: forecast(config, train, options.ipc, options=how))
    ds, distilling = timed(lambda: distill(config, train, options.ipc, options=how))
    with computing(threads()):
        score, evaluating = timed(lambda: evaluate(ds, train=train, test=test, nets=options.nets, device="cpu"))
    return {
        "classes": len(train.classes),
        "real_images": len(train),
        "ipc": options.ipc,
        "forecast": round(told.seconds),
        "forecast_line": str(told),
        "forecasting_seconds": round(forecasting, 1),
        "distilling_seconds": round(distilling),
        "evaluating_seconds": round(evaluating),
        "network": ds.manifest.recipe.network,
        "nets": options.nets,
        "accuracy": score.accuracy.model_dump(),
        "random_real": score.random_real.model_dump(),
    }


def timed(call: Any) -> tuple[Any, float]:
    """The result of a call, and its seconds."""
    begun = time.monotonic()
    return call(), time.monotonic() - begun


def threads() -> int:
    """The number of cores."""
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
