"""What grows with what: seconds and memory of the engine, as one number of a problem grows and the others stay.

    python benchmarks/growth.py [--only CURVE ...] [--processes N]      # appends to benchmarks/results/growth.jsonl

unroll      inner steps 10 to 160 of a student on ten images, by both exact gradients
dm-real     sixty steps of `dm` with 64 real images a class, by the number of real images: the heap, which grows by
            steps at first, has its size after some twenty of these
dm-classes  the same by the number of classes
evaluation  networks trained on a set, by their number
folder      indexing a folder of small files and streaming it once, by the number of files
nas         architectures ranked by two proxies against a table, by their number

Each point is the median of three processes of one thread, since the heap of one may be a tenth larger than that of the
next. Seconds are of the process on the CPU; memory is its peak above what it has loaded. A curve is `linear` where a
unit costs as much between the last two points as between the two before, and `flat` where its last point is as its
first, each to a tenth; what is asked of a curve can be lost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from record import RESULTS, append, facts, now

Point = dict[str, Any]
TENTH = 0.1


@dataclass(frozen=True)
class Curve:
    """One number that grows. `linear`, `flat`: which of a point's measures is asked to be so."""

    sizes: tuple[int, ...]
    measure: Callable[[int, Path], object]
    linear: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()


def _unrolled(steps: int, mode: Any) -> object:
    import torch
    import torch.nn.functional as F

    from dd_core import networks, unroll

    network = networks.build("convnet-3-w64", in_channels=3, classes=10, image_size=(32, 32), seed=0)
    theta = tuple(parameter.detach() for parameter in network.parameters())
    target = tuple(value + 0.01 * torch.randn_like(value) for value in theta)
    labels, pixels, rate = torch.arange(10), torch.randn(10, 3, 32, 32), torch.tensor(0.01)

    def loss(t: int, parameters: Any, learned: Any) -> torch.Tensor:
        return F.cross_entropy(unroll.apply(network, parameters, learned[0]), labels)

    def outer(parameters: Any) -> Any:
        return sum((a - b).square().sum() for a, b in zip(parameters, target, strict=True))

    step = unroll.sgd_step(loss, lambda t, learned: learned[1])
    return unroll.unroll(step, steps, theta, (pixels, rate), outer, mode=mode)


def _images(count: int, classes: int) -> Any:
    import torch

    from dd_core.images import LabelledImages

    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(count) % classes, tuple(map(str, range(classes))), "noise")


def _dm(real: int, classes: int, folder: Path) -> object:
    import torch

    from dd_core import Size
    from dd_core.distiller import Context
    from dd_core.methods import method

    config = method("dm", batch_real=64, batch_bytes=64 << 20, recipe={"network": "convnet-3-w32"})
    source = _images(real * classes, classes)
    context = Context.gather(config, source, Size(ipc=1), seed=0, device=torch.device("cpu"), cache=folder)
    distiller = config.build(context)
    return [distiller.step(index) for index in range(60)]


def _evaluation(nets: int, folder: Path) -> object:
    from dd_core import distill, evaluate, method

    del folder
    source = _images(500, 10)
    ds = distill(method("random", recipe={"network": "convnet-3-w32", "epochs": 20}), source, 10)
    return evaluate(ds, train=source, test=source, nets=nets, device="cpu")


def _folder(files: int, folder: Path) -> object:
    from dd_core import datasets

    source = datasets.load(f"folder:{folder / 'files'}", image_size=8, memory_limit=0)
    return sum(len(batch) for batch in source.batches(256))


def _make_files(files: int, folder: Path) -> None:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for index in range(files):
        path = folder / "files" / f"class {index % 10}" / f"{index}.png"
        if index < 10:
            path.parent.mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(path, compress_level=0)


def _nas(architectures: int, folder: Path) -> object:
    from dd_apps.nas.config import RankScenario
    from dd_core import RunOptions
    from dd_core.config import decode

    names = _names()[:architectures]
    rows = "".join(f"{name},{60 + index % 30}\n" for index, name in enumerate(names))
    (folder / "truth.csv").write_text("architecture,digits\n" + rows)
    values = {
        "data": "digits",
        "images": 200,
        "space": {"name": "cells", "channels": 4, "modules": 1},
        "architectures": names,
        "truth": {"file": str(folder / "truth.csv")},
        "proxies": [{"kind": "zero-cost", "measure": name} for name in ("parameters", "synflow")],
    }
    return decode(RankScenario, values).run(folder / "run", RunOptions(device="cpu", threads=1))


def _names() -> list[str]:
    """The 4,096 cells of NAS-Bench-201 without an edge that is `none`."""
    operations = ("nor_conv_1x1", "nor_conv_3x3", "skip_connect", "avg_pool_3x3")
    return [f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|" for a, b, c, d, e, f in product(operations, repeat=6)]


CURVES = {
    "unroll-full": Curve((10, 20, 40, 80, 160), lambda n, _: _unrolled(n, "full"), linear=("seconds", "excess_mib")),
    "unroll-adjoint": Curve(
        (10, 20, 40, 80, 160), lambda n, _: _unrolled(n, "adjoint"), linear=("seconds",), flat=("excess_mib",)
    ),
    "dm-real": Curve((100, 400, 1600), lambda n, folder: _dm(n, 10, folder), flat=("seconds", "above_images_mib")),
    "dm-classes": Curve(
        (10, 40, 160), lambda n, folder: _dm(100, n, folder), linear=("seconds",), flat=("above_images_mib",)
    ),
    "evaluation": Curve((1, 4, 16), _evaluation, linear=("seconds",), flat=("excess_mib",)),
    "folder": Curve((2_000, 20_000, 200_000), _folder, linear=("seconds",), flat=("excess_mib",)),
    "nas": Curve((10, 100, 1_000), _nas, linear=("seconds",), flat=("excess_mib",)),
}
REAL_IMAGES = {"dm-real": lambda n: n * 10, "dm-classes": lambda n: n * 100}  # of 3 x 32 x 32 bytes, in memory


def measure(name: str, size: int, folder: Path) -> Point:
    """One point, in this process."""
    import torch
    import torch._dynamo  # optimisers import it: part of the interpreter, and not of what is measured

    from dd_core import datasets, networks, training, unroll  # noqa: F401 (loaded before memory is read)
    from dd_core.methods import method
    from dd_core.system import device
    from dd_core.system.threads import computing

    if name == "nas":
        from dd_apps.nas import rank_task  # noqa: F401
    if name == "folder":
        _make_files(size, folder)
    method("dm")
    cpu = torch.device("cpu")
    with computing(1):
        before, begun = device.peak_memory_bytes(cpu), time.process_time()
        CURVES[name].measure(size, folder)
        seconds = time.process_time() - begun
    excess = (device.peak_memory_bytes(cpu) - before) / 2**20
    point = {"seconds": round(seconds, 3), "excess_mib": round(excess, 1)}
    if name in REAL_IMAGES:
        point["above_images_mib"] = round(excess - REAL_IMAGES[name](size) * 3 * 32**2 / 2**20, 1)
    return point


def judged(curve: Curve, points: list[Point]) -> Point:
    """How far each measure is from what is asked of it, and whether all are within a tenth.

    Of a linear one, what a unit costs between the last two points over what it costs between the two before; of a flat
    one, the last point over the first.
    """
    found: Point = {}
    for name in curve.linear:
        rates = [(after[name] - before[name]) / (after["size"] - before["size"]) for before, after in pairwise(points)]
        found[f"{name}, a unit of the last over one before"] = round(rates[-1] / rates[-2], 3)
    for name in curve.flat:
        found[f"{name}, the last over the first"] = round(points[-1][name] / points[0][name], 3)
    return {"ratios": found, "met": all(ratio <= 1 + TENTH for ratio in found.values())}


def _in_a_process(name: str, size: int) -> Point:
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DD_APPS_CACHE": f"{folder}/cache"}
        command = [sys.executable, __file__, "--measure", name, str(size), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Every curve, or those that are named."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES), metavar="CURVE")
    parser.add_argument("--processes", type=int, default=3, help="of which a point is the median (default 3)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, size, folder = options.measure
        print(json.dumps(measure(name, int(size), Path(folder))))
        return
    run = now()
    for name in options.only:
        curve, points = CURVES[name], list[Point]()
        for size in curve.sizes:
            each = [_in_a_process(name, size) for _ in range(options.processes)]
            medians = {key: round(statistics.median(point[key] for point in each), 3) for key in each[0]}
            points.append({"size": size, **medians, "processes": each})
            print(name, {"size": size, **medians}, flush=True)
        verdict = judged(curve, points)
        print(name, verdict, flush=True)
        record = {"curve": name, "points": points, **verdict}
        append(options.results / "growth.jsonl", facts("growth", {"only": name}, run=run, data="noise") | record)


if __name__ == "__main__":
    main()
