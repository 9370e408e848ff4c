"""The networks that KRR-ST distils for: each of another age, and learning the synthetic images as these change."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dd_core import training
from dd_core.errors import Diverged, require_finite
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.training import RegressionData, Settings
from dd_core.training.loop import Gradients, LossAt

PoolRule = Literal["paper", "as-shipped"]


class Pool:
    """`count` networks for images (C, H, W) with as many outputs as `targets` has columns.

    A network takes full-batch steps of `recipe` on (pixels, targets), which are looked at as they are at each step. At
    the start network i has taken 1 to `oldest` steps. A network that has taken `oldest` steps is replaced by a fresh
    one: by the rule `paper` the fresh one grows old in turn; `as-shipped`, as the published code has it, its age is not
    forgotten, so that every further step replaces it again.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        pixels: Tensor,
        targets: Tensor,
        count: int,
        oldest: int,
        rule: PoolRule,
        streams: Streams,
        device: torch.device,
    ) -> None:
        self.recipe, self.oldest, self.rule = recipe, oldest, rule
        self.streams, self.device = streams, device
        self.lessons = RegressionData(pixels.detach(), targets.detach())  # not copies: they change with the pixels
        self.rows = torch.arange(len(pixels))
        self.drawn = [0] * count  # fresh networks so far, in the place of each
        self.ages = [0] * count
        self.loops = [self._fresh(index) for index in range(count)]

    def grow_up(self) -> None:
        """Take the steps that each network has taken at the start."""
        first = torch.randint(1, self.oldest + 1, (len(self.ages),), generator=self.streams.generator("ages"))
        for index, age in enumerate(first.tolist()):
            for _ in range(age):
                self._learn(index)

    def network(self, index: int) -> nn.Module:
        """Network `index` in evaluation mode."""
        return self.loops[index].model.eval()

    def age(self, index: int) -> int:
        """How many steps network `index` has taken; a fresh one none, whatever the rule counts."""
        return self.loops[index].done

    def advance(self, index: int) -> None:
        """One step of network `index`, or a fresh one in its place."""
        if self.ages[index] < self.oldest:
            self._learn(index)
            return
        self.drawn[index] += 1
        self.loops[index] = self._fresh(index)
        if self.rule == "paper":
            self.ages[index] = 0

    def _learn(self, index: int) -> None:
        """One step; raises `Diverged` with the network as it was before."""
        loop = self.loops[index]
        buffers = [(buffer, buffer.clone()) for buffer in loop.model.train().buffers()]
        try:
            loop.step(self.rows)
        except Diverged:
            for buffer, before in buffers:
                buffer.copy_(before)
            raise
        loop.end_epoch()
        self.ages[index] += 1

    def _fresh(self, index: int) -> training.Loop:
        streams = self.streams.child(f"network-{index}", self.drawn[index])
        lessons = self.lessons
        model = training.initialised(self.recipe, lessons.image_shape, lessons.outputs, streams=streams)
        settings = Settings(
            learning_rate=self.recipe.learning_rate,
            epochs=self.oldest,
            batch_size=len(self.rows),
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
            decayed=self.recipe.decayed,
            loss="mse",
            check_every=0,  # `_finite_gradient` looks before every update
        )
        hook = partial(_finite_gradient, model)
        return training.Loop(model, lessons, settings, streams=streams, device=self.device, gradient=hook)

    def state_dict(self) -> dict[str, Any]:
        """Ages, and networks with their optimisers."""
        loops = [loop.state_dict() for loop in self.loops]
        return {"ages": list(self.ages), "drawn": list(self.drawn), "loops": loops}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of `state_dict`."""
        self.ages, self.drawn = list(state["ages"]), list(state["drawn"])
        self.loops = [self._fresh(index) for index in range(len(self.ages))]
        for loop, one in zip(self.loops, state["loops"], strict=True):
            loop.load_state_dict(one)


def _finite_gradient(model: nn.Module, loss_at: LossAt, theta: Gradients) -> tuple[Tensor, Gradients]:
    """The loss and its gradient; raises `Diverged` where they or the statistics of batch norms are not finite."""
    loss = loss_at(theta)
    gradients = torch.autograd.grad(loss, theta)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    statistics = torch.stack([buffer.float().sum() for buffer in model.buffers()] or [norm]).sum()
    require_finite(**{"pool's loss": loss.item(), "gradient": norm.item(), "batch norms": statistics.item()})
    return loss, gradients
