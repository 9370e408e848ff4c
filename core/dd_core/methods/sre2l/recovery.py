"""Recovered images as an artefact; each batch of images is recovered from the teacher by a job of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from dd_core import selection
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Resources, Tensors
from dd_core.augment import views
from dd_core.errors import require_finite
from dd_core.images import InputForm
from dd_core.methods.sre2l.config import MOSAICS, TEACHER, RecoverConfig
from dd_core.methods.sre2l.statistics import StatisticsMatching
from dd_core.streams import Streams
from dd_core.synthetic import mean_norm, total_variation
from dd_core.system import device as devices
from dd_core.training.mosaics import MosaicSpec, mosaics_in
from dd_core.training.teachers import TeacherSpec, form_in, network_of

SAVE_SECONDS = 30.0  # least time between two saved states of an unfinished batch


class RecoverySpec(ArtefactSpec):
    """Images recovered from a teacher, `counts[c]` of each class c; a part is a batch of them."""

    kind: ClassVar[str] = "recovery"
    verb: ClassVar[str] = "recovering"
    noun: ClassVar[str] = "batch of images"

    teacher: TeacherSpec = Field(description="the teacher")
    recover: RecoverConfig = Field(description="how images are recovered")
    mosaics: MosaicSpec | None = Field(default=None, description="mosaics that the pixels start from; none: no mosaics")
    counts: tuple[int, ...] = Field(description="images of each class")
    seed: int = Field(default=0, ge=0, description="seed of initial pixels and views")

    def needs(self) -> dict[str, ArtefactSpec]:
        """The teacher, and the mosaics that the pixels start from, if they do."""
        return {TEACHER: self.teacher, **({} if self.mosaics is None else {MOSAICS: self.mosaics})}

    def sources(self) -> dict[str, str]:
        """The real images, where the pixels start from real images."""
        return self.teacher.sources() if self.recover.initial == "real" else {}

    def parts(self) -> int:
        """One batch a part."""
        return math.ceil(sum(self.counts) / self.recover.batch_size)

    def rows(self, part: int) -> Int64[Tensor, " B"]:
        """Rows of a batch in the class-major set: batches take the first image of each class, then the second, ..."""
        ranks = torch.cat([torch.arange(count) for count in self.counts])
        order = torch.argsort(ranks, stable=True)
        return order[part * self.recover.batch_size :][: self.recover.batch_size]

    def cost(self, resources: Any, parts: int) -> str:
        """The number of images and iterations, as text."""
        del resources
        images = min(sum(self.counts), parts * self.recover.batch_size)
        return f"{images:,} images, {self.recover.iterations:,} iterations each: {images * self.recover.iterations:,}"

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Recover a batch, and save its state every `SAVE_SECONDS`; raises `Diverged`."""
        device = devices.resolve(resources.device)
        teacher: Artefact = resources.artefacts[TEACHER]
        form = form_in(teacher)
        streams, rows = Streams(self.seed).child("recovery", index), self.rows(index)
        labels = selection.labels_of(self.counts)[rows]
        first = self._first(rows, form, resources, streams)
        batch = RecoveryBatch(network_of(teacher), first, labels, form, self.recover, streams=streams, device=device)
        if (state := progress.load()) is not None:
            batch.load_state_dict(state)
        saved = time.monotonic()
        while batch.done < self.recover.iterations:
            batch.step()
            if time.monotonic() - saved >= SAVE_SECONDS:
                require_finite(loss=batch.latest.item())  # a diverged state is not saved
                progress.save(batch.state_dict())
                saved = time.monotonic()
        tensors = {"images": batch.quantised().numpy()}
        if batch.snapshots:
            tensors["snapshots"] = torch.stack(batch.snapshots).numpy()
        return tensors, {"losses": batch.losses}

    def _first(self, rows: Tensor, form: InputForm, resources: Resources, streams: Streams) -> Tensor:
        """The pixels that a batch starts from (B, C, H, W), normalised."""
        if self.recover.initial == "noise":
            return torch.randn(len(rows), *self.teacher.image_shape, generator=streams.generator("noise"))
        if self.mosaics is not None:
            return form(mosaics_in(resources.artefacts[MOSAICS])[rows])
        source = resources.sources[self.teacher.source]
        chosen = selection.random_indices(source, self.counts, streams=Streams(self.seed), stream="recovery-real")
        return form(source.take(chosen[rows]))


class RecoveryBatch:
    """Images under recovery: pixels (B, C, H, W) that a teacher is to take for images of `labels` (B,)."""

    def __init__(
        self,
        teacher: nn.Module,
        first: Float[Tensor, "B C H W"],
        labels: Int64[Tensor, " B"],
        form: InputForm,
        settings: RecoverConfig,
        *,
        streams: Streams,
        device: torch.device,
    ) -> None:
        self.teacher = teacher.to(device).eval().requires_grad_(False)
        self.form, self.settings, self.streams = form, settings, streams
        self.labels = labels.to(device)
        # the network inputs of black and of white pixels, for each channel
        self.black, self.white = (
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in zip(
                *(((0 - m) / s, (1 - m) / s) for m, s in zip(form.mean, form.std, strict=True)), strict=True
            )
        )
        self.pixels = first.to(device).clone().requires_grad_()
        self.optimiser = torch.optim.Adam([self.pixels], lr=settings.learning_rate, betas=settings.betas)
        self.matching = StatisticsMatching(self.teacher, first=settings.first_bn)
        self.done, self.latest = 0, torch.zeros(())
        self.losses: list[dict[str, float]] = []
        self.snapshots: list[Tensor] = []  # (B, C, H, W) uint8 each

    def step(self) -> None:
        """One iteration; raises `Diverged` where a recorded loss, every `log_every` iterations, is not finite."""
        settings = self.settings
        if len(self.snapshots) < settings.snapshots * (self.done + 1) / settings.iterations:
            self.snapshots.append(self.quantised())
        rate = 0.5 * (1 + math.cos(math.pi * self.done / settings.iterations)) * settings.learning_rate
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss, parts = self.loss(self.view(self.pixels))
        self.latest = loss.detach()
        (gradient,) = torch.autograd.grad(loss, self.pixels)
        if self.done % settings.log_every == 0 or self.done + 1 == settings.iterations:
            record = {name: part.item() for name, part in {"loss": loss, **parts}.items()}
            require_finite(**record)
            self.losses.append({"iteration": self.done, **record})
        self.pixels.grad = gradient
        self.optimiser.step()
        with torch.no_grad():
            self.pixels.clamp_(self.black, self.white)
        self.done += 1

    def view(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The images as the teacher sees them in this iteration: all with the same crop, mirroring and roll."""
        settings, generator = self.settings, self.streams.generator("view", self.done)
        if settings.crop is not None:
            size = torch.tensor([pixels.shape[2:]])
            scale = (self.smallest_crop(), settings.crop[1])
            box = views.draw_boxes(size, scale=scale, ratio=(3 / 4, 4 / 3), generator=generator)
            top, left, height, width = box[0].tolist()
            part = pixels[:, :, top : top + height, left : left + width]
            pixels = F.interpolate(part, size=pixels.shape[2:], mode="bilinear", align_corners=False)
        if bool(torch.rand((), generator=generator) < 0.5) and settings.flip:
            pixels = pixels.flip(3)
        low, high = settings.jitter
        down, right = torch.randint(low, high + 1, (2,), generator=generator).tolist()
        return torch.roll(pixels, (down, right), dims=(2, 3)) if down or right else pixels

    def smallest_crop(self) -> float:
        """The least fraction of the area that this iteration's crop may show: CDA's curriculum (Yin and Shen 2023)."""
        assert self.settings.crop is not None
        smallest, until = self.settings.crop[0], self.settings.curriculum * self.settings.iterations
        if self.done >= until:
            return smallest
        return smallest + (1 - smallest) * 0.5 * (1 + math.cos(math.pi * self.done / until))

    def loss(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss, a scalar, and its terms by name before they are weighted."""
        settings = self.settings
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=settings.amp), self.matching:
            logits = self.teacher(images)
        parts = {
            "classification": F.cross_entropy(logits.float(), self.labels),
            "statistics": self.matching.distance(),
        }
        loss = parts["classification"] + settings.r_bn * parts["statistics"]
        for name, weight, penalty in (("tv", settings.tv, total_variation), ("l2", settings.l2, mean_norm)):
            if weight:
                parts[name] = penalty(images)
                loss = loss + weight * parts[name]
        return loss, parts

    @torch.no_grad()
    def quantised(self) -> Tensor:
        """(B, C, H, W) uint8 raw pixels on the CPU."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.form.mean, self.form.std))
        return ((self.pixels.detach().cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` goes on from."""
        return {
            "done": self.done,
            "pixels": self.pixels.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
            "losses": list(self.losses),
            "snapshots": list(self.snapshots),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.done, self.losses = state["done"], list(state["losses"])
        self.snapshots = list(state["snapshots"])
        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
        self.optimiser.load_state_dict(state["optimiser"])


def recovered(artefact: Artefact) -> Tensor:
    """(N, C, H, W) uint8: the recovered images, class-major."""
    spec = artefact.spec
    assert isinstance(spec, RecoverySpec)
    images = torch.empty(sum(spec.counts), *spec.teacher.image_shape, dtype=torch.uint8)
    for index, (tensors, _) in enumerate(artefact):
        images[spec.rows(index)] = torch.from_numpy(tensors["images"].copy())
    return images


def snapshots(artefact: Artefact) -> Tensor:
    """(S, N, C, H, W) uint8: the kept intermediate states of the images, and the finished images last; class-major."""
    spec = artefact.spec
    assert isinstance(spec, RecoverySpec)
    frames = torch.empty(0, dtype=torch.uint8)
    for index, (tensors, _) in enumerate(artefact):
        kept = torch.from_numpy(np.concatenate([tensors["snapshots"], tensors["images"][None]]))
        if not index:
            frames = torch.empty(len(kept), sum(spec.counts), *spec.teacher.image_shape, dtype=torch.uint8)
        frames[:, spec.rows(index)] = kept
    return frames
