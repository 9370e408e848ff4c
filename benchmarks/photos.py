"""Memory of `dm` and of evaluating its set on photographs of 128 and 224 pixels, by the number of real images.

    python benchmarks/photos.py [--counts 200 800 3200]       # appends to benchmarks/results/photos.jsonl

The photographs are made here, with fixed seeds, and stored as JPEG files in folders of four classes: smooth noise whose
spectrum falls as that of photographs does, and in front of it shapes with sharp edges. Nothing is downloaded. The
folder is read as it is needed (`memory_limit=0`), since images in memory would of course take memory.

Each measurement is a process of its own. `dm` takes `--steps` steps with its defaults (256 real images of each class,
the literature's ConvNet, 128 wide), two images a class; then a network of that kind trains on the set for `--epochs`
epochs and is tested. The peak is that of the process since it began, the excess that above the loaded interpreter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # optimisers import it: part of the interpreter, and not of what is measured
from PIL import Image
from record import RESULTS, append, facts, now

from dd_core import datasets, evaluation
from dd_core.distilled import Size
from dd_core.distiller import MethodConfig
from dd_core.images import Source
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.system import device
from dd_core.system.footprint import expected_bytes, peak_bytes
from dd_core.system.threads import computing

CPU = torch.device("cpu")
CLASSES = 4
GIGA = 1e9


def main() -> None:
    """Every size with every number of images, and what the peaks come to."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224], help="pixels a side")
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 800, 3200], help="numbers of real images")
    parser.add_argument("--steps", type=int, default=1, help="outer iterations of dm")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of the network that is scored")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, steps=options.steps, epochs=options.epochs)))
        return
    run, given = now(), {name: getattr(options, name) for name in ("sizes", "counts", "steps", "epochs")}
    for side in options.sizes:
        for count in options.counts:
            with tempfile.TemporaryDirectory(prefix="photos-") as folder:
                photographs(Path(folder), count, side)
                command = [sys.executable, __file__, "--measure", folder, "--steps", str(options.steps)]
                command += ["--epochs", str(options.epochs)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            record = {"side": side, "real_images": count, **json.loads(done.stdout.splitlines()[-1])}
            append(RESULTS / "photos.jsonl", facts("photos", given, run=run, data="photographs made here") | record)
            print(json.dumps(record), flush=True)


def photographs(folder: Path, count: int, side: int, *, classes: int = CLASSES, tests: int = 2) -> None:
    """`count` JPEG files of `side` pixels below `folder`/train, and `tests` of each class below `folder`/test."""
    for split, several in (("train", count), ("test", tests * classes)):
        for index in range(several):
            label = index % classes
            path = folder / split / f"class-{label}" / f"{index:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = (side, index, label, split == "test")
            Image.fromarray(photograph(np.random.default_rng(seed), label, side)).save(path, quality=90)


def photograph(draw: np.random.Generator, label: int, side: int) -> np.ndarray:
    """(H, W, 3) uint8: coloured noise of amplitude 1 / frequency, and a shape of the class in front of it.

    Classes 0 to 3 have a filled shape, classes 4 to 7 its outer half.
    """
    y, x = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    spectrum = np.fft.fft2(draw.normal(size=(3, side, side))) / np.hypot(y, x).clip(1 / side)
    scene = np.fft.ifft2(spectrum).real
    scene = 128 + 45 * (scene - scene.mean()) / scene.std()
    rows, columns = np.ogrid[:side, :side]
    middle, radius = draw.uniform(0.3, 0.7, 2) * side, draw.uniform(0.1, 0.25) * side
    away = np.stack(np.broadcast_arrays(np.abs(rows - middle[0]), np.abs(columns - middle[1])))
    shapes = (np.hypot(*away), away.max(0), away.sum(0), away[0])  # disc, square, diamond, bar
    shape = shapes[label % 4]
    inside = (shape < radius) & (shape > radius / 2 * (label >= 4) - 1)
    scene[:, inside] = draw.uniform(0, 255, (3, 1))
    return scene.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def measure(folder: Path, *, steps: int, epochs: int) -> dict[str, Any]:
    """Peaks and seconds, in this process: of distilling, and then of evaluating on top of it."""
    peak_bytes(lambda: torch.zeros(1))
    loaded = device.peak_memory_bytes(CPU)
    train, test = (datasets.load(f"folder:{folder}", split=split, memory_limit=0) for split in ("train", "test"))
    config, size = method("dm", steps=steps, recipe={"epochs": epochs}), Size(ipc=2)
    begun = time.perf_counter()
    estimate = expected_bytes(config.footprint(train, size, CPU), CPU)
    made = distilled(config, train, size)
    distilling, seconds = device.peak_memory_bytes(CPU), time.perf_counter() - begun
    with computing(1):
        evaluation.evaluate(made, train=train, test=test, nets=1, device="cpu")
    return {
        "interpreter_gb": round(loaded / GIGA, 3),
        "dm_estimate_gb": round(estimate / GIGA, 3),
        "dm_excess_gb": round((distilling - loaded) / GIGA, 3),
        "dm_peak_gb": round(distilling / GIGA, 3),
        "dm_and_evaluate_peak_gb": round(device.peak_memory_bytes(CPU) / GIGA, 3),
        "dm_seconds": round(seconds, 1),
    }


def distilled(config: MethodConfig, train: Source, size: Size) -> Any:
    """The set, made in one thread."""
    return distill(config, train, size, options=RunOptions(device="cpu", threads=1))


if __name__ == "__main__":
    main()
