"""The effect of keeping freed memory (`dd_core.system.memory`) on time and peak memory on a CPU.

    python benchmarks/memory.py [--rounds 3]       # appends to benchmarks/results/memory.jsonl

Two things that trajectory matching does: a step of an expert on 256 random images of 32x32 under DSA, and an outer
iteration over 30 steps of a student on 10 of them. Each is measured with and without, in turns, `--rounds` times, each
time in a process of its own; medians. Memory is the peak of the process in excess of the loaded interpreter.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from record import RESULTS, append, facts, now

from dd_core import augment, networks, unroll
from dd_core.augment.names import resolve_strategy
from dd_core.system import device, memory
from dd_core.unroll import Tensors

CPU = torch.device("cpu")
STRATEGY = resolve_strategy("auto", "cifar10")
CASES = {  # network, images, repetitions
    "expert-w32": ("convnet-3-w32", 256, 20),
    "expert-w128": ("convnet-3-w128", 256, 8),
    "student-full-w32": ("convnet-3-w32", 10, 6),
    "student-adjoint-w32": ("convnet-3-w32", 10, 6),
}


def main() -> None:
    """Every case, both ways, and their ratios."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure(options.measure[0], kept=options.measure[1] == "kept")))
        return
    run = now()
    for name in CASES:
        found: dict[str, list[dict[str, float]]] = {"kept": [], "handed back": []}
        for _ in range(options.rounds):
            for way, several in found.items():
                command = [sys.executable, __file__, "--measure", name, way]
                several.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        medians = {
            way: {key: round(statistics.median(one[key] for one in several), 4) for key in several[0]}
            for way, several in found.items()
        }
        ratios = {
            key: round(medians["handed back"][key] / medians["kept"][key], 2)
            for key in ("seconds", "cpu_seconds", "excess_mib")
        }
        record = {"what": name, **medians, "handed_back_over_kept": ratios}
        append(RESULTS / "memory.jsonl", facts("memory", {"rounds": options.rounds}, run=run, data="noise") | record)
        print(json.dumps(record), flush=True)


def measure(name: str, *, kept: bool) -> dict[str, float]:
    """Seconds, CPU seconds, CPU seconds in the kernel and page faults of a repetition; and peak memory in MiB."""
    network, count, repetitions = CASES[name]
    before = device.peak_memory_bytes(CPU)
    work = (expert if name.startswith("expert") else student)(network, count, "full" if "full" in name else "adjoint")
    with memory.kept() if kept else nullcontext():
        work()
        work()
        begun, start = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(repetitions):
            work()
        seconds, end = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    kernel, own = end.ru_stime - start.ru_stime, end.ru_utime - start.ru_utime
    return {
        "seconds": seconds / repetitions,
        "cpu_seconds": (kernel + own) / repetitions,
        "kernel_seconds": kernel / repetitions,
        "page_faults": (end.ru_minflt - start.ru_minflt) / repetitions,
        "excess_mib": (device.peak_memory_bytes(CPU) - before) / 2**20,
    }


def expert(name: str, count: int, mode: str) -> Any:
    """A step of SGD on a mini-batch."""
    del mode
    network = networks.build(name, in_channels=3, classes=10, image_size=(32, 32), seed=0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 10

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(network(augment.dsa(images, STRATEGY, generator=generator)), labels).backward()
        optimiser.step()

    return step


def student(name: str, count: int, mode: Any) -> Any:
    """30 inner steps, and the gradient through them."""
    network = networks.build(name, in_channels=3, classes=10, image_size=(32, 32), seed=0)
    theta = tuple(parameter.detach().clone() for parameter in network.parameters())
    generator = torch.Generator().manual_seed(0)
    pixels, labels, rate = torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count), torch.tensor(0.01)

    def loss(t: int, parameters: Tensors, learned: Tensors) -> torch.Tensor:
        images = augment.dsa(learned[0], STRATEGY, generator=torch.Generator().manual_seed(t))
        return F.cross_entropy(unroll.apply(network, parameters, images), labels)

    def outer(parameters: Tensors) -> torch.Tensor:
        return torch.stack([(a - b).square().sum() for a, b in zip(parameters, theta, strict=True)]).sum()

    step = unroll.sgd_step(loss, lambda t, learned: learned[1])
    return lambda: unroll.unroll(step, 30, theta, (pixels, rate), outer, mode=mode)


if __name__ == "__main__":
    main()
