"""SRe2L's continual experiment in small: 20 classes of Tiny-ImageNet at 32x32 in 5 and in 10 steps, on a CPU.

    python benchmarks/continual_sre2l.py --data folder:DIR [--steps 5 10] [--small]

After each step a fresh network learns ten images of each class so far, and teachers label every view (see
`dd_apps/continual/taught.py`). The rows: images by SRe2L, RDED and DM, and random real images, with the labels of a
teacher per step in both of its modes; and with the labels of a joint teacher, which no continual learner has. The full
experiment is in the scenarios tiny-imagenet-sre2l-5 and -10, for a GPU.

DIR has train/ and val/ with a folder for each class; the first 20 by name are used. Everything is kept in --out; the
same command goes on where it stopped. Appends a line for each number of steps to
benchmarks/results/continual_sre2l.jsonl.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from continual_cpu import finals
from record import RESULTS, append, facts, now

from dd_apps.continual import ContinualScenario, run
from dd_core.config import decode, plain
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages

NAME = "continual-sre2l"
ABOUT = "Tiny-ImageNet at 32x32, PNG copy: the first 20 classes by name, 10,000 training and 1,000 test images"
CLASSES, IMAGES, ORDERS = 20, 10, 3
NETWORK = "convnet-3-w64-batchnorm"
TRAINING = {"epochs": 100, "batch_size": 50, "learning_rate": 0.05, "views": {"crop": [0.3, 1.0], "flip": True}}
METHODS: dict[str, dict[str, Any]] = {
    "sre2l": {
        "name": "sre2l",
        "teacher": {
            "epochs": 20,
            "learning_rate": 0.05,
            "batch_size": 64,
            "views": {"crop": [0.5, 1.0], "padding": 0},
        },
        "recover": {"iterations": 500, "jitter": [-2, 2]},
        "recipe": {"network": NETWORK},
    },
    "rded": {"name": "rded"},
    "dm": {"name": "dm", "steps": 200, "batch_real": 64, "recipe": {"network": "convnet-3-w32"}},
    "random": {"name": "random"},
}
WAYS: dict[str, dict[str, str]] = {
    "per-step": {"teacher": "per-step"},
    "per-step-batch-stats": {"teacher": "per-step", "mode": "batch-stats"},
    "joint-teacher": {"teacher": "joint", "mode": "batch-stats"},
    "joint": {"teacher": "joint", "mode": "batch-stats", "images": "joint"},
}
ROWS = [
    *((name, "per-step") for name in METHODS),
    *((name, way) for way in ("per-step-batch-stats", "joint-teacher") for name in ("sre2l", "random")),
    ("sre2l", "joint"),
]


def scenario(data: str, steps: int, *, workers: int, small: bool = False) -> ContinualScenario:
    """The scenario of the experiment with `steps` experiences."""
    methods = {name: dict(table) for name, table in METHODS.items()}
    if small:
        methods["sre2l"] |= {"teacher": {"epochs": 1}, "recover": {"iterations": 3}}
        methods["dm"] |= {"steps": 1}
    shared = {name: methods["sre2l"][name] for name in ("teacher", "recipe")}
    methods["rded"] |= shared  # the very same teacher
    training = TRAINING | ({"epochs": 1} if small else {})
    rows = {
        f"{name}-{way}": {
            "method": methods[name],
            "strategy": {"name": "taught", "protocol": "sre2l-kd", **WAYS[way]},
            "training": training,
        }
        for name, way in ROWS
    }
    return decode(
        ContinualScenario,
        {
            "data": data,
            "image_size": 32,
            "experiences": steps,
            "orders": 2 if small else ORDERS,
            "images_per_class": IMAGES,
            "network": NETWORK,
            "protocols": ["taught"],
            "method": methods["sre2l"],
            "row": rows,
            "rows": list(rows),
            "workers": workers,
        },
    )


def twenty(data: str, folder: Path) -> str:
    """A folder with the first 20 classes of `data` ("folder:DIR"), which are linked."""
    source = Path(data.removeprefix("folder:")).resolve()
    names = sorted(entry.name for entry in (source / "train").iterdir() if entry.is_dir())[:CLASSES]
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name in names:
            link = folder / split / name
            if not link.exists():
                link.symlink_to(source / split / name, target_is_directory=True)
    return f"folder:{folder}"


def main() -> None:
    """Run the experiment for each number of steps."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder:DIR with train/ and val/")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10], help="numbers of experiences")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder of all that is kept")
    options = parser.parse_args()
    out = options.out / "small" if options.small else options.out
    data, began = twenty(options.data, out / "classes"), now()
    for steps in options.steps:
        begun = time.monotonic()
        values = scenario(data, steps, workers=options.workers, small=options.small)
        workers = Workers(count=options.workers, threads=1)
        results = run(values, folder=out / f"steps-{steps}", workers=workers, reporter=Messages(print))
        given = {"steps": steps, "workers": options.workers, "small": options.small}
        verdicts = {
            row: {other: asdict(verdict) for other, verdict in against.items()}
            for row, against in results.verdicts["taught"].items()
        }
        for row in results.tables["taught"]:
            print(f"{steps} steps  {row['row']:28} {100 * row[f'after_{steps}']['mean']:5.1f}", flush=True)
        print(results.notes["taught"][0], flush=True)
        append(
            (out if options.small else RESULTS) / "continual_sre2l.jsonl",
            {
                **facts(NAME, given, run=began, data=ABOUT),
                "steps": steps,
                "tables": results.tables,
                "ledger": results.ledger,
                "final": finals(results),
                "verdicts": {"taught": verdicts},
                "minutes": round((time.monotonic() - begun) / 60, 1),
                "scenario": plain(values) | {"data": "tiny-imagenet-32"},  # no folder of this machine
            },
        )


if __name__ == "__main__":
    main()
