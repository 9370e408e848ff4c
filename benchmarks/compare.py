"""A shipped scenario of the task `compare`, run as `dd-apps run` does.

    python benchmarks/compare.py --scenario digits|mnist [--data folder:DIR --copy WORDS] [--out DIR]

`--out` is a folder from which an interrupted run resumes; by default a temporary one. Each run appends a line to
benchmarks/results/compare.jsonl: the scenario, the tables of the report, and the accuracy of every cell under every
seed. The picture of accuracy against bytes on the first network is benchmarks/results/compare-SCENARIO.png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import record

from dd_apps import scenario
from dd_apps.report.sections import Picture
from dd_apps.task import Outcome
from dd_core import store
from dd_core.runner import RunOptions
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages

RESULTS = record.RESULTS / "compare.jsonl"
SCENARIOS = {"digits": "scikit-learn's digits, 8x8", "mnist": "MNIST of torchvision"}


def main() -> None:
    """Run one scenario and append its results."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--scenario", choices=[*SCENARIOS], default="digits")
    parser.add_argument("--data", help="other real images than the scenario's: NAME or folder:DIR")
    parser.add_argument("--copy", help="which copy of the data these are, in words")
    parser.add_argument("--out", type=Path, help="folder from which an interrupted run resumes")
    options = parser.parse_args()
    overrides = [] if options.data is None else [f"data={options.data}"]
    loaded = scenario.load(f"compare/{options.scenario}", overrides=overrides)
    began, begun = record.now(), time.perf_counter()
    workers = Workers(count=loaded.workers or 1)
    run_options = RunOptions(device="cpu", threads=1, workers=workers, reporter=Messages(print))
    with tempfile.TemporaryDirectory(prefix="compare-") as temporary:
        outcome = scenario.run(loaded, folder=options.out or Path(temporary), options=run_options)
    given = {name: getattr(options, name) for name in ("scenario", "data", "copy")}
    facts = record.facts("compare", given, run=began, data=options.copy or SCENARIOS[options.scenario])
    seconds = round(time.perf_counter() - begun, 1)
    values = {"scenario": {**loaded.plain(), "data": record.shown(loaded.plain()["data"])}}
    record.append(RESULTS, facts | {"name": options.scenario, "seconds": seconds} | values | figures(outcome))
    picture = next(section for section in outcome.sections if isinstance(section, Picture))
    store.write_bytes(RESULTS.with_name(f"compare-{options.scenario}.png"), picture.png)


def figures(outcome: Outcome) -> dict[str, Any]:
    """The tables as they are, and the accuracy of every cell."""
    cells = [
        {
            **cell["cell"],
            **{"images": cell["images"], "bytes": cell["bytes"]},
            "accuracy": cell["evaluation"] and record.rounded(cell["evaluation"]["accuracy"]["mean"]),
            "twin": cell["evaluation"] and record.rounded(cell["evaluation"]["random_real"]["mean"]),
        }
        for cell in outcome.details["cells"]
    ]
    tables = [{"title": table.title, "rows": table.plain(), "notes": list(table.notes)} for table in outcome.tables]
    return {"tables": tables, "cells": cells}


if __name__ == "__main__":
    main()
