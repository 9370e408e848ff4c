"""Plugins for every strategy: augmentation of mini-batches, and the schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from dd_apps.continual.adapter import warnings_contained
from dd_apps.continual.config import Replay, Retraining
from dd_core.augment import dsa
from dd_core.augment.names import resolve_strategy
from dd_core.streams import generator
from dd_core.training.settings import Settings

with warnings_contained():
    from avalanche.core import SupervisedPlugin


def stepping(settings: Retraining | Replay, *, data: str, seed: int) -> Iterator[Any]:
    """The plugins that the settings ask for; the data set's name `data` decides what the augmentation `auto` is."""
    kinds = resolve_strategy(settings.augmentation, data)
    if kinds != "none":
        yield Augmentation(kinds, seed=seed)
    if settings.schedule != "constant":
        yield Rates(settings)


class Augmentation(SupervisedPlugin):
    """DSA of every mini-batch: one kind of transform for each batch, drawn anew for each image (Zhao, Bilen 2021)."""

    def __init__(self, kinds: str, *, seed: int) -> None:
        super().__init__()
        self.kinds, self.seed, self.step = kinds, seed, 0

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Transform the images of the mini-batch, those of the memory among them."""
        del kwargs
        two = getattr(strategy, "replay_loader", None) is not None and hasattr(strategy, "mb_buffer_x")
        batches = [strategy.mbatch[0], strategy.mb_buffer_x] if two else [strategy.mbatch[0]]  # ER-ACE has two
        strategy.mbatch[0], *buffers = self.transformed(*batches)
        if buffers:
            (strategy.mb_buffer_x,) = buffers

    def transformed(self, *batches: Tensor) -> list[Tensor]:
        """The batches of one step, augmented with draws of the same generator one after the other."""
        draws = generator(self.seed, "augmentation", self.step)
        self.step += 1
        return [dsa(images, self.kinds, generator=draws) for images in batches]


class Rates(SupervisedPlugin):
    """Sets the learning rate of each epoch of an experience, and resets the optimiser where the schedule says so."""

    def __init__(self, settings: Retraining | Replay) -> None:
        super().__init__()
        self.course = Settings(
            learning_rate=settings.learning_rate,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=settings.schedule,
        )

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Set the rate of the epoch that begins."""
        del kwargs
        epoch = strategy.clock.train_exp_epochs
        for group in strategy.optimizer.param_groups:
            group["lr"] = self.course.rate(epoch)
        if self.course.restarts(epoch):
            strategy.optimizer.state.clear()  # momentum starts over
