"""Fine-tuning on the memory alone, which is balanced over classes, after each experience.

This is balanced fine-tuning of End-to-End Incremental Learning (Castro et al., ECCV 2018, section 4.3), with a memory
of any kind: it removes the bias towards the classes of the last experience.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import default_collate

from dd_apps.continual.adapter import SupervisedPlugin, avalanche_forward, concat_datasets
from dd_apps.continual.config import Replay, Retraining
from dd_apps.continual.strategies.memories import Memory
from dd_apps.continual.strategies.stepping import Augmentation
from dd_core.streams import Streams


def tuning(settings: Retraining | Replay, memory: Memory | None, *, seed: int) -> Iterator[Any]:
    """The plugin, if the settings ask for it and there is a memory; it must come after the plugin that updates that."""
    if isinstance(settings, Replay) and settings.tuning_epochs and memory is not None:
        yield Tuning(settings, memory, seed=seed)


class Tuning(SupervisedPlugin[Any]):
    """`tuning_epochs` passes over the memory after each experience, each stored image once in a pass."""

    def __init__(self, settings: Replay, memory: Memory, *, seed: int) -> None:
        super().__init__()
        self.settings, self.memory, self.seed = settings, memory, seed

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Tune the strategy's network, by its criterion, with an optimiser of its own."""
        del kwargs
        settings, streams = self.settings, Streams(self.seed).child("tuning", strategy.clock.train_exp_counter)
        items = concat_datasets([group.buffer for group in self.memory.buffer_groups.values()])
        augmentations = [plugin for plugin in strategy.plugins if isinstance(plugin, Augmentation)]
        optimiser = torch.optim.SGD(
            strategy.model.parameters(),
            lr=settings.tuning_rate or settings.learning_rate / 10,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        strategy.model.train()
        for epoch in range(settings.tuning_epochs):
            order = torch.randperm(len(items), generator=streams.generator("order", epoch))
            # mini-batches of nearly equal size: a batch norm cannot take a single image
            for rows in order.tensor_split(-(-len(items) // settings.batch_size_mem)):
                strategy.mbatch = [
                    part.to(strategy.device) for part in default_collate([items[row] for row in rows.tolist()])
                ]
                for augmentation in augmentations:
                    (strategy.mbatch[0],) = augmentation.transformed(strategy.mbatch[0])
                images, _, *tasks = strategy.mbatch
                optimiser.zero_grad()
                strategy.mb_output = avalanche_forward(strategy.model, images, *(tasks or [None]))
                strategy.criterion().backward()
                optimiser.step()
