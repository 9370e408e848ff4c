"""The part `experts` of `gpu.py`: expert trajectories that a GPU makes in a minute, one at a time or several at once.

Nothing here writes: `measured` yields records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from gpu_steps import Record, Scale, defaults, finish, products, reason, timed
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dd_core import augment
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import LabelledImages, Source
from dd_core.methods import method
from dd_core.methods.trajectory_matching.expert import Expert
from dd_core.methods.trajectory_matching.expert_training import Sharpness
from dd_core.methods.trajectory_matching.experts import ExpertsSpec, form_of
from dd_core.streams import Streams
from dd_core.system import device as devices

Weights = dict[str, Tensor]

EPOCHS = 3  # of an expert: those that one image a class is matched with
KINDS: Mapping[str, Sharpness | None] = {"SGD": None, "GSAM": Sharpness(rho=0.01, alpha=0.3)}


@dataclass(frozen=True, eq=False)
class Resident(LabelledImages):
    """Images with a copy on a device, from where they are taken."""

    device: str = "cpu"

    @cached_property
    def copy(self) -> Tensor:
        """The copy of the images on the device."""
        return self.images.to(self.device)

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices`, on the device."""
        return self.copy[indices.to(self.device)]


class Batches:
    """The mini-batches of an expert's first epoch, over and over, and the generators of their transforms."""

    def __init__(self, expert: Expert) -> None:
        size = expert.training.batch_size
        self.all = [rows for rows in expert.loop.mini_batches() if len(rows) == size]
        self.transforms = expert.loop.streams.generator("augmentation", 0)

    def rows(self, index: int) -> Tensor:
        """The images of step `index`."""
        return self.all[index % len(self.all)]


class InTurn:
    """Experts of the engine, of which each in turn takes a step; with `streams` in a `Queue` of its own."""

    def __init__(self, several: Sequence[Expert], *, streams: bool = False) -> None:
        self.experts = several
        self.batches = [Batches(expert) for expert in several]
        device = several[0].loop.device
        if streams and not devices.overlapping(str(device), 1):
            raise UserError(f"{device} has no streams")
        self.queues = devices.queues(device, len(several)) if streams else [None for _ in several]
        for queue in filter(None, self.queues):
            queue.begin()

    def step(self, index: int) -> None:
        """Step `index` of every expert."""
        for expert, batches, queue in zip(self.experts, self.batches, self.queues, strict=True):
            with queue.used() if queue else nullcontext():
                expert.loop.step(batches.rows(index))

    def weights(self) -> Tensor:
        """(E, P), flat."""
        return torch.stack(
            [nn.utils.parameters_to_vector(expert.loop.model.parameters()).detach() for expert in self.experts]
        )


class AtOnce:
    """The same experts in one: `vmap` over stacked weights, which makes grouped convolutions of theirs."""

    def __init__(self, several: Sequence[Expert]) -> None:
        self.experts = several
        self.batches = [Batches(expert) for expert in several]
        each = [dict(expert.loop.model.named_parameters()) for expert in several]
        self.theta: Weights = {name: torch.stack([one[name].detach() for one in each]) for name in each[0]}
        self.gradient = vmap(gradient_of(several[0].loop.model, several[0].training.sharpness))

    def step(self, index: int) -> None:
        """Step `index` of every expert."""
        pairs = [self._batch(*both, index) for both in zip(self.experts, self.batches, strict=True)]
        images, labels = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        gradients, rate = self.gradient(self.theta, images, labels), self.experts[0].training.learning_rate
        self.theta = {name: one - rate * gradients[name] for name, one in self.theta.items()}

    def weights(self) -> Tensor:
        """(E, P), flat."""
        return torch.cat([one.flatten(1) for one in self.theta.values()], dim=1)

    def _batch(self, expert: Expert, batches: Batches, index: int) -> tuple[Tensor, Tensor]:
        rows = batches.rows(index)
        images, labels = expert.loop.lessons.batch(rows, epoch=0, index=index)
        return augment.dsa(images, expert.training.augmentation, generator=batches.transforms), labels


def gradient_of(model: nn.Module, sharpness: Sharpness | None) -> Callable[[Weights, Tensor, Tensor], Weights]:
    """`gsam.flat_gradient` at one expert's weights, as a function that `vmap` takes (its equations are there)."""

    def loss(theta: Weights, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, theta, (images,)), labels)

    def norm(parts: Weights) -> Tensor:
        return torch.stack([one.square().sum() for one in parts.values()]).sum().sqrt()

    def gradient(theta: Weights, images: Tensor, labels: Tensor) -> Weights:
        g = grad(loss)(theta, images, labels)
        if sharpness is None:
            return g
        scale = sharpness.rho / (norm({name: one.abs() * g[name] for name, one in theta.items()}) + 1e-12)
        worst = {name: one + scale * one.square() * g[name] for name, one in theta.items()}
        g_p = grad(loss)(worst, images, labels)
        along = torch.stack([(g[name] * g_p[name]).sum() for name in g]).sum() / (norm(g_p).square() + 1e-12)
        return {name: g_p[name] - sharpness.alpha * (g[name] - along * g_p[name]) for name in g}

    return gradient


def measured(source: LabelledImages, scale: Scale, device: torch.device) -> Iterator[Record]:
    """A record for SGD and one for GSAM: experts a minute by every way of training several."""
    resident = Resident(source.images, source.labels, source.classes, source.name, device=str(device))
    for name, sharpness in KINDS.items():
        how = {"sharpness": None if sharpness is None else sharpness.model_dump()}
        # the statistics decide nothing here, and ImageNet's need not be computed for every expert
        config = method("mtt", last_epoch=2, statistics="imagenet", recipe={"network": scale.network}, training=how)
        spec = config.needs(source, size=Size(ipc=1), seed=0)["experts"]
        assert isinstance(spec, ExpertsSpec)
        yield {"what": "experts", "optimiser": name, **ways(spec, source, resident, scale, device), **defaults()}


def ways(spec: ExpertsSpec, source: Source, resident: Source, scale: Scale, device: torch.device) -> Record:
    """Experts a minute, one after another and several at once, going by a few steps of each."""

    def made(count: int, images: Source) -> list[Expert]:
        form = form_of(images, spec.statistics)
        streams = [Streams(spec.seed).child("expert", index) for index in range(count)]
        return [spec.expert(images, form, streams=own, device=device) for own in streams]

    def chunk(way: InTurn | AtOnce) -> None:
        for index in range(scale.chunk):
            way.step(index)

    plans: dict[str, tuple[int, Source, Callable[..., InTurn | AtOnce]]] = {
        "one after another": (1, source, InTurn),
        "one after another, images on the device": (1, resident, InTurn),
        **{f"vmap of {count}": (count, resident, AtOnce) for count in scale.together},
        **{f"streams, {count}": (count, resident, partial(InTurn, streams=True)) for count in scale.together},
    }
    found: dict[str, Record] = {}
    runs: dict[str, Callable[[], None]] = {}
    for name, (count, images, kind) in plans.items():
        try:
            run = partial(chunk, kind(made(count, images)))
            run()
            finish(device)
            runs[name] = run
        except Exception as error:  # memory; without a GPU there are no streams
            found[name] = {"reason": reason(error)}
    steps = EPOCHS * math.ceil(len(source) / spec.training.batch_size)
    for name, milliseconds in timed(runs, rounds=scale.rounds, device=device).items():
        minute = 60_000 * scale.chunk * plans[name][0] / (milliseconds * steps)
        found[name] = {"ms_a_step_of_all": round(milliseconds / scale.chunk, 3), "experts_a_minute": round(minute, 3)}
    with products(tf32=False):
        apart = difference(InTurn(made(2, source)), AtOnce(made(2, resident)))
    return {
        "epochs": EPOCHS,
        "steps_of_an_expert": steps,
        "extrapolated_from_steps": scale.chunk,
        "batch": spec.training.batch_size,
        "ways": found,
        "vmap_to_engine_relative_error": apart,
    }


def difference(ours: InTurn, theirs: AtOnce, steps: int = 3) -> float:
    """The distance between the weights of two ways after a few steps, over their distance from the start."""
    start = ours.weights()
    for index in range(steps):
        ours.step(index)
        theirs.step(index)
    return ((theirs.weights() - ours.weights()).norm() / (ours.weights() - start).norm()).item()
