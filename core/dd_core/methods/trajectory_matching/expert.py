"""One expert in training: a network that learns from real images, and whose weights are kept after epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dd_core.methods.trajectory_matching.expert_training import Training
from dd_core.methods.trajectory_matching.gsam import flat_gradient
from dd_core.streams import Streams
from dd_core.training import Loop, RealLessons, Settings

SLOW_SECONDS = 4.0  # where timed steps took this long, no further one is timed


class Expert:
    """`model` in training as `training` says; `keeps(n)` tells whether the weights after n epochs are kept."""

    def __init__(
        self,
        model: nn.Module,
        lessons: RealLessons,
        training: Training,
        *,
        keeps: Callable[[int], bool],
        streams: Streams,
        device: torch.device,
    ) -> None:
        self.training, self.keeps = training, keeps
        self.losses: list[float] = []  # mean loss of each epoch
        self.kept: list[np.ndarray] = []  # flat weights (P,), as `packed` has them
        self.loop = Loop(
            model,
            lessons,
            settings_of(training),
            streams=streams,
            device=device,
            gradient=None if training.sharpness is None else partial(flat_gradient, sharpness=training.sharpness),
            after_epoch=self._after_epoch,
        )
        self._keep(0)

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return self.loop.done

    def steps(self) -> Iterator[Tensor]:
        """One pass over the real images, a step at a time; raises `Diverged` where the loss stops being finite."""
        return self.loop.steps(self.epochs + 1)

    def seconds_a_step(self) -> float:
        """Seconds of a step: the mean of 1 to 3 steps after a first, uncounted one. The weights change."""
        rows, times = self.loop.mini_batches()[0], list[float]()
        while len(times) < 2 or (len(times) < 4 and sum(times) < SLOW_SECONDS):
            begun = time.monotonic()
            self.loop.step(rows).item()
            times.append(time.monotonic() - begun)
        return sum(times[1:]) / len(times[1:])

    def _after_epoch(self, epochs: int) -> None:
        self.losses.append(self.loop.mean_loss)
        self._keep(epochs)

    def _keep(self, epochs: int) -> None:
        if self.keeps(epochs):
            flat = nn.utils.parameters_to_vector(self.loop.model.parameters()).detach().cpu()
            self.kept.append(packed(flat, self.training.dtype))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` goes on from."""
        return {**self.loop.state_dict(), "losses": self.losses, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`; None: begin at epoch 0."""
        if state is not None:
            self.losses, self.kept = list(state["losses"]), list(state["kept"])
            self.loop.load_state_dict(state)


def settings_of(training: Training) -> Settings:
    """How a loop trains an expert: SGD, at a constant rate or, with `decay`, at a lower one past the middle epoch."""
    return Settings(
        learning_rate=training.learning_rate,
        epochs=training.epochs,
        batch_size=training.batch_size,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        schedule="decay" if training.decay else "constant",
        augmentation=training.augmentation,
        loss_called="loss of an expert",
    )


def packed(flat: Tensor, dtype: str) -> np.ndarray:
    """Weights as a numpy array: float32, or the bits of bfloat16 as int16, as numpy has no bfloat16."""
    return flat.numpy().copy() if dtype == "float32" else flat.bfloat16().view(torch.int16).numpy().copy()


def unpacked(kept: np.ndarray, dtype: str) -> Tensor:
    """The float32 weights of an array that `packed` made."""
    stored = torch.tensor(kept)
    return stored if dtype == "float32" else stored.view(torch.bfloat16).float()
