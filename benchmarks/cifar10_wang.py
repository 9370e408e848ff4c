"""Wang et al. 2018 on CIFAR-10: 100 images for one fixed AlexCifarNet, beside its random-real twin and the grid.

    python benchmarks/cifar10_wang.py [--data cifar10|folder:DIR] [--steps 4000] [--batch-real 1024] [--minutes 9]

The authors' README has 54 % with the original pixels. Settings are theirs: ten blocks of ten images, three epochs,
rates from 0.001, Adam at 0.01 halved ten times, 1024 real images an outer iteration.
Without a GPU `--small` is the form that ends within half an hour: 128 real images, 150 outer iterations, rates from
0.02 (from 0.001 so few iterations change nothing), no grid; it shows that the code works, and its score must not be
compared with the authors'.

The set is kept in --out, and the same command goes on where it stopped (after --minutes it stops by itself). Each
finished run appends a line to benchmarks/results/cifar10_wang.jsonl and draws the images beside it.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dd_apps.report.scores import figures, verdict
from dd_core import __version__, datasets, store
from dd_core.distilled import Size
from dd_core.distilled.pictures import contact_sheet, png_bytes
from dd_core.evaluation import evaluate
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.system import device

RESULTS = Path(__file__).parent / "results" / "cifar10_wang.jsonl"


def main() -> None:
    """Distil, score, record."""
    options = parse()
    train, test = (datasets.load(options.data, split=split) for split in ("train", "test"))
    config = method(
        "dataset-distillation",
        start="fixed",
        steps=options.steps,
        batch_real=options.batch_real,
        blocks=10,
        epochs=3,
        lr_img=0.01,
        lr_inner=options.lr_inner,
        decay_every=max(1, options.steps // 10),
        recipe={"network": "alexcifarnet", "initialisation": "xavier"},
    )
    limit = None if options.minutes is None else 60 * options.minutes
    how = RunOptions(device=options.device, time_limit=limit, resume_command="the same command")
    ds = distill(config, train, Size(ipc=10), out=options.out, options=how)
    cost = store.read_json(options.out.with_suffix(".run") / "run.json")
    common = facts(options, config.model_dump(mode="json"), cost)
    RESULTS.parent.mkdir(exist_ok=True)
    for protocol in ("recipe",) if options.small else ("recipe", "wang-grid"):
        found = evaluate(ds, train=train, test=test, protocol=protocol, nets=options.nets, device=options.device)
        record = {**common, "protocol": protocol, "evaluation": figures(found)}
        print(protocol, verdict(found), flush=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(record) + "\n")
    store.write_bytes(RESULTS.with_suffix(".png"), png_bytes(contact_sheet(ds, columns=10)))


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description="Wang et al. 2018 on CIFAR-10 with 100 images")
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of the data this is, in words")
    parser.add_argument("--small", action="store_true", help="128 real images and 150 outer iterations, for a CPU")
    parser.add_argument("--steps", type=int, default=4000, help="outer iterations (paper: 400 epochs, 19600)")
    parser.add_argument("--batch-real", type=int, default=1024, help="real images in an outer iteration")
    parser.add_argument("--lr-inner", type=float, help="initial inner rate; none: 0.001, or 0.02 where --small")
    parser.add_argument("--nets", type=int, default=10, help="draws of the twin; the set has one network")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--minutes", type=float, help="after which distilling stops, resumable")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-cifar10-wang/set.safetensors"))
    options = parser.parse_args()
    if options.small:
        options.steps, options.batch_real = min(options.steps, 150), 128
    options.lr_inner = options.lr_inner or (0.02 if options.small else 0.001)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


def facts(options: argparse.Namespace, config: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    """The facts that every record carries."""
    import torch

    data = "folder:DIR" if options.data.startswith("folder:") else options.data
    small = " --small" if options.small else ""
    return {
        "benchmark": "cifar10-wang",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"make bench-cifar10-wang BENCH_ARGS='--data {data} --steps {options.steps} "
        f"--batch-real {options.batch_real} --lr-inner {options.lr_inner}{small}'",
        "data": f"CIFAR-10, {options.copy}",
        "seconds": cost["seconds"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "hardware": device.hardware(device.resolve(options.device)),
        "load_average": round(os.getloadavg()[0], 1),  # far above the cores: others were computing too
        "versions": {"dd-apps": __version__, "torch": torch.__version__},
        "config": config,
    }


if __name__ == "__main__":
    main()
