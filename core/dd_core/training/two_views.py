"""Training a backbone without labels on two distorted views of each image, with a projector that is dropped later."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dd_core.augment import distortions
from dd_core.errors import require_finite
from dd_core.images import InputForm, Source
from dd_core.streams import Streams
from dd_core.training import objectives
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.settings import Settings


class Learner:
    """A backbone in training on two distorted views of each image; epochs name all random draws."""

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        source: Source,
        form: InputForm,
        config: FeatureTeacherConfig,
        *,
        device: torch.device,
    ) -> None:
        self.config, self.source, self.form, self.device = config, source, form, device
        self.streams = Streams(config.seed).child("feature-teacher")
        self.distortions = config.distortions.for_source(source.name)
        with self.streams.seeded("projector"):
            self.online = nn.Sequential(backbone, projector(config, width)).to(device).train()
            self.predictor = predictor(config).to(device).train()
        followed = self.online if config.objective == "byol" else nn.Sequential()
        self.target = copy.deepcopy(followed).requires_grad_(False)
        self.settings = Settings(
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimiser=config.optimiser,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            schedule="cosine",
            warmup=config.warmup,
        )
        learned = [*self.online.parameters(), *self.predictor.parameters()]
        self.optimiser = self.settings.optimiser_of(learned, rate=self.settings.rate(0))
        self.done, self.loss = 0, math.nan

    def epoch(self) -> None:
        """One epoch of full mini-batches; left-over images are skipped in this epoch. Raises `Diverged`."""
        count, size = len(self.source), (self.source.image_shape[1], self.source.image_shape[2])
        order = torch.randperm(count, generator=self.streams.generator("order", self.done))
        batches = order[: max(count - count % self.config.batch_size, min(count, self.config.batch_size))]
        batches = batches.split(self.config.batch_size)
        records = [
            distortions.draw(
                self.distortions,
                second=bool(view),
                count=count,
                image_size=size,
                generator=self.streams.generator(f"view-{view}", self.done),
            )
            for view in range(2)
        ]
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(self.done)
        total = torch.zeros((), device=self.device)
        with self.streams.seeded("training", self.done):  # for dropout
            for number, rows in enumerate(batches):
                total += self._step(rows, records, part=(self.done + number / len(batches)) / self.config.epochs)
        self.loss = (total / len(batches)).item()
        require_finite(**{"teacher's training loss": self.loss})
        self.done += 1

    def _step(self, rows: Tensor, records: Sequence[distortions.Distorted], *, part: float) -> Tensor:
        """One step on the views of `rows`; part: the fraction of the training that is done."""
        images = self.source.take(rows).to(self.device, non_blocking=True)
        first, second = (self._normalised(distortions.distorted(images, record.of(rows))) for record in records)
        loss = self._loss(first, second)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        if self.config.objective == "byol":
            self._follow(1 - (1 - self.config.tau) * 0.5 * (1 + math.cos(math.pi * part)))
        return loss.detach()

    def _loss(self, first: Tensor, second: Tensor) -> Tensor:
        config, one, other = self.config, self.online(first), self.online(second)
        if config.objective == "barlow-twins":
            return config.loss_scale * objectives.barlow_twins(one, other, off_diagonal=config.off_diagonal)
        if config.objective == "simclr":
            return objectives.nt_xent(one, other, temperature=config.temperature)
        with torch.no_grad():
            aims = self.target(first), self.target(second)
        return objectives.byol(self.predictor(one), aims[1]) + objectives.byol(self.predictor(other), aims[0])

    @torch.no_grad()
    def _follow(self, tau: float) -> None:
        """Move the target network's weights towards the online network's."""
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 1 - tau)

    def _normalised(self, views: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=views.device).view(1, -1, 1, 1) for values in (self.form.mean, self.form.std)
        )
        return (views - mean) / std

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` goes on from, at the end of an epoch."""
        modules = {"online": self.online, "predictor": self.predictor, "target": self.target}
        states = {name: module.state_dict() for name, module in modules.items()}
        return {"done": self.done, "loss": self.loss, "optimiser": self.optimiser.state_dict(), **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.done, self.loss = state["done"], state["loss"]
        self.optimiser.load_state_dict(state["optimiser"])
        for name in ("online", "predictor", "target"):
            getattr(self, name).load_state_dict(state[name])


def projector(config: FeatureTeacherConfig, width: int) -> nn.Sequential:
    """The projector between backbone and objective, as in solo-learn: 3 linear layers, or 2 for SimCLR and BYOL."""
    hidden, last = config.projector
    if config.objective == "simclr":
        return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, last))
    first = [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
    if config.objective == "byol":
        return nn.Sequential(*first, nn.Linear(hidden, last))
    return nn.Sequential(*first, nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, last))


def predictor(config: FeatureTeacherConfig) -> nn.Sequential:
    """BYOL's predictor, from the online projection of a view to the target projection of the other; else nothing."""
    hidden, last = config.projector
    if config.objective != "byol":
        return nn.Sequential()
    return nn.Sequential(nn.Linear(last, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, last))
