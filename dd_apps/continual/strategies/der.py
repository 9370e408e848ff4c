"""DER++: replay with the logits that the network gave for the memory's images (Buzzega et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dd_apps.continual.adapter import warnings_contained
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.plug import use_buffer
from dd_apps.continual.rows import DerStrategy
from dd_apps.continual.strategies.learning import Learning
from dd_apps.continual.strategies.stepping import Augmentation

with warnings_contained():
    from avalanche.training.supervised import DER


class AugmentedDer(DER):
    """DER that augments memory images as current images: Avalanche's DER adds them after the plugins have run."""

    augmentations: Sequence[Augmentation] = ()

    def _before_forward(self, **kwargs: Any) -> None:
        super()._before_forward(**kwargs)
        for augmentation in self.augmentations:
            augmentation.before_forward(self)


def build(learning: Learning) -> Any:
    """The strategy, with a distilled memory or Avalanche's class-balanced memory of images and logits.

    In Avalanche's memory the classes seen so far share all of the room. Avalanche replays full mini-batches only, so a
    memory that is smaller than a mini-batch, and not filled, makes the mini-batches smaller.
    """
    config, memory = learning.config, learning.memory
    assert isinstance(config, DerStrategy)
    room = learning.room if memory is None else max(memory.max_size, memory.fill or 0)
    late = [plugin for plugin in learning.plugins if isinstance(plugin, Augmentation)]
    others = replace(learning, plugins=tuple(plugin for plugin in learning.plugins if plugin not in late))
    strategy = AugmentedDer(
        model=learning.network,
        criterion=nn.CrossEntropyLoss(),
        mem_size=learning.room if memory is None else memory.max_size,
        batch_size_mem=min(learning.replay.batch_size_mem, room),
        alpha=config.alpha,
        beta=config.beta,
        **others.common(),
    )
    strategy.augmentations = late
    if isinstance(memory, DistilledBuffer):
        use_buffer(strategy, memory)
    return strategy
