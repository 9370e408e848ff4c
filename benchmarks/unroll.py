"""Memory and time of the gradient modes of `dd_core.unroll`: each measurement in a process of its own.

    python benchmarks/unroll.py       # appends to benchmarks/results/unroll.jsonl

Memory is the peak of the process in excess of the loaded interpreter, whose peak is read when everything is imported.
The ratio of times is taken in one process, the modes taking turns. Approximate modes are judged by the cosine of their
gradient of the pixels to the exact gradient, in twenty outer iterations of `mtt` on digits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import record
import torch
import torch.nn.functional as F

from dd_core import datasets, networks, unroll
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.methods import method
from dd_core.system import device as devices
from dd_core.system.threads import computing
from dd_core.unroll import Mode, Tensors, Unrolled

RESULTS = record.RESULTS / "unroll.jsonl"
NETWORKS = {"lenet": (1, 28, 10), "convnet-3-w32": (3, 32, 50)}  # channels, side, images of an inner step
CPU = torch.device("cpu")


def problem(name: str) -> Callable[[int, Mode], Unrolled]:
    """A function that takes `steps` inner steps and differentiates through them."""
    channels, side, count = NETWORKS[name]
    network = networks.build(name, in_channels=channels, classes=10, image_size=(side, side), seed=0)
    theta = tuple(parameter.detach() for parameter in network.parameters())
    labels, real = torch.arange(count) % 10, torch.randn(256, channels, side, side)
    pixels, rate = torch.randn(count, channels, side, side), torch.tensor(0.01)

    def loss(t: int, parameters: Tensors, learned: Tensors) -> torch.Tensor:
        return F.cross_entropy(unroll.apply(network, parameters, learned[0]), labels)

    def outer(parameters: Tensors) -> torch.Tensor:
        return F.cross_entropy(unroll.apply(network, parameters, real), torch.arange(256) % 10)

    step = unroll.sgd_step(loss, lambda t, learned: learned[1])
    return lambda steps, mode: unroll.unroll(step, steps, theta, (pixels, rate), outer, mode=mode)


def excess_memory(name: str, mode: Mode, steps: int) -> int:
    """Peak bytes above those of the loaded interpreter."""
    before = devices.peak_memory_bytes(CPU)
    run = problem(name)
    run(steps, mode)
    return devices.peak_memory_bytes(CPU) - before


def seconds(name: str, steps: int, rounds: int) -> dict[str, float]:
    """Median seconds of each mode."""
    run = problem(name)
    found: dict[Mode, list[float]] = {"full": [], "adjoint": []}
    for _ in range(rounds):
        for mode, times in found.items():
            begun = time.perf_counter()
            run(steps, mode)
            times.append(time.perf_counter() - begun)
    return {str(mode): statistics.median(times[1:]) for mode, times in found.items()}


def cosines(mode: Mode, steps: int) -> dict[str, float]:
    """Mean and smallest cosine of a mode to the exact gradient along a run of `mtt` by that mode, at rate 0.1 / N."""
    options = {"syn_steps": steps, "steps": 20, "gradient": mode, "cosine_every": 1, "experts": 2}
    options |= {"lr_student": 0.1 / steps, "lr_lr": 0.0}
    window = {"window": steps // 2} if mode == "truncated" else {}
    config = method("mtt", recipe={"network": "convnet-w32"}, **options, **window)
    source = datasets.load("digits", split="train")
    distiller = config.build(Context.gather(config, source, Size(ipc=1), seed=0, device=CPU))
    found = [distiller.step(index)["cosine"] for index in range(20)]
    return {"mean": round(statistics.fmean(found), 4), "least": round(min(found), 4)}


def main() -> None:
    """Measure all and append to the results."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    measure = parser.parse_args().measure
    if measure:
        print(excess_memory(measure[0], "full" if measure[1] == "full" else "adjoint", int(measure[2])))
        return
    began = record.now()
    for name in NETWORKS:
        write(costs(name), run=began, data="noise")
    modes: tuple[Mode, ...] = ("tesla", "truncated")
    figures = {
        "network": "convnet-w32, mtt on digits, 1 image a class",
        "cosine_to_exact": {mode: {steps: cosines(mode, steps) for steps in (10, 30, 80)} for mode in modes},
        "truncated_window": "half of the steps",
    }
    write(figures, run=began, data="digits of scikit-learn, 8x8")


def costs(name: str) -> dict[str, Any]:
    """Peak memory after 10 and 80 inner steps and seconds of 20, of both exact modes."""
    memory: dict[str, dict[int, int]] = {"full": {}, "adjoint": {}}
    for mode, found in memory.items():
        for steps in (10, 80):
            command = [sys.executable, __file__, "--measure", name, mode, str(steps)]
            found[steps] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    took = seconds(name, 20, 6)
    return {
        "network": name,
        "images": NETWORKS[name][2],
        "excess_mib": {m: {n: round(b / 2**20, 1) for n, b in found.items()} for m, found in memory.items()},
        "adjoint_memory_80_over_10": round(memory["adjoint"][80] / max(1, memory["adjoint"][10]), 2),
        "seconds_of_20_steps": {mode: round(value, 4) for mode, value in took.items()},
        "adjoint_time_over_full": round(took["adjoint"] / took["full"], 2),
    }


def write(figures: dict[str, Any], *, run: str, data: str) -> None:
    """Print records, and append them to the results."""
    print(json.dumps(figures), flush=True)
    record.append(RESULTS, record.facts("unroll", {}, run=run, data=data) | figures)


if __name__ == "__main__":
    with computing(1):
        main()
