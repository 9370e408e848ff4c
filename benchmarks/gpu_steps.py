"""The part `steps` of `gpu.py`: an outer step of trajectory matching in each gradient mode and precision, and faster.

Nothing here writes: `measured` yields records. The first functions are how every part of the benchmark measures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_core import artefacts, augment, selection, training, unroll
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.images import InputForm, Source
from dd_core.methods import method
from dd_core.methods.trajectory_matching.experts import trajectory
from dd_core.methods.trajectory_matching.opinions import parameters_of
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.unroll import How, InnerSteps, Mode, Step, Tensors, Unrolled

Record = dict[str, Any]

PRECISIONS = ("float32", "tf32", "bfloat16")
MODES: tuple[Mode, ...] = ("full", "adjoint", "truncated", "tesla")
HOWS: tuple[How, ...] = ("captured", "compiled")
RATE = 0.01  # of a student (alpha), as in the presets of CIFAR-10, one image a class
COSINE = 0.999  # to the exact gradient, from which on a precision can be used
MEMORY, TIME = 1.3, 1.6  # what the adjoint may take: at the largest N over the smallest, and over `full`


@dataclass(frozen=True)
class Scale:
    """The amount of measuring, and the network."""

    network: str = "convnet-3"
    sizes: tuple[tuple[int, tuple[int, ...]], ...] = (
        (10, (10, 30, 80)),
        (100, (10, 30, 80)),
        (500, (10, 30)),
    )  # images, inner steps
    rounds: int = 3  # turns that a median is of
    together: tuple[int, ...] = (2, 4, 8)  # experts at the same time
    chunk: int = 20  # steps of experts in a turn


# --- how to measure ----------------------------------------------------------------------------------------------


def timed(runs: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each run; the runs take turns, and each has run before."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            finish(device)
            begun = time.perf_counter()
            run()
            finish(device)
            found[name].append(1000 * (time.perf_counter() - begun))
    return {name: round(statistics.median(times), 3) for name, times in found.items()}


def excess(run: Callable[[], Any], device: torch.device) -> tuple[Any, float | None]:
    """What `run` returns, and its peak of memory in MiB above what was allocated before; None but on a GPU."""
    if device.type != "cuda":
        return run(), None
    finish(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    finish(device)
    return result, round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)


def finish(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reason(error: Exception) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:200]


@contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Within the block, convolutions and matrix products in TF32 or in strict float32; earlier settings come back."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def defaults() -> Record:
    """PyTorch's default precision: TF32 in convolutions only."""
    on = {"convolutions": torch.backends.cudnn.allow_tf32, "matrix products": torch.backends.cuda.matmul.allow_tf32}
    return {"tf32": on}


# --- an outer step -----------------------------------------------------------------------------------------------


class Problem:
    """An outer step of `mtt`: from where an expert was after one epoch to where it came two epochs later (M = 2).

    N inner steps on `count` images, under DSA that is drawn as the engine draws it.
    """

    def __init__(self, source: Source, network: str, count: int, device: torch.device) -> None:
        config = method("mtt", last_epoch=2, experts=1, recipe={"network": network})
        spec = config.needs(source, size=Size(ipc=1), seed=0)["experts"]
        expert = artefacts.get(spec, resources=Resources.of([source], device=str(device)))
        path = trajectory(expert, 0).to(device)
        self.start, self.target, self.device = path[1], path[3], device
        streams = Streams(0)
        model = training.initialised(config.recipe, source.image_shape, len(source.classes), streams=streams)
        self.network = model.to(device).eval()
        counts = (count // len(source.classes),) * len(source.classes)
        chosen = selection.random_indices(source, counts, streams=streams, stream="initial-images")
        self.pixels = InputForm.of(source)(source.take(chosen).to(device))
        self.labels, self.rate = selection.labels_of(counts).to(device), torch.tensor(RATE, device=device)
        self.strategy = spec.training.augmentation

    def seen(self, t: int, pixels: Tensor) -> Tensor:
        """The images of inner step `t`."""
        return augment.dsa(pixels, self.strategy, generator=Streams(0).generator("augmentation", t))

    def loss(self, theta: Tensors, images: Tensor, labels: Tensor, *, half: bool) -> Tensor:
        """The inner loss; `half`: the network in bfloat16 where autocast has it so, weights and loss in float32."""
        # autocast's cache of cast weights would not survive the capture of a graph
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half, cache_enabled=False):
            logits = unroll.apply(self.network, theta, images)
        return F.cross_entropy(logits.float(), labels)

    def inner_steps(self, how: How = "eager", *, half: bool, bound: float = unroll.BOUND) -> InnerSteps:
        """Inner steps as the engine takes them; raises `Failed` where they would be eager after all."""

        def loss(theta: Tensors, images: Tensor, labels: Tensor) -> Tensor:
            return self.loss(theta, images, labels, half=half)

        return InnerSteps(loss, how, bound=bound, message=fail)

    def step(self, how: How = "eager", **options: Any) -> Step:
        """An inner step as the engine takes it."""
        return self.inner_steps(how, **options).step(
            lambda t, learned: (self.seen(t, learned[0]), self.labels, learned[1])
        )

    def run(self, step: Step, steps: int, mode: Mode) -> Unrolled:
        """The gradients of an outer step."""
        start, target = (parameters_of(self.network, one) for one in (self.start, self.target))
        whole = (self.start - self.target).square().sum()

        def distance(final: Tensors) -> Tensor:
            return torch.stack([(a - b).square().sum() for a, b in zip(final, target, strict=True)]).sum() / whole

        window = max(1, steps // 2)
        return unroll.unroll(step, steps, start, (self.pixels, self.rate), distance, mode=mode, window=window)

    def exact(self, steps: int) -> Unrolled:
        """The exact gradients, in strict float32."""
        with products(tf32=False):
            return self.run(self.step(half=False), steps, "adjoint")


def compared(
    runs: Mapping[str, Callable[[], Unrolled]], exact: Unrolled, *, rounds: int, device: torch.device
) -> dict[str, Record]:
    """Of each run its time, its memory and the cosine of its gradient of the pixels; the reason if memory ran out."""
    found: dict[str, Record] = {}
    for name, run in runs.items():
        try:
            run()  # whatever is done once is done now
            result, mebi = excess(run, device)
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            found[name] = {"reason": reason(error)}
            continue
        found[name] = {"excess_mib": mebi, "cosine": round(unroll.cosine(result, exact)[0], 6)}
        del result
    working = {name: runs[name] for name in found if "reason" not in found[name]}
    for name, milliseconds in timed(working, rounds=rounds, device=device).items():
        found[name]["ms"] = milliseconds
    return found


def modes(problem: Problem, precision: str, exact: Unrolled, steps: int, rounds: int) -> Record:
    """Time, memory and cosine of each gradient mode for N = `steps`."""
    step = problem.step(half=precision == "bfloat16")
    runs = {str(mode): partial(problem.run, step, steps, mode) for mode in MODES}
    with products(tf32=precision == "tf32"):
        found = compared(runs, exact, rounds=rounds, device=problem.device)
    usable = found["adjoint"].get("cosine", 0.0) >= COSINE
    return {"precision": precision, "inner_steps": steps, "modes": found, "usable": usable}


def claims(found: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> Record:
    """The claims about the adjoint mode, by the figures of each mode at each N; without a figure there is no claim.

    Memory at the largest N over that at the smallest, and time over `full`'s at the middle one.
    """
    lengths, record = sorted(found), dict[str, Any]()
    few, some, many = lengths[0], lengths[len(lengths) // 2], lengths[-1]
    less, more = (found[steps]["adjoint"].get("excess_mib") for steps in (few, many))
    ours, theirs = (found[some][mode].get("ms") for mode in ("adjoint", "full"))
    if less and more:
        name, ratio = f"adjoint_memory_{many}_over_{few}", round(more / less, 2)
        record |= {name: ratio, f"{name}_asked": MEMORY, f"{name}_met": ratio <= MEMORY}
    if ours and theirs:
        name, ratio = f"adjoint_time_over_full_at_{some}", round(ours / theirs, 2)
        record |= {name: ratio, f"{name}_asked": TIME, f"{name}_met": ratio <= TIME}
    return record


# --- faster ------------------------------------------------------------------------------------------------------


def faster(problem: Problem, how: How, precision: str, exact: Unrolled, steps: int, rounds: int) -> Record:
    """Time of an outer step with captured or compiled inner steps, beside eager ones; a failure has its reason."""
    half, device = precision == "bfloat16", problem.device
    bound = unroll.BOUND if precision == "float32" else unroll.BOUND_AMP
    record: Record = {"how": how, "precision": precision, "inner_steps": steps}
    begun = time.monotonic()
    try:
        with products(tf32=precision == "tf32"):
            fast, engine = problem.step(how, half=half, bound=bound), problem.step(half=half)
            _, mebi = excess(lambda: problem.run(fast, steps, "adjoint"), device)  # the first run makes them
            record |= {"seconds_to_build": round(time.monotonic() - begun, 1), "mib_to_build": mebi}
            runs = {"full": partial(problem.run, engine, steps, "full")}
            runs |= {"adjoint": partial(problem.run, engine, steps, "adjoint")}
            runs |= {how: partial(problem.run, fast, steps, "adjoint")}
            found = compared(runs, exact, rounds=rounds, device=device)
    except Exception as error:  # a compiler raises anything at all
        return {**record, "reason": reason(error)}
    pairs = {f"over_{mode}": (found[how].get("ms"), found[mode].get("ms")) for mode in ("full", "adjoint")}
    over = {name: round(ours / theirs, 3) for name, (ours, theirs) in pairs.items() if ours and theirs}
    return {**record, "modes": found, **over}


class Failed(Exception):
    """Inner steps are neither captured nor compiled here."""


def fail(text: str) -> None:
    """Raise `Failed` with the engine's message, if it is that steps are eager."""
    if "eager" in text:
        raise Failed(text)


def measured(source: Source, scale: Scale, device: torch.device) -> Iterator[Record]:
    """Records of the gradient modes, of what is claimed of them, and of captured and compiled steps at the middle N."""
    for count, lengths in scale.sizes:
        problem = Problem(source, scale.network, count, device)
        exact = {steps: problem.exact(steps) for steps in lengths}
        found: dict[int, Record] = {}
        for precision in PRECISIONS:
            for steps in lengths:
                record = modes(problem, precision, exact[steps], steps, scale.rounds)
                found |= {steps: record["modes"]} if precision == "float32" else {}
                yield {"what": "modes", "images": count, **record}
        yield {"what": "claims", "images": count, "precision": "float32", **claims(found)}
    for count, lengths in scale.sizes:
        problem, steps = Problem(source, scale.network, count, device), lengths[len(lengths) // 2]
        exact_gradient = problem.exact(steps)
        for how in HOWS:
            for precision in PRECISIONS:
                record = faster(problem, how, precision, exact_gradient, steps, scale.rounds)
                yield {"what": "faster", "images": count, **record}
