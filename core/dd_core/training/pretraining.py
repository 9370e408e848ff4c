"""Pre-training on real images, before a network meets a distilled set (Wang et al. 2018, section 3.3)."""

from __future__ import annotations

import torch
from torch import nn

from dd_core.images import InputForm, Source
from dd_core.recipe import Pretraining
from dd_core.streams import Streams
from dd_core.training.lessons import RealLessons
from dd_core.training.loop import Loop
from dd_core.training.settings import Settings


def pretrain(
    model: nn.Module, source: Source, pretraining: Pretraining, *, streams: Streams, device: torch.device
) -> float:
    """Train `model` in place on normalised real images; returns the mean loss of the last epoch.

    Adam with betas (0.5, 0.999), as in Wang et al.'s code. Raises `UserError` for a source without labels, and
    `Diverged` where the loss stops being finite.
    """
    settings = Settings(
        learning_rate=pretraining.learning_rate,
        epochs=pretraining.epochs,
        batch_size=pretraining.batch_size,
        optimiser="adam",
        betas=(0.5, 0.999),
        schedule="halving",
        halve_every=pretraining.decay_every,
        loss_called="pre-training loss",
    )
    lessons = RealLessons(source, InputForm.of(source))
    loop = Loop(model, lessons, settings, streams=streams, device=device)
    loop.run()
    model.eval()
    return loop.mean_loss
