"""Training by a number of steps in `training.Loop`, with a learning rate of the schedule for each step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from dd_core.streams import Streams
from dd_core.system.reporter import Stage
from dd_core.training import Loop


def take_steps(loop: Loop, *, batch_size: int, stage: Stage | None = None) -> None:
    """Train for as many steps as the loop's settings have epochs: an epoch of the schedule is one step.

    Each pass over all images has an order of its own; the last mini-batch of a pass may be smaller.
    `stage` hears of each step. Raises `Diverged`.
    """
    steps = loop.settings.epochs
    with loop.streams.seeded("training"):
        for _, rows in zip(range(steps), mini_batches(len(loop.lessons), batch_size, loop.streams), strict=False):
            loop.step(rows)
            loop.end_epoch()
            if stage is not None:
                stage.advance()


def mini_batches(images: int, size: int, streams: Streams) -> Iterator[Int64[Tensor, " n"]]:
    """Rows of mini-batches, pass after pass, without end."""
    passes = 0
    while True:
        yield from torch.randperm(images, generator=streams.generator("order", passes)).split(size)
        passes += 1
