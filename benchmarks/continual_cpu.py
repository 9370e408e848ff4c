"""Memories and strategies of class-incremental learning on a CPU, at equal bytes, in both protocols.

    python benchmarks/continual_cpu.py --case digits|mnist|cifar10 [--data folder:DIR] [--small]

digits   5 experiences, memories of 1, 5 and 10 images of 64 bytes a class, all rows, 3 class orders; remedies: changes
         that might help distilled images, with memories of 1 and 5 images a class, 5 class orders; and overhead:
         seconds as a multiple of those with real images
mnist    a stream of 2,000 images, all 10,000 test images, memories of 1 and 10 images a class, 3 class orders; also
         distilled images stored as grids of four (IDC)
cifar10  500 images a class, memories of 10 images a class, some of the rows, 3 class orders

Then the best memories are measured again in 5 other class orders (another seed), for digits in 10 x 3 networks: in each
table the two best memories of learned images, and the two best of real images, by the first class orders.

Networks are 32 wide. Everything is kept in --out; the same command goes on where it stopped. Appends a line for each
scenario that was run to benchmarks/results/continual_cpu.jsonl.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from record import RESULTS, append, facts, now

from dd_apps.continual import ContinualScenario, Results, run
from dd_apps.continual.drawing import pictures
from dd_core.config import decode, plain
from dd_core.store import write_bytes
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages

NAME = "continual-cpu"
BEST = 2  # memories of each kind that are measured again
BOUNDS = ("none", "joint", "lwf", "ewc")  # rows without a memory
ROWS: dict[str, dict[str, Any]] = {
    "hybrid": {"memory": "hybrid"},
    "dm-tiles": {"formation": 2},
    "hybrid-tiles": {"memory": "hybrid", "formation": 2},
    "tiles-er-ace": {"formation": 2, "strategy": "er-ace"},
    "reservoir": {"memory": "reservoir"},
    "herded": {"memory": "herding"},
    "dm-er-ace": {"strategy": "er-ace"},
    "hybrid-er-ace": {"memory": "hybrid", "strategy": "er-ace"},
    "real-er-ace": {"memory": "class-balanced", "strategy": "er-ace"},
    "herding-er-ace": {"method": {"name": "herding"}, "strategy": "er-ace"},
    "dm-der": {"strategy": "der", "training": {"learning_rate": 0.03}},
    "der": {"memory": "class-balanced", "strategy": "der", "training": {"learning_rate": 0.03}},
    "icarl": {"memory": "herding", "strategy": "icarl"},
    "lwf": {"memory": "none", "strategy": "lwf", "training": {"learning_rate": 0.03}},
    "ewc": {"memory": "none", "strategy": "ewc", "training": {"learning_rate": 0.03}},
}
TUNED = {"strategy": "replay", "training": {"tuning_epochs": 20}}
LEARNED = {  # soft labels alone, of real images, by the paths of three experts
    "name": "datm",
    "lr_img": 0.0,
    "lr_label": 5.0,
    "steps": 50,
    "experts": 3,
    "last_epoch": 20,
    "lr_student": 0.02,
    "training": {"epochs": 25, "batch_size": 64, "learning_rate": 0.05},
    "recipe": {"network": "convnet-2-w32"},
}
REMEDIES: dict[str, dict[str, Any]] = {
    "dm-network-labels": {"labels": "network"},
    "real-learned-labels": {"labels": "stored", "method": LEARNED},
    "dm-tuned": TUNED,
    "herding-tuned": {"method": {"name": "herding"}, **TUNED},
    "dm-er-ace-tuned": {"strategy": "er-ace", "training": {"tuning_epochs": 20}},
    "herding-er-ace-tuned": {
        "method": {"name": "herding"},
        "strategy": "er-ace",
        "training": {"tuning_epochs": 20},
    },
    "dm-shared": {"adaptive": True, "strategy": "replay"},
    "dm-again": {"adaptive": True, "shrinking": "distil", "strategy": "replay"},
}
TILES = (
    "dm-tiles",
    "hybrid-tiles",
    "tiles-er-ace",
)  # distilled images stored as grids of four; tiles of 4x4 digits say little
MIXED = ("hybrid", *TILES)
GRID = ("distilled", "herding", "real", "real-adaptive", *(row for row in ROWS if row not in TILES), "none", "joint")


@dataclass(frozen=True)
class Case:
    """A case: data, stream, network, bytes of an image, the rows, and memories in images a class."""

    data: str
    network: str
    image_bytes: int
    memories: Sequence[int]
    about: str
    images: int | None = None
    rows: Sequence[str] = GRID
    orders: int = 5  # other class orders, in which the best memories are measured again
    networks: int = 1  # of each of these
    dm: Mapping[str, Any] = field(default_factory=dict)
    replay: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "digits": Case(
        data="digits",
        network="convnet-2-w32",
        image_bytes=64,
        memories=(1, 5, 10),
        about="digits of scikit-learn, 8x8: 1438 training and 359 test images",
        orders=10,
        networks=3,
        dm={"steps": 400, "lr_img": 3.0, "batch_real": 64, "recipe": {"network": "convnet-2-w64"}},
        replay={"epochs": 10},
    ),
    "mnist": Case(
        data="mnist",
        network="convnet-3-w32",
        image_bytes=784,
        memories=(1, 10),
        about="MNIST, original pixels: 2,000 training images, 10,000 test images",
        images=2000,
        rows=(*GRID[:-2], *TILES, "none", "joint"),
        dm={"steps": 300, "lr_img": 3.0, "batch_real": 64, "recipe": {"network": "convnet-3-w32"}},
        replay={"epochs": 5},
    ),
    "cifar10": Case(
        data="cifar10",
        network="convnet-3-w32",
        image_bytes=3072,
        memories=(10,),
        about="CIFAR-10, JPEG copy: 5,000 training images, 10,000 test images",
        images=5000,
        rows=(
            "distilled",
            "hybrid",
            *TILES,
            "herding",
            "real",
            "real-er-ace",
            "herding-er-ace",
            "dm-er-ace",
            "none",
            "joint",
        ),
        dm={"steps": 300, "lr_img": 3.0, "batch_real": 64, "recipe": {"network": "convnet-3-w32"}},
        replay={"epochs": 5},
    ),
}
SMALL = {"steps": 2, "recipe": {"network": "convnet-1-w4"}}


class Bench:
    """The runs of a case, by the options of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.case = options, CASES[options.case]

    def grid(self) -> None:
        """All rows at each size of memory; then the best memories in other class orders."""
        for images in self.case.memories[: 1 if self.options.small else None]:
            rows = [row for row in self.case.rows if self._fits(row, images)]
            found = self.measure("grid", images, rows, orders=2 if self.options.small else 3)
            best, orders = best_memories(found), 2 if self.options.small else self.case.orders
            networks = min(2, self.case.networks) if self.options.small else self.case.networks
            self.measure("best", images, [*best, "none", "joint"], orders=orders, networks=networks, seed=1)

    def remedies(self) -> None:
        """Changes that might help distilled images, tried on real images too."""
        rows = ["distilled", "dm-er-ace", *REMEDIES, "herding", "herding-er-ace", "real", "real-adaptive"]
        orders = 2 if self.options.small else 5
        for images in (1, 5):
            fitting = [row for row in rows if images > 1 or not row.endswith("-labels")]  # labels are bytes too
            self.measure("remedies", images, fitting, orders=orders, seed=2, protocols=["replay"])

    def overhead(self) -> None:
        """The seconds of rows beside those of real images, one job at a time, without results of earlier runs."""
        rows = ["distilled", "hybrid", "dm-er-ace", "dm-der", "real", "herding", "reservoir", "real-er-ace", "der"]
        self.measure("overhead", 10, rows, orders=1, seed=3, workers=1)

    def measure(self, part: str, images: int, rows: Sequence[str], **fields: Any) -> Results:
        """Run one scenario and keep its figures."""
        begun = time.monotonic()
        scenario = decode(ContinualScenario, self.table(images, rows) | fields)
        folder = self.options.out / f"{self.options.case}-{part}-{images}"
        workers = Workers(count=fields.get("workers", self.options.workers), threads=1)
        results = run(scenario, folder=folder, workers=workers, reporter=Messages(print))
        for picture in pictures(results.tables, results.matrices, results.courses):
            write_bytes(folder / f"{picture.name}.png", picture.png)
        self.tell(part, images, scenario, results, seconds=time.monotonic() - begun)
        return results

    def table(self, images: int, rows: Sequence[str]) -> dict[str, Any]:
        """The scenario's values, as a file would have them."""
        case, small = self.case, self.options.small
        method = {"name": "dm", **case.dm, **(SMALL if small else {})}
        return {
            "data": self.options.data or case.data,
            "images": case.images,
            "bytes_per_class": images * case.image_bytes,
            "network": "convnet-1-w4" if small else case.network,
            "method": method,
            "row": {name: _row(row, method) for name, row in (ROWS | REMEDIES).items() if name in rows},
            "rows": list(rows),
            "retraining": {"epochs": 3 if small else 300},
            "replay": {**case.replay, **({"epochs": 1} if small else {})},
            "workers": self.options.workers,
        }

    def _fits(self, row: str, images: int) -> bool:
        """Whether a row's memory has room for an image of each class (with DER's logits), or for one of both kinds."""
        if row.startswith("hybrid"):
            return images > 1
        return row not in ("der", "dm-der") or images * self.case.image_bytes >= self.case.image_bytes + 40

    def tell(self, part: str, images: int, scenario: ContinualScenario, results: Results, *, seconds: float) -> None:
        """Print the verdicts, and keep everything."""
        given = {name: getattr(self.options, name) for name in ("case", "data", "workers", "small")}
        for table, rows in results.tables.items():
            print(f"{part}, {images} images a class, {table}:")
            for row in rows:
                last = row[f"after_{scenario.experiences}"]
                print(f"  {row['row']:14} {100 * last['mean']:5.1f}  {row['bytes']} bytes")
            print(f"  {results.notes[table][0]}", flush=True)
        said = plain(scenario) | {"data": self.case.data}  # no folder of this machine
        verdicts = {
            table: {row: {other: asdict(each) for other, each in against.items()} for row, against in by_row.items()}
            for table, by_row in results.verdicts.items()
        }
        append(
            self.options.results,
            {
                **facts(NAME, given, run=self.options.begun, data=self.case.about),
                "case": self.options.case,
                "part": part,
                "images": images,
                "tables": results.tables,
                "measures": results.measures,
                "ledger": results.ledger,
                "final": finals(results),
                "verdicts": verdicts,
                "minutes": round(seconds / 60, 1),  # of this call, which finds what an earlier one finished
                "scenario": said,
            },
        )


def _row(row: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    """A row's table; a formation is an option of the scenario's method."""
    own = {name: value for name, value in row.items() if name != "formation"}
    return own | ({"method": {**method, "formation": row["formation"]}} if "formation" in row else {})


def finals(results: Results) -> dict[str, dict[str, list[list[float]]]]:
    """[table][row][class order][network]: accuracy on all test images after the last experience."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for trial in results.trials:
        by_order = found.setdefault(trial["table"], {}).setdefault(trial["row"], [])
        if len(by_order) <= trial["order"]:
            by_order.append([])
        pairs = zip(trial["matrix"][-1], trial["counts"], strict=True)
        right = sum(value * count for value, count in pairs)
        by_order[trial["order"]].append(round(right / sum(trial["counts"]), 6))
    return found


def best_memories(results: Results) -> list[str]:
    """In each table the rows that are best after the last experience: two of learned images, two of real images."""
    best: list[str] = []
    for table, rows in results.tables.items():
        learned = results.verdicts[table].keys()
        last = max((key for key in rows[0] if key.startswith("after_")), key=lambda key: int(key[6:]))
        means = {row["row"]: row[last]["mean"] for row in rows if row["row"] not in BOUNDS}
        for kind in (means.keys() & learned, means.keys() - learned):
            best += sorted(kind, key=lambda row: means[row], reverse=True)[:BEST]
    return ["distilled" if row == "dm" else row for row in dict.fromkeys(best)]


def main() -> None:
    """One case."""
    bench = Bench(parse())
    parts = {"grid": bench.grid, "remedies": bench.remedies, "overhead": bench.overhead}
    for name in [bench.options.only] if bench.options.only else parts if bench.options.case == "digits" else ["grid"]:
        parts[name]()


def parse() -> argparse.Namespace:
    """The parsed options; `results` is the file of records, `begun` the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--only", choices=("grid", "remedies", "overhead"), help="run this part only")
    parser.add_argument("--data", help="name of the images, or folder:DIR with train/ and test/")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="one-thread jobs that run in parallel")
    parser.add_argument("--small", action="store_true", help="try it out; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder of all that is kept")
    options = parser.parse_args()
    if options.small:
        options.out /= "small"
    options.out.mkdir(parents=True, exist_ok=True)
    options.results = (options.out if options.small else RESULTS) / "continual_cpu.jsonl"
    options.begun = now()
    return options


if __name__ == "__main__":
    main()
