"""The cost of an iteration on an image: recovery by SRe2L, and trajectory matching through the steps of a student.

    python benchmarks/sre2l_speed.py [--rounds 5] [--parts small large flat folder] [--device cuda]

Each case has a process of its own with one thread. A repetition is one outer iteration; it counts for every image that
it changes, so a figure is seconds over images. Memory is the peak of the process in excess of the loaded interpreter.
On a GPU seconds are of the clock, after the GPU has ended, and memory is the peak that was allocated in excess of the
network's. The parts:

small   64 px, 20 images in 10 classes: a ConvNet-4 and a ResNet-18, recovered from (with batch norm) and unrolled
        through 10 steps (with instance or group norm, as what is unrolled may not depend on its mini-batch), the
        gradient by `full` and by `adjoint`
large   224 px, 10 images: BN-ViT-Tiny and a ResNet-50, recovered from
sides   32, 64 and 224 px, 50 images: a ResNet-18, recovered from; for a GPU, and only where it is named
flat    224 px, BN-ViT-Tiny: the images of 2 and of 40 a class in batches of 10, and of 10 and of 1000 classes
folder  64 px crops of 500 and of 2,000 generated photographs of 256 px, which stay in files: one epoch of training a
        ResNet-8, with what decoding takes

Appends to benchmarks/results/sre2l_speed.jsonl.
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
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from record import RESULTS, append, facts, now

if TYPE_CHECKING:
    import torch

NAME, STEPS = "sre2l-speed", 10


class Case(NamedTuple):
    """The work on a network: `recover`, `squeeze`, or the mode of an unrolled gradient."""

    what: str
    network: str
    side: int
    images: int
    classes: int = 10
    sets: int = 1  # batches that are recovered one after the other, as the parts of a larger set


CASES = {
    "small": {
        f"{network}, {what}": Case(what, f"{network}{'-norm' if what == 'recover' else ''}", 64, 20)
        for network in ("convnet-4", "resnet-18")
        for what in ("recover", "full", "adjoint")
    },
    "large": {
        "bn-vit-tiny at 224 px": Case("recover", "bn-vit-tiny", 224, 10, 1000),
        "resnet-50 at 224 px": Case("recover", "torchvision:resnet50", 224, 10, 1000),
    },
    "sides": {
        f"resnet-18 at {side} px": Case("recover", "torchvision:resnet18", side, 50, 200) for side in (32, 64, 224)
    },
    "flat": {
        "1 batch": Case("recover", "bn-vit-tiny", 224, 10, 10),
        "4 batches": Case("recover", "bn-vit-tiny", 224, 10, 10, sets=4),
        "1000 classes": Case("recover", "bn-vit-tiny", 224, 10, 1000),
    },
    "folder": {
        "500 photographs": Case("squeeze", "resnet-8", 64, 500),
        "2000 photographs": Case("squeeze", "resnet-8", 64, 2000),
    },
}


def built(case: Case) -> Any:
    """The network of a case, at its initialisation."""
    import torch

    from dd_core import networks

    options: dict[str, Any] = {
        "in_channels": 3,
        "classes": case.classes,
        "image_size": (case.side, case.side),
        "seed": 0,
    }
    name = {
        "convnet-4-norm": "convnet-4-batchnorm",
        "resnet-18-norm": "torchvision:resnet18",
        "resnet-18": "torchvision:resnet18",
    }.get(case.network, case.network)
    network = networks.build(name, **options)
    if case.network == "resnet-18":  # what is unrolled is a function of images and weights alone
        for path, norm in networks.batch_norms(network).items():
            network.set_submodule(path, torch.nn.GroupNorm(32, norm.num_features))
    return network


def iteration(case: Case, device: torch.device) -> Callable[[], object]:
    """One outer iteration on `case.images` images."""
    import torch
    import torch.nn.functional as F

    from dd_core import unroll
    from dd_core.images import InputForm
    from dd_core.methods.sre2l.config import RecoverConfig
    from dd_core.methods.sre2l.recovery import RecoveryBatch
    from dd_core.streams import Streams

    network, labels = built(case).to(device), (torch.arange(case.images) % case.classes).to(device)
    pixels = torch.randn(case.images, 3, case.side, case.side, device=device)
    if case.what == "recover":
        settings = RecoverConfig(iterations=10**6, crop=(0.08, 1.0), flip=True)
        form = InputForm((0.5,) * 3, (0.2,) * 3)

        def recover() -> None:
            for index in range(case.sets):
                options = {"streams": Streams(index), "device": device}
                RecoveryBatch(network, pixels, labels, form, settings, **options).step()

        return recover
    start = tuple(parameter.detach().clone() for parameter in network.parameters())
    target = tuple(value + 0.01 * torch.randn_like(value) for value in start)

    def step(t: int, theta: Any, learned: Any) -> Any:
        del t
        loss = F.cross_entropy(unroll.apply(network, theta, learned[0]), labels)
        gradients = torch.autograd.grad(loss, theta, create_graph=True)
        return tuple(value - learned[1] * gradient for value, gradient in zip(theta, gradients, strict=True))

    def distance(theta: Any) -> torch.Tensor:
        return sum(
            ((a - b).square().sum() for a, b in zip(theta, target, strict=True)), start=torch.zeros((), device=device)
        )

    learned = (pixels, torch.tensor(0.01, device=device))
    return lambda: unroll.unroll(step, STEPS, start, learned, distance, mode=case.what)  # type: ignore[arg-type]


def photographs(folder: Path, count: int, classes: int) -> None:
    """JPEG files of 256 x 256 pixels in class folders, smooth as photographs are."""
    import numpy as np
    from PIL import Image

    for split, images in {"train": count, "test": classes}.items():
        for index in range(images):
            coarse = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            path = folder / split / f"class {index % classes}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)


def squeezing(case: Case, folder: Path) -> Callable[[], object]:
    """An epoch of a teacher on photographs in `folder`, which it puts there."""
    import torch

    from dd_core import datasets
    from dd_core.augment.view_config import Views
    from dd_core.images import InputForm
    from dd_core.system.parallel import Workers
    from dd_core.training.teacher_config import TeacherConfig
    from dd_core.training.teachers import TeacherSpec

    photographs(folder / "images", case.images, case.classes)
    options: dict[str, Any] = {"image_size": case.side, "memory_limit": 0, "workers": Workers(count=1)}
    source = datasets.load(f"folder:{folder / 'images'}", **options)
    spec = TeacherSpec.of(source, TeacherConfig(network=case.network, views=Views(), epochs=100))
    assert spec.native
    form = InputForm((0.5,) * 3, (0.2,) * 3)
    return spec.loop(spec.fresh(), source, form, device=torch.device("cpu")).epoch


def work(part: str, name: str, rounds: int, place: str) -> None:
    """One case in this process: seconds of each repetition, and the peak of memory in excess, on stdout."""
    import torch

    import dd_core.training.teachers
    import dd_core.unroll  # noqa: F401 (loaded before memory is read)
    from dd_core.system import device
    from dd_core.system.threads import computing

    where, case = torch.device(place), CASES[part][name]
    on_gpu = where.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    with computing(1), ExitStack() as stack:
        if case.what == "squeeze":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            os.environ["DD_APPS_CACHE"] = str(Path(folder, "cache"))
            run, rounds = squeezing(case, Path(folder)), 1
            before = device.peak_memory_bytes(where)
        else:
            built(case)
            before, run = device.peak_memory_bytes(where), iteration(case, where)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(where)
                before = torch.cuda.memory_allocated(where)
            run()
        seconds: list[float] = []
        for _ in range(rounds):
            begun = clock()
            run()
            if on_gpu:
                torch.cuda.synchronize(where)
            seconds.append(clock() - begun)
        excess = (device.peak_memory_bytes(where) - before) / 2**20
    print(json.dumps({"seconds": seconds, "excess_mib": round(excess, 1)}))


def main() -> None:
    """Every case that is asked for, each in a process of its own."""
    options = parse()
    if options.work:
        work(options.work[0], options.work[1], options.rounds, options.device)
        return
    for part in options.parts:
        for name, case in CASES[part].items():
            command = [sys.executable, __file__, "--work", part, name, "--rounds", str(options.rounds)]
            command += ["--device", options.device]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            answer = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)
            each = [seconds / (case.images * case.sets) for seconds in answer["seconds"]]
            record = {
                "what": name,
                "part": part if options.device == "cpu" else f"gpu-{part}",
                "images": case.images * case.sets,
                "cpu_ms_an_image" if options.device == "cpu" else "ms_an_image": {
                    "min": round(1000 * min(each), 2),
                    "median": round(1000 * statistics.median(each), 2),
                },
                "excess_mib": answer["excess_mib"],
            }
            print(json.dumps(record), flush=True)
            given = {"rounds": options.rounds, "parts": part, "device": options.device}
            common = facts(NAME, given, run=options.run, data="noise", on=options.device)
            append(RESULTS / "sre2l_speed.jsonl", {**common, **record})


def parse() -> argparse.Namespace:
    """The parsed options; `run` is the time at which the run began."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of a case, after one that does not count")
    every = [part for part in CASES if part != "sides"]
    parser.add_argument("--parts", nargs="+", default=every, choices=CASES, help="parts to measure")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.run = now()
    return options


if __name__ == "__main__":
    main()
