"""The pool of networks that KRR-ST distils for: of different ages, they learn the synthetic images as these change."""

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

    Networks take full-batch steps of `recipe` on the present pixels and targets. At the start each network has taken
    a random number of steps, from 1 to `oldest`. A network that has taken `oldest` steps is replaced by a fresh one. By
    the rule `paper` the fresh network takes `oldest` steps in turn; by `as-shipped`, as in the published code, the
    count of steps is not reset, so that every further step replaces the network again.
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
        self.drawn = [0] * count  # how often each network was replaced
        self.ages = [0] * count
        self.loops = [self._fresh(index) for index in range(count)]

    def grow_up(self) -> None:
        """Train each network for its random number of initial steps."""
        first = torch.randint(1, self.oldest + 1, (len(self.ages),), generator=self.streams.generator("ages"))
        for index, age in enumerate(first.tolist()):
            for _ in range(age):
                self._learn(index)

    def network(self, index: int) -> nn.Module:
        """Network `index` in evaluation mode."""
        return self.loops[index].model.eval()

    def age(self, index: int) -> int:
        """How many steps network `index` has taken; 0 for a fresh network, whatever `ages` counts for the rule."""
        return self.loops[index].done

    def advance(self, index: int) -> None:
        """Train network `index` for one step, or replace it by a fresh one."""
        if self.ages[index] < self.oldest:
            self._learn(index)
            return
        self.drawn[index] += 1
        self.loops[index] = self._fresh(index)
        if self.rule == "paper":
            self.ages[index] = 0

    def _learn(self, index: int) -> None:
        """One step of network `index`; where it raises `Diverged`, the network is as before the step."""
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
        """Go on from a state of `state_dict`."""
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
