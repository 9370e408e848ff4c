"""CIFAR-10 on a GPU: what an outer step and an expert cost, whether runs repeat, and how good the sets are.

    python benchmarks/gpu.py [PART ...] [--data cifar10|folder:DIR] [--copy TEXT] [--minutes 9] [--experts 20]
                             [--outer 3000] [--workers 1] [--small]

The parts, all of them in this order unless some are named:

- `repeats`: each method twice from one seed, on 2,000 images, for a few outer iterations: whether experts, pixels,
  soft labels and a network's score are the same to the bit.
- `methods`: an outer step of each method, by the published settings of 1, 10 and 50 images a class: milliseconds and
  peak memory above what the method holds between steps.
- `steps`: an outer step of `mtt` (ConvNet-3, 10 to 500 images, N inner steps under DSA, M = 2 epochs of an expert) in
  each gradient mode, in strict float32, in TF32, and in bfloat16 by autocast around the network in the inner loss:
  milliseconds, peak memory above what was allocated before, and the cosine of the pixels' gradient to the exact one in
  strict float32. A precision is usable where the exact mode keeps a cosine of 0.999. `truncated` looks at the last half
  of the steps. Then inner steps that are captured as CUDA graphs, and compiled ones, beside eager ones; what fails has
  its reason recorded. Times are medians of runs that take turns.
- `experts`: experts a minute (3 epochs, batch 256, DSA, by SGD and by GSAM), going by a few steps of each: one after
  another as the engine trains them, several by `vmap` (which makes grouped convolutions), and several on CUDA streams.
- `full-data`: the accuracy of ConvNet-3 on all training images, 50 epochs of protocol `dm-1000`'s recipe (1001 there),
  three seeds. Published: 84.8 %.
- `ipc1-mtt`, `ipc1-datm`: the presets with one image a class, by 20 experts (paper: 100) and 3000 outer iterations
  (5000 and 10,000); `datm` asks experts of 10 epochs about labels (100). Scored on test images under the preset's
  protocol, last epoch, three networks, beside the random-real twin. Required: 40 %. Published: 46.2 and 46.9 %.
- `ipc10`: the preset of `mtt` with ten images a class, by 20 experts. Every 500 outer iterations the set so far is
  scored on training images that were held back (4 %: experts and the set never see them), which is within its minutes,
  and at the end on test images.

All but `steps` compute in PyTorch's default precision, which is TF32 in convolutions. Nothing is chosen on test images.
After --minutes nothing new is begun (a score that was begun takes a minute or two), and the exit code is 4; the
records of what was measured are there already. The sets go on where they stopped when the same command is
given again, as long as --out, and the cache with the experts, are still there.

Appends to benchmarks/results/gpu.jsonl, and draws sets and the learning curve in benchmarks/results/gpu.png. `--small
--device cpu` shows on a CPU that all but graphs and streams work, on 2,000 training images at 16x16 pixels, scored on
others of the training images: a few minutes, no figures, and records that stay in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import gpu_experts
import gpu_methods
import gpu_sets
import gpu_steps
import torch
import torch.nn.functional as F
from gpu_steps import Record, Scale, defaults
from record import RESULTS, append, facts, now

from dd_core import datasets, training
from dd_core.errors import DDError, OutOfResources, UserError, unknown_name
from dd_core.evaluation import Score, protocols
from dd_core.images import InputForm, LabelledImages, Source, require_labels, split_indices
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices

NAME = "gpu"
TRY = "--small --device cpu tries this benchmark out"
PUBLISHED = 0.848  # full data, in DATM's comparison
SMALL = Scale("convnet-3-w8", ((10, (2, 4, 6)),), rounds=1, together=(2,), chunk=2)


def main() -> None:
    """Every part that is asked for; a failure is one line."""
    try:
        bench = Bench(parse())
        for part in bench.parts:
            bench.part = part
            bench.left()
            PARTS[part](bench)
    except DDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--data", default="cifar10", help="cifar10, or folder:DIR with train/ and test/")
    parser.add_argument("--copy", default="original pixels", help="which copy of CIFAR-10 this is, in words")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...")
    parser.add_argument("--minutes", type=float, default=9, help="minutes after which nothing new is begun")
    parser.add_argument("--experts", type=int, default=20, help="experts that a set is distilled from (paper: 100)")
    parser.add_argument("--outer", type=int, default=3000, help="outer iterations of ipc1 (papers: 5000, 10,000)")
    parser.add_argument("--workers", type=int, default=1, help="experts that are trained in parallel")
    parser.add_argument("--small", action="store_true", help="try it out in minutes; its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{NAME}"), help="folder for the sets")
    return parser.parse_args()


class Bench:
    """The options, the images, the time that is left, and the file of records.

    Raises `UserError` for an unknown part, and where there is no GPU to measure.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        for part in options.parts:
            if part not in PARTS:
                raise unknown_name("part", part, PARTS)
        self.options, self.small = options, options.small
        self.device = usable_device(options)
        self.parts, self.part = options.parts or list(PARTS), ""
        self.scale, self.nets = (SMALL, 1) if self.small else (Scale(), 3)
        self.out = options.out / "small" if self.small else options.out
        self.results = (self.out if self.small else RESULTS) / f"{NAME}.jsonl"
        self.run, self.deadline = now(), time.monotonic() + 60 * options.minutes
        self.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)

    @cached_property
    def train(self) -> LabelledImages:
        """Images to learn from."""
        return self._few[0] if self.small else in_memory(datasets.load(self.options.data))

    @cached_property
    def test(self) -> LabelledImages:
        """Images to score on."""
        return self._few[1] if self.small else in_memory(datasets.load(self.options.data, split="test"))

    def part_of(self, fraction: float) -> LabelledImages:
        """A part of the training images, drawn class by class; all of them where they are few already."""
        if self.small:
            return self.train
        _, few = split_indices(self.train, fraction, seed=0)
        return self.train.subset(few)

    @cached_property
    def _few(self) -> tuple[LabelledImages, LabelledImages]:
        whole = in_memory(datasets.load(self.options.data))
        others, few = split_indices(whole, 0.04, seed=0)
        return halved(whole.subset(few)), halved(whole.subset(others[::200]))

    def left(self) -> float:
        """Seconds that are left; raises `OutOfResources` where none are."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfResources(
                f"the {self.options.minutes:g} minutes are over in part '{self.part}'; what was measured is recorded, "
                "and a set goes on from there with the same command"
            )
        return left

    def write(self, record: Record) -> None:
        """Print the main figures of a record, and append all of it to the results."""
        left_out = ("config", "evaluation", "tf32", "curve")
        print(json.dumps({name: value for name, value in record.items() if name not in left_out}), flush=True)
        told = {
            name: getattr(self.options, name) for name in ("data", "device", "experts", "outer", "workers", "small")
        }
        few = ", 2,000 images at 16x16, scored on others of the training images" if self.small else ""
        data = f"CIFAR-10, {self.options.copy}{few}"
        found = facts(NAME, told, run=self.run, data=data, on=self.options.device)
        found["command"] = found["command"].replace("BENCH_ARGS='", f"BENCH_ARGS='{self.part} ", 1)
        append(self.results, {**found, "part": self.part, **record})


def usable_device(options: argparse.Namespace) -> torch.device:
    """The device; raises `UserError` for a device that is no GPU, except with --small."""
    try:
        device = devices.resolve(options.device)
    except UserError as error:
        raise UserError(f"{error}; {TRY}") from None
    if device.type != "cuda" and not options.small:
        raise UserError(f"these are figures of a GPU, and device '{options.device}' is none; {TRY}")
    return device


def in_memory(source: Source) -> LabelledImages:
    """The source, if it is in memory; raises `UserError` for a source that streams."""
    if not isinstance(source, LabelledImages):
        raise UserError(f"{source.name}: does not fit into memory, and CIFAR-10 does")
    return source


def halved(source: LabelledImages) -> LabelledImages:
    """The images at half their height and width."""
    return replace(source, images=F.avg_pool2d(source.images.float(), 2).round().to(torch.uint8))


# --- the parts ---------------------------------------------------------------------------------------------------


def repeats(bench: Bench) -> None:
    """The part `repeats`: each method twice."""
    some, steps = bench.part_of(0.04), 3 if bench.small else 10
    for record in gpu_methods.repeats(some, bench.scale.network, bench.device, steps=steps):
        bench.write(record)
        bench.left()


def methods(bench: Bench) -> None:
    """Outer steps of each method."""
    sizes, rounds = ((1,), 1) if bench.small else (gpu_methods.IPC, 5)
    for record in gpu_methods.methods(
        bench.part_of(0.1), bench.scale.network, bench.device, sizes=sizes, rounds=rounds
    ):
        bench.write(record)
        bench.left()


def steps(bench: Bench) -> None:
    """Outer steps by gradient mode, precision and N."""
    for record in gpu_steps.measured(bench.train, bench.scale, bench.device):
        bench.write(record)
        bench.left()


def experts(bench: Bench) -> None:
    """Experts a minute."""
    for record in gpu_experts.measured(bench.train, bench.scale, bench.device):
        bench.write(record)
        bench.left()


def full_data(bench: Bench) -> None:
    """The accuracy of networks that learn from all training images; a record after each, of all so far."""
    train, device, accuracies = bench.train, bench.device, list[float]()
    form, labels = InputForm.of(train), require_labels(train).to(device)
    inputs = torch.cat([form(batch.to(device)) for batch in train.batches(4096)])
    everything = training.TrainingData(inputs, labels, None, len(train.classes))
    recipe = protocols.load("dm-1000").recipe(Recipe(network=bench.scale.network), source_name=train.name)
    recipe = recipe.model_copy(update={"epochs": 1 if bench.small else 50})
    for seed in range(bench.nets):
        bench.left()
        begun = time.monotonic()
        model = training.fit(everything, recipe.network, recipe, streams=Streams(seed), device=device)
        accuracies.append(training.accuracy(model, bench.test, form, device=device))
        found = Score.of(accuracies)
        record = {"what": "full-data", "accuracy": found.mean, "std": found.std, "per_network": found.per_network}
        record |= {"published": PUBLISHED, "seconds": round(time.monotonic() - begun, 1)}
        bench.write({**record, "config": recipe.model_dump(mode="json"), **defaults()})


PARTS: Mapping[str, Callable[[Bench], None]] = {
    "repeats": repeats,
    "methods": methods,
    "steps": steps,
    "experts": experts,
    "full-data": full_data,
    "ipc1-mtt": partial(gpu_sets.ipc1, name="mtt"),
    "ipc1-datm": partial(gpu_sets.ipc1, name="datm"),
    "ipc10": gpu_sets.ipc10,
}

if __name__ == "__main__":
    main()
