"""The training loop: all training of networks on real images, or on a finished set, is done by `Loop`.

    loop = Loop(model, lessons, settings, streams=streams, device=device)
    loop.run()

Every epoch shuffles the images anew and takes them in mini-batches, each with its own random augmentation (DSA). Epoch
and step name all draws, so a loop that loads a state, saved after an epoch or between two steps, goes on to the same
bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from dd_core import augment
from dd_core.errors import require_finite
from dd_core.streams import Streams
from dd_core.system.ranks import Rank
from dd_core.training import losses
from dd_core.training.lessons import Foreseeing, Lessons, Stateful, block_rows
from dd_core.training.own_augmentation import Augmentation, augmented
from dd_core.training.settings import Settings

Gradients = tuple[Tensor, ...]
LossAt = Callable[[Gradients], Tensor]
GradientHook = Callable[[LossAt, Gradients], tuple[Tensor, Gradients]]


class Loop:
    """A network in training: `model` learns `lessons` as `settings` say, in place and on `device`.

    gradient: `(loss_at, theta) -> (loss, gradients)` at the parameters theta, instead of the plain gradient; it may
    call `loss_at` for the mini-batch's loss at other weights. after_epoch: called with the number of finished epochs.
    rank: this process among several that train the network together, each by a loop of its own; such loops take the
    plain gradient, without DSA. augmentation: a program's own function, instead of the settings' DSA.
    """

    def __init__(
        self,
        model: nn.Module,
        lessons: Lessons,
        settings: Settings,
        *,
        streams: Streams,
        device: torch.device,
        gradient: GradientHook | None = None,
        after_epoch: Callable[[int], object] | None = None,
        rank: Rank | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        assert rank is None or (gradient is None and augmentation is None and settings.augmentation == "none")
        self.model, self.lessons = model.to(device).train(), lessons.to(device)
        self.settings, self.streams, self.device = settings, streams, device
        self.gradient, self.after_epoch, self.rank = gradient, after_epoch, rank
        self._own_augmentation = augmentation
        self._network = self.model if rank is None else rank.together(self.model)
        self.loss = losses.named(settings.loss, temperature=settings.temperature)
        self.optimiser = settings.optimiser_of(self.model.parameters(), rate=settings.rate(0))
        self.done = 0  # finished epochs
        self._draws = draws_numbers(self.model)
        self._blocks = _blocks(settings, self.lessons)
        self._begun = False
        self._sizes: list[int] = []  # sizes of the present epoch's mini-batches so far
        self._total = torch.zeros((), device=device)
        self._transforms = streams.generator("augmentation")

    # --- epochs -----------------------------------------------------------------------------------------------------

    def run(self, until: int | None = None) -> None:
        """Train until `until` epochs are finished; None: `settings.epochs`.

        Raises `Diverged` where the loss stops being finite.
        """
        for _ in self.steps(until):
            pass

    def steps(self, until: int | None = None) -> Iterator[Tensor]:
        """Train as `run` does, a mini-batch at a time; gives the loss of each step, a scalar.

        Between steps, torch's global generator is the one of this training.
        """
        # so that a layer whose draws `draws_numbers` misses does not use the caller's generator
        with self.streams.seeded("training", self.done):
            while self.done < (self.settings.epochs if until is None else until):
                batches = self.mini_batches()
                with self._ahead(batches):
                    for rows in batches:
                        yield self.step(rows)
                self.end_epoch()

    def epoch(self) -> None:
        """Train to the end of the present epoch."""
        self.run(self.done + 1)

    def mini_batches(self) -> Sequence[Int64[Tensor, " n"]]:
        """Rows of the present epoch's mini-batches that are still to come; the last one may be smaller."""
        if self._blocks:
            batches: Sequence[Tensor] = [self._blocks[self.settings.steps[self.done].step]]
        else:
            order = torch.randperm(len(self.lessons), generator=self.streams.generator("order", self.done))
            batches = order.split(self.settings.batch_size)
        return batches[len(self._sizes) :] if self._begun else batches

    def _ahead(self, batches: Sequence[Tensor]) -> AbstractContextManager[object]:
        if not isinstance(self.lessons, Foreseeing):
            return nullcontext()
        return self.lessons.ahead(map(self._part, batches), epoch=self.done)

    def _part(self, rows: Tensor) -> Tensor:
        return rows if self.rank is None else self.rank.part(rows)

    def end_epoch(self) -> None:
        """Count the present epoch as finished; to be called by programs that call `step` with rows of their own."""
        self.done, self._begun = self.done + 1, False
        every = self.settings.check_every
        if every and (self.done % every == 0 or self.done == self.settings.epochs):
            require_finite(**{self.settings.loss_called: self.mean_loss})
        if self.after_epoch is not None:
            self.after_epoch(self.done)

    @property
    def mean_loss(self) -> float:
        """Mean loss over the images of the present epoch so far, or of the last epoch; NaN before the first step."""
        return self._total.item() / sum(self._sizes) if self._sizes else math.nan

    # --- steps ------------------------------------------------------------------------------------------------------

    def step(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        """One step of the optimiser on the images `rows`; returns the loss before the step, a scalar."""
        if not self._begun:
            self._begin_epoch()
        part = self._part(rows)
        inputs, targets = self.lessons.batch(part, epoch=self.done, index=len(self._sizes))
        inputs = self._views(inputs)
        with self._named_draws():
            loss = self._backward(inputs, targets, share=len(part) / len(rows))
        self.optimiser.step()
        self._sizes.append(len(rows))
        self._total += loss * len(rows)
        return loss

    def _begin_epoch(self) -> None:
        rate = self.settings.rate(self.done)
        if self.settings.restarts(self.done):
            self.optimiser = self.settings.optimiser_of(self.model.parameters(), rate=rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._sizes, self._total, self._begun = [], torch.zeros((), device=self.device), True
        self._transforms = self.streams.generator("augmentation", self.done)

    def _views(self, inputs: Tensor) -> Tensor:
        settings = self.settings
        if self._own_augmentation is not None:
            streams = self.streams.child("training", self.done)
            return augmented(self._own_augmentation, inputs, streams=streams, step=len(self._sizes))
        if settings.augmentation == "none":
            return inputs
        return augment.dsa(
            inputs, settings.augmentation, generator=self._transforms, align_corners=settings.align_corners
        )

    def _backward(self, inputs: Tensor, targets: Tensor, *, share: float) -> Tensor:
        """Set each parameter's gradient for the step; returns the loss, detached.

        share: the part of the mini-batch that `inputs` are; other processes have the rest.
        """
        if self.gradient is None:
            with self._precision():
                loss = self.loss(self._network(inputs), targets)
            self.optimiser.zero_grad(set_to_none=True)
            if self.rank is None:
                loss.backward()
                return loss.detach()
            (loss * (share * self.rank.count)).backward()  # gradients are averaged, by the number of processes
            return self.rank.total(loss.detach() * share)
        names, theta = zip(*self.model.named_parameters(), strict=True)

        def loss_at(weights: Gradients) -> Tensor:
            values = dict(zip(names, weights, strict=True))
            with self._precision():
                return self.loss(functional_call(self.model, values, (inputs,)), targets)

        loss, gradients = self.gradient(loss_at, theta)
        for parameter, gradient in zip(theta, gradients, strict=True):
            parameter.grad = gradient
        return loss.detach()

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.settings.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _named_draws(self) -> AbstractContextManager[Any]:
        # Dropout draws from torch's global generator. With an accelerator, seeding it takes as long as a small
        # network's step, so it is seeded only for networks that draw; at every step, so that any step can be resumed.
        if not self._draws:
            return nullcontext()
        streams = self.streams.child("training", self.done)
        streams = streams if self.rank is None else streams.child("rank", self.rank.index)
        return streams.seeded("step", len(self._sizes))

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on exactly here, between any two steps."""
        state: dict[str, Any] = {
            "epoch": self.done,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self._begun:
            state["within"] = {"sizes": list(self._sizes), "total": self._total.clone()}
        if isinstance(self.lessons, Stateful):
            state["lessons"] = self.lessons.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`, of a loop with the same lessons, settings and streams."""
        self.done, self._begun = state["epoch"], False
        self.model.load_state_dict(state["model"])
        if isinstance(self.lessons, Stateful):
            self.lessons.load_state_dict(state["lessons"])
        if "within" in state:
            self._begin_epoch()
            self._total, sizes = state["within"]["total"].to(self.device).clone(), state["within"]["sizes"]
            for size in sizes:
                self._skip_view(size)
            self._sizes = list(sizes)
        self.optimiser.load_state_dict(state["optimiser"])

    def _skip_view(self, rows: int) -> None:
        """Repeat the augmentation's draws for an earlier mini-batch of `rows` images."""
        if self.settings.augmentation != "none" and self._own_augmentation is None:
            _, height, width = self.lessons.image_shape
            augment.draw_parameters(
                self.settings.augmentation, rows=rows, image_size=(height, width), generator=self._transforms
            )


def draws_numbers(model: nn.Module) -> bool:
    """Whether a network in training mode draws random numbers: dropout, stochastic depth."""
    return any(
        type(module).__name__.startswith(("Drop", "StochasticDepth")) or getattr(module, "dropout", 0.0)
        for module in model.modules()
    )


def _blocks(settings: Settings, lessons: Lessons) -> list[Tensor]:
    """Rows of each block of a learned order; raises `UserError` where images do not divide into equal blocks."""
    if not settings.steps:
        return []
    labels = torch.zeros(len(lessons), dtype=torch.int64) if lessons.labels is None else lessons.labels.cpu()
    return block_rows(labels, 1 + max(step.step for step in settings.steps))
