"""How a loop trains: optimiser, schedule of the learning rate, order of steps, augmentation and loss.

Recipes of sets, and the configs of experts, teachers and pre-training, all become `Settings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dd_core.recipe import BETAS, LossName, Recipe, ScheduledStep
from dd_core.training.lars import LARS

Schedule = Literal["constant", "step", "cosine", "halving", "decay"]


@dataclass(frozen=True)
class Settings:
    """The settings of a training loop.

    schedule: `step` and `decay` multiply the rate by 0.1 in the second half, `step` with a new optimiser; `halving`
    multiplies the rate by 0.5 every `halve_every` epochs; `cosine` takes it to zero. warmup: epochs of linear warm-up.
    steps: a learned order, which replaces epochs, rates and mini-batches; every step then counts as an epoch.
    autocast: whether forward passes are in mixed precision (bfloat16). loss_called: the name of the loss in errors.
    check_every: epochs between two checks that the loss is finite, each of which waits for a GPU; 0: no checks.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    optimiser: Literal["sgd", "adam", "adamw", "lars", "descent"] = "sgd"
    momentum: float = 0.0
    betas: tuple[float, float] = BETAS
    weight_decay: float = 0.0
    decayed: Literal["all", "matrices"] = "all"
    schedule: Schedule = "constant"
    halve_every: int = 1
    warmup: int = 0
    augmentation: str = "none"
    align_corners: bool = True
    loss: LossName = "cross-entropy"
    temperature: float = 1.0
    steps: tuple[ScheduledStep, ...] = ()
    autocast: bool = False
    loss_called: str = "training loss"
    check_every: int = 1

    @staticmethod
    def of(recipe: Recipe) -> Settings:
        """The settings of a recipe; with learned steps, plain gradient descent without augmentation."""
        if recipe.steps:
            return Settings(
                learning_rate=recipe.steps[0].learning_rate,
                epochs=len(recipe.steps),
                batch_size=recipe.batch_size,
                optimiser="descent",
                loss=recipe.loss,
                temperature=recipe.temperature,
                steps=recipe.steps,
                check_every=0,
            )
        return Settings(
            learning_rate=recipe.learning_rate,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            optimiser=recipe.optimiser,
            momentum=recipe.momentum,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            decayed=recipe.decayed,
            schedule=recipe.schedule,
            warmup=recipe.warmup,
            augmentation=recipe.augmentation,
            align_corners=recipe.align_corners,
            loss=recipe.loss,
            temperature=recipe.temperature,
            check_every=50,
        )

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        if self.steps:
            return self.steps[epoch].learning_rate
        if epoch < self.warmup:
            return self.learning_rate * (epoch + 1) / (self.warmup + 1)
        if self.schedule == "cosine":
            angle = math.pi * (epoch - self.warmup) / (self.epochs - self.warmup)
            return self.learning_rate * 0.5 * (1 + math.cos(angle))
        if self.schedule == "halving":
            return self.learning_rate * 0.5 ** (epoch // self.halve_every)
        late = {"step": epoch >= self._drop, "decay": epoch > self.epochs // 2}
        return self.learning_rate * (0.1 if late.get(self.schedule, False) else 1.0)

    def restarts(self, epoch: int) -> bool:
        """Whether an epoch begins with a new optimiser, without momentum yet, as in the MTT family's evaluation."""
        return self.schedule == "step" and epoch == self._drop

    @property
    def _drop(self) -> int:
        return (self.epochs - 1) // 2 + 2

    def optimiser_of(self, parameters: Iterable[Tensor], *, rate: float) -> torch.optim.Optimizer:
        """A new optimiser of `parameters` at the learning rate `rate`."""
        if self.optimiser == "descent":
            return PlainDescent(parameters, rate=rate)
        if self.optimiser == "lars":
            return LARS(parameters, rate=rate, momentum=self.momentum, weight_decay=self.weight_decay)
        groups = self._groups(parameters)
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)
        kind = torch.optim.AdamW if self.optimiser == "adamw" else torch.optim.Adam
        return kind(groups, lr=rate, betas=self.betas, weight_decay=self.weight_decay)

    def _groups(self, parameters: Iterable[Tensor]) -> Iterable[Any]:
        """The parameters for an optimiser: two groups where some do not decay."""
        if self.decayed == "all":
            return parameters
        parameters = list(parameters)
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


class PlainDescent(torch.optim.Optimizer):
    """w <- w - rate g, in the same operations as the inner step of distillation, which torch's SGD may fuse."""

    def __init__(self, parameters: Iterable[Tensor], *, rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step along the parameters' gradients; `closure` is ignored."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad
