"""The ConvNet's layers with derivatives by hand (`dd_core.networks.kernels`) beside PyTorch's, in turns, on one core.

    python benchmarks/kernels.py [--device cpu] [--most 64] [--widths 32 64 128]
                                 # appends to benchmarks/results/kernels.jsonl

Pooling, instance norm, and the convolutions of three channels and of as many as there are outputs, at 8, 32 and 64
pixels a side, 32, 64 and 128 channels, and 1, 10, 50 and 256 images: forward, backward, and the gradient of gradients
that an inner step of distillation asks for. Convolutions of many channels are PyTorch's own in either column but for
the gradient of gradients, and end at 32 pixels and 50 images.

Of each case the least and the median time (of the CPU, or of the clock on a GPU), PyTorch's over ours, and the most
bytes of tensors that are alive at once. `used` says whether networks use ours there. A case is lost where ours are used
and take over 3 % longer in the median, which a record of the whole counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from record import RESULTS, append, facts, now
from torch import Tensor

from dd_core.networks import kernels
from dd_core.system import device as devices
from dd_core.system import footprint, memory

SIDES, WIDTHS, COUNTS = (8, 32, 64), (32, 64, 128), (1, 10, 50, 256)
NOISE = 0.03
ENOUGH, FEWEST, MOST = 0.4, 3, 40  # seconds, and turns, of a case
Layer = Callable[..., Tensor]
Run = Callable[[], object]


def main() -> None:
    """Every case, and how many of them are lost."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--most", type=int, default=max(SIDES), help="pixels a side up to which cases are measured")
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), help="numbers of channels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, run, records = devices.resolve(options.device), now(), list[dict[str, Any]]()
    told = {"device": options.device, "most": options.most, "widths": options.widths}

    def write(record: Mapping[str, Any]) -> None:
        found = facts("kernels", told, run=run, data="noise", on=options.device)
        append(RESULTS / "kernels.jsonl", {**found, **record})

    print(f"{'':42} {'ours':>9} {'PyTorch':>9} {'ratio':>6} {'bytes':>6}  used")
    with memory.kept():
        for side, width, count in product(SIDES, options.widths, COUNTS):
            if side <= options.most:
                for record in compared(side, width, count, device):
                    records.append(record)
                    write(record)
                    print(line(record), flush=True)
    used = [record for record in records if record["used"]]
    lost = [record for record in used if record["ratio"] < 1 - NOISE]
    summary = {"what": "all", "cases": len(records), "used": len(used), "lost": len(lost)}
    summary |= {"median_ratio": round(statistics.median(one["ratio"] for one in used), 2) if used else None}
    write(summary)
    print(summary)
    for record in lost:
        print("lost:", line(record))


def line(record: Mapping[str, Any]) -> str:
    """A case on one line."""
    name = f"{record['layer']}, {record['what']}, {record['side']} px, {record['width']} x {record['count']}"
    ours, theirs = record["ours_ms"]["median"], record["pytorch_ms"]["median"]
    ratios = f"{record['ratio']:6.2f} {record['bytes_ratio'] or 0:6.2f}"
    return f"{name:42} {ours:9.3f} {theirs:9.3f} {ratios}  {'yes' if record['used'] else ''}"


def compared(side: int, width: int, count: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """A record for each layer and order of derivative."""
    for name, ours, theirs, inputs, pays in layers(side, width, count, device):
        cotangent = torch.randn_like(theirs(*inputs))
        orders: dict[str, Callable[[Layer], Run]] = {
            "forward": lambda layer, inputs=inputs: partial(layer, *inputs),
            "backward": lambda layer, inputs=inputs, g=cotangent: partial(first, layer, inputs, g),
            "double backward": lambda layer, inputs=inputs, g=cotangent: partial(second, layer, inputs, g),
        }
        for what, made in orders.items():
            runs = {"ours": made(ours), "pytorch": made(theirs)}
            times = timed(runs, device)
            medians = {who: one["median"] for who, one in times.items()}
            bytes_ = {who: most_bytes(run, device) for who, run in runs.items()}
            yield {
                "layer": name,
                "what": what,
                "side": side,
                "width": width,
                "count": count,
                # first derivatives of what has weights are PyTorch's, since these are trained, and not learned through
                "used": pays and (name == "pooling" or what == "double backward"),
                "ours_ms": times["ours"],
                "pytorch_ms": times["pytorch"],
                "ratio": round(medians["pytorch"] / medians["ours"], 3),
                "ours_bytes": bytes_["ours"],
                "pytorch_bytes": bytes_["pytorch"],
                "bytes_ratio": round(bytes_["pytorch"] / bytes_["ours"], 3) if bytes_["ours"] else None,
            }


def layers(
    side: int, width: int, count: int, device: torch.device
) -> Iterator[tuple[str, Layer, Layer, tuple[Tensor, ...], bool]]:
    """For each layer: name, our function, PyTorch's function, their arguments, and whether networks use ours."""
    images, numbers = drawn(count, width, side, side, device=device), width * side**2
    fits, pays = kernels._fits, kernels._pays  # pyright: ignore[reportPrivateUsage]
    pool = partial(F.avg_pool2d, kernel_size=2)
    yield "pooling", kernels.average_pool, pool, (images,), fits(images, kernels.LARGE_POOL)
    w, b = drawn(width, device=device), drawn(width, device=device)
    theirs = lambda x, w, b: F.group_norm(x, width, w, b)  # noqa: E731
    yield "norm", kernels.instance_norm, theirs, (images, w, b), pays(images, w, numbers)
    for channels in (3, width):
        if channels == width and (side > 32 or count > 50):
            continue
        x = drawn(count, channels, side, side, device=device, images=channels == width)
        w, b = drawn(width, channels, 3, 3, device=device), drawn(width, device=device)
        ours = partial(kernels.convolve, padding=1)
        name = f"convolution of {'3' if channels == 3 else 'all'}"
        yield name, ours, partial(F.conv2d, padding=1), (x, w, b), pays(x, w, numbers)


def drawn(*shape: int, device: torch.device, images: bool = True) -> Tensor:
    """Noise that requires a gradient, unless it stands for the images of an inner step."""
    return torch.randn(*shape, device=device).requires_grad_(images)


def first(layer: Layer, inputs: tuple[Tensor, ...], cotangent: Tensor) -> object:
    """The gradients of a layer."""
    return torch.autograd.grad(layer(*inputs), [one for one in inputs if one.requires_grad], cotangent)


def second(layer: Layer, inputs: tuple[Tensor, ...], cotangent: Tensor) -> object:
    """The gradients of a layer's gradients, which a student's step takes of all but its images."""
    g, every = cotangent.detach().requires_grad_(), tuple(one.detach().requires_grad_() for one in inputs)
    given = [one if old.requires_grad else one.detach() for one, old in zip(every, inputs, strict=True)]
    sought = [one for one in given if one.requires_grad]
    gradients = torch.autograd.grad(layer(*given), sought, g, create_graph=True)
    found = [one for one in gradients if one.requires_grad]
    return torch.autograd.grad(found, [*sought, g], [one.detach() for one in found], allow_unused=True)


def timed(runs: Mapping[str, Run], device: torch.device) -> dict[str, dict[str, float]]:
    """The least and the median milliseconds of each, which take turns."""
    found: dict[str, list[float]] = {who: [] for who in runs}
    for run in runs.values():
        run()
    begun, turns = time.perf_counter(), 0
    while turns < FEWEST or (turns < MOST and time.perf_counter() - begun < ENOUGH):
        for who, run in runs.items():
            finish(device)
            start = clock(device)
            run()
            finish(device)
            found[who].append(1000 * (clock(device) - start))
        turns += 1
    return {
        who: {"least": round(min(times), 4), "median": round(statistics.median(times), 4), "turns": turns}
        for who, times in found.items()
    }


def clock(device: torch.device) -> float:
    """Seconds of the CPU, or by the clock on a GPU."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def finish(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def most_bytes(run: Run, device: torch.device) -> int:
    """Most bytes of tensors that are alive at once and that `run` makes."""
    if device.type != "cuda":
        return footprint.peak_bytes(run)
    finish(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    finish(device)
    return torch.cuda.max_memory_allocated(device) - before


if __name__ == "__main__":
    main()
