"""Expert trajectories as artefacts: the weights of networks trained on real images, after each epoch.

    theta_{t+1} = an epoch of SGD on the real images under DSA, from theta_t       t = 0 .. epochs-1

Plain SGD makes the experts of MTT (Cazenavette et al. 2022, section 3.1). With `sharpness` every step is a step of
GSAM (Zhuang et al. 2022) with the adaptive neighbourhood of ASAM (Kwon et al. 2021), as in FTD (Du et al. 2023) and
DATM (Guo et al. 2024): students accumulate fewer errors along such flat trajectories.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dd_core import training, zca
from dd_core.artefacts import Artefact, ArtefactSpec, MadePart, Progress, Resources, Tensors
from dd_core.distilled import IMAGENET
from dd_core.errors import UserError
from dd_core.images import InputForm, Source
from dd_core.methods.trajectory_matching.expert import Expert, unpacked
from dd_core.methods.trajectory_matching.expert_training import Training
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system.threads import computing
from dd_core.system.turns import in_turns

WHITENING = "whitening"  # role of the whitening among the artefacts of experts and students
AT_ONCE = 2  # experts on a GPU: two have 1.4 times the throughput of one (SGD), four 1.5 times, in twice the memory
SAVE_SECONDS = 30.0  # least time between two saved states of an unfinished expert
SAVING_SHARE = 0.05  # most part of the time that saving an unfinished expert may take


class ExpertsSpec(ArtefactSpec):
    """`count` experts for images (C, H, W); expert i does not depend on `count`."""

    kind: ClassVar[str] = "experts"
    verb: ClassVar[str] = "training"
    noun: ClassVar[str] = "expert"
    digested: ClassVar[frozenset[str]] = frozenset(
        {"initialisation", "seed", "zca", "statistics", "first", "last", "final"}
    )

    source: str = Field(description="fingerprint of the real images")
    network: str = Field(description="name of the experts' network")
    initialisation: str = Field(default="default", description="distribution that the initial weights are drawn from")
    image_shape: tuple[int, int, int] = Field(description="channels, height and width of the real images")
    classes: int = Field(description="number of classes of the real images")
    count: int = Field(ge=1, description="number of experts")
    seed: int = Field(default=0, ge=0, description="seed of initial weights, orders of images and augmentations")
    zca: bool = Field(default=False, description="whether images are whitened (ZCA)")
    statistics: Literal["data", "imagenet"] = Field(
        default="data", description="mean and std that images are normalised with, where they are not whitened"
    )
    training: Training = Field(description="how an expert is trained")
    first: int = Field(default=0, ge=0, description="first epoch whose weights are kept; 0: the initial weights")
    last: int | None = Field(
        default=None, ge=0, description="last epoch of the range whose weights are kept; none: training.epochs"
    )
    final: bool = Field(
        default=False, description="whether training goes on to its last epoch, whose weights are then kept too"
    )

    @model_validator(mode="after")
    def _range_is_one(self) -> ExpertsSpec:
        if not self.first <= self.kept_to <= self.training.epochs:
            raise ValueError(
                f"epochs {self.first} to {self.kept_to} are not within the {self.training.epochs} of an expert"
            )
        return self

    @property
    def kept_to(self) -> int:
        """The last epoch of the range."""
        return self.training.epochs if self.last is None else self.last

    @property
    def end(self) -> int:
        """The epoch where training ends."""
        return self.training.epochs if self.final else self.kept_to

    def keeps(self, epoch: int) -> bool:
        """Whether the weights after `epoch` epochs are kept."""
        return self.first <= epoch <= self.kept_to or epoch == self.end

    def determining(self) -> dict[str, Any]:
        """The fields that determine an expert: all but `count`."""
        return {**super().determining(), "count": None}

    def needs(self) -> dict[str, ArtefactSpec]:
        """The whitening of the experts' images, where `zca` is true."""
        if not self.zca:
            return {}
        return {WHITENING: zca.WhiteningSpec(source=self.source, image_shape=self.image_shape)}

    def sources(self) -> dict[str, str]:
        """The real images."""
        return {self.source: ""}

    def parts(self) -> int:
        """One expert a part."""
        return self.count

    def nbytes(self) -> int:
        """Bytes that the kept weights of all experts take on disk."""
        kept = sum(self.keeps(epoch) for epoch in range(self.end + 1))
        return self.count * kept * self.weights() * (4 if self.training.dtype == "float32" else 2)

    def cost(self, resources: Any, parts: int) -> str:
        """The disk space and the time that `parts` experts take, as text; the time is estimated from a few steps."""
        minutes = max(1, round(self.seconds(resources, parts) / 60))
        return (
            f"{self.end} epochs each, {parts * self.nbytes() / self.count / 1e6:,.0f} MB on disk, about {minutes:,} "
            f"minute{'s' if minutes > 1 else ''} in one process"
        )

    def seconds(self, resources: Resources, parts: int) -> float:
        """Seconds that `parts` experts take in one process of one thread, estimated from a few steps."""
        source, device = resources.sources[self.source], devices.resolve(resources.device)
        with computing(1):
            form = form_of(source, self.statistics, resources.artefacts.get(WHITENING))
            expert = self.expert(source, form, streams=Streams(self.seed).child("cost"), device=device)
            each = expert.seconds_a_step()
        return parts * self.end * math.ceil(len(source) / self.training.batch_size) * each

    def outcome(self, made: Artefact) -> str:
        """The mean loss of the first expert by the end of the range, beyond which students learn nothing from it."""
        losses = made.part(0)[1]["losses"][: self.kept_to]
        return (
            f"mean loss of the first expert: {losses[0]:.2f} in epoch 1, {losses[-1]:.2f} in epoch {len(losses)}, the "
            f"last that students match (chance: {math.log(self.classes):.2f})"
        )

    def weights(self) -> int:
        """How many weights an expert has (P)."""
        recipe = Recipe(network=self.network)
        model = training.initialised(recipe, self.image_shape, self.classes, streams=Streams(0))
        return sum(parameter.numel() for parameter in model.parameters())

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Train expert `index` in one thread, and keep its flat weights (epochs, P); resumes after a kill."""
        ((_, tensors, facts),) = self.make_parts([index], resources=resources, progress={index: progress})
        return tensors, facts

    def at_once(self, resources: Resources, *, processes: int) -> int:
        """Two experts for a process that has a GPU to itself, which one expert does not fill; else one."""
        return AT_ONCE if devices.overlapping(resources.device, processes) else 1

    def make_parts(
        self, indices: Sequence[int], *, resources: Any, progress: Mapping[int, Progress]
    ) -> Generator[MadePart]:
        """Train the experts `indices` in one thread, on a GPU up to two in turn, each as if it were alone."""
        device = devices.resolve(resources.device)
        with computing(1):
            source = resources.sources[self.source]
            lessons = self._lessons(source, form_of(source, self.statistics, resources.artefacts.get(WHITENING)))
            lessons = lessons.to(device)  # whose pixels, on a GPU, all experts share
            experts = [partial(self._trained, index, lessons, progress[index], device) for index in indices]
            yield from in_turns(experts, device, most=min(len(experts), AT_ONCE))

    def _trained(
        self, index: int, lessons: training.RealLessons, progress: Progress, device: torch.device
    ) -> Generator[Tensor, None, MadePart]:
        expert = self._expert(lessons, streams=Streams(self.seed).child("expert", index), device=device)
        expert.load_state_dict(progress.load())
        saved, wait = time.monotonic(), SAVE_SECONDS
        while expert.epochs < self.end:
            yield from expert.steps()
            if (begun := time.monotonic()) - saved >= wait:
                progress.save(expert.state_dict())
                saved = time.monotonic()
                wait = max(SAVE_SECONDS, (saved - begun) / SAVING_SHARE)
        return index, {"t0": np.stack(expert.kept)}, {"losses": expert.losses, "dtype": self.training.dtype}

    def expert(self, source: Source, form: InputForm, *, streams: Streams, device: torch.device) -> Expert:
        """An expert at epoch 0, with inputs in `form`; raises `UserError` for another image shape or class count."""
        return self._expert(self._lessons(source, form), streams=streams, device=device)

    def _lessons(self, source: Source, form: InputForm) -> training.RealLessons:
        if source.image_shape != self.image_shape or len(source.classes) != self.classes:
            raise UserError(
                f"experts are for {self.classes} classes of images {self.image_shape}, and {source.name} has "
                f"{len(source.classes)} classes of {source.image_shape}"
            )
        return training.RealLessons(source, form)

    def _expert(self, lessons: training.RealLessons, *, streams: Streams, device: torch.device) -> Expert:
        recipe = Recipe(network=self.network, initialisation=self.initialisation)
        model = training.initialised(recipe, self.image_shape, self.classes, streams=streams)
        return Expert(model, lessons, self.training, keeps=self.keeps, streams=streams, device=device)


def trajectory(experts: Artefact, index: int) -> Float[Tensor, "epochs P"]:
    """The kept weights of expert `index`, the last epoch's at the end; flat, in the order of `network.parameters()`."""
    tensors, facts = experts.part(index)
    return unpacked(tensors["t0"], facts["dtype"])


@dataclass(frozen=True)
class Trajectory:
    """An expert's kept weights in its file, which is mapped into memory: `path[t]` reads one epoch's, flat."""

    kept: np.ndarray
    dtype: str

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, t: int) -> Float[Tensor, " P"]:
        return unpacked(self.kept[t], self.dtype)


def mapped(experts: Artefact) -> Callable[[int], Trajectory]:
    """The trajectory of each expert by its index; a file is verified when it is first asked for."""

    @cache
    def path(index: int) -> Trajectory:
        tensors, facts = experts.part(index, mapped=True)
        return Trajectory(tensors["t0"], facts["dtype"])

    return path


def form_of(source: Source, statistics: str, whitening: Artefact | None = None) -> InputForm:
    """The input form of experts, students and the set: whitened, else normalised with `statistics`."""
    if whitening is not None:
        return InputForm.of(source, zca.whitening_in(whitening))
    return InputForm(*IMAGENET) if statistics == "imagenet" else InputForm.of(source)
