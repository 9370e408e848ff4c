"""The quickstart's two tables for several seeds, and with the memory's share left as Avalanche has it.

    python benchmarks/quickstart.py [--seeds 0 1 2]

Each run appends one line for each seed to benchmarks/results/quickstart.jsonl, and one more for the first seed with
`replay.share = "stored"`. `leads` are the points (of 100) by which the distilled images of `dm` and of
`dataset-distillation` are ahead of the real ones. The images of `dm`, first seed and class order 0, are drawn in
benchmarks/results/quickstart.png.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dd_apps import scenario
from dd_apps.continual import ContinualScenario, Results, run
from dd_apps.report.pictures import contact_sheet, png_bytes
from dd_core import device, store
from dd_core.config import plain
from dd_core.distilled import DistilledSet

RESULTS = Path(__file__).parent / "results" / "quickstart.jsonl"
THREADS = 1  # of each job: the default of `Workers`
DISTILLED = ("dm", "dataset-distillation")
PACKAGES = ("dd-apps", "avalanche-lib", "numpy", "torch", "torchvision")


def main() -> None:
    """Run all and append to the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    RESULTS.parent.mkdir(exist_ok=True)
    for seed, share in [*((seed, "fill") for seed in seeds), (seeds[0], "stored")]:
        settings = [f"seed={seed}", f"replay.share={share}"]
        values = scenario.load("quickstart", overrides=settings).values
        assert isinstance(values, ContinualScenario)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
            found = run(values, folder=Path(folder), device="cpu")
        record = common(settings) | facts(values, found, seconds=time.perf_counter() - begun)
        print(json.dumps(record["leads"]), flush=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(record) + "\n")
        if (seed, share) == (seeds[0], "fill"):
            store.write_bytes(RESULTS.with_suffix(".png"), picture(found.memories["dm"]))


def common(settings: Sequence[str]) -> dict[str, Any]:
    """What every figure has to carry."""
    return {
        "benchmark": "quickstart",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["dd-apps run quickstart", *(f"--set {setting}" for setting in settings)]),
        "hardware": device.hardware(threads=THREADS),
        "load_average": round(os.getloadavg()[0], 1),  # at the end; far above the cores: others were computing too
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }


def facts(values: ContinualScenario, found: Results, *, seconds: float) -> dict[str, Any]:
    """One run of the scenario."""
    return {
        "seed": values.seed,
        "share": values.replay.share,
        "seconds": round(seconds, 1),
        "leads": {table: leads(rows) for table, rows in found.tables.items()},
        "tables": found.tables,
        "notes": found.notes,
        "scenario": plain(values),
    }


def leads(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Points by which learned images are ahead, column by column: means over class orders, in units of 1 % accuracy."""
    named = {row["row"]: row for row in rows}
    columns = [name for name in rows[0] if name == "average" or name.startswith("after_")]
    return {
        f"{distilled} - {real}": {
            column: round(100 * (named[distilled][column]["mean"] - named[real][column]["mean"]), 1)
            for column in columns
        }
        for distilled in DISTILLED
        for real in ("real", "real-adaptive")
    }


def picture(ds: DistilledSet) -> bytes:
    """All images in one row, as a PNG file."""
    # without labels a sheet has no row for each class
    unlabelled = replace(ds, labels=None, manifest=ds.manifest.model_copy(update={"task": "self-supervised"}))
    return png_bytes(contact_sheet(unlabelled, columns=len(ds), side=80))


if __name__ == "__main__":
    main()
