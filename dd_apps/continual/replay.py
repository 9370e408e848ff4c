"""`SoftLabelReplay`: replay of memory images with soft labels; Avalanche's ReplayPlugin learns hard labels only.

    memory = DistilledBuffer(max_size=10, images_per_class=1, labels="network")
    strategy = Naive(..., plugins=[SoftLabelReplay(memory, batch_size_mem=32)])

A mini-batch of n current and m memory images goes through the network at once, so that batch norms see both. The loss
is that of ReplayPlugin with another term for memory images:

    1 / (n + m) [ n L(current) + m weight L_memory ]

L is the strategy's criterion, L_memory the loss of the memory's recipe at its temperature, both means over images. With
hard labels and weight 1 the loss is ReplayPlugin's. A memory with a bank shows its views in place of its images. Views
are cut after the transforms for evaluation: a random transform for training would make views that no teacher labelled.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import default_collate

from dd_apps.continual.adapter import AvalancheDataset, SupervisedPlugin
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.memory.showing import ShownViews
from dd_apps.continual.memory.soft_labels import aligned
from dd_core.errors import UserError
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.training import losses


class SoftLabelReplay(SupervisedPlugin[Any]):
    """Mixes memory images into each mini-batch, with the targets that the memory's `labels` stand for.

    The memory's part of a mini-batch is always full: its images come in random order, all of them before any comes
    again. Metrics are of current images only. `storage_policy` is updated after each experience.
    """

    def __init__(
        self, storage_policy: DistilledBuffer, *, batch_size_mem: int, weight: float = 1.0, seed: int = 0
    ) -> None:
        """batch_size_mem: memory images in each mini-batch, at least 1. weight: of the memory's loss, above 0.

        Raises `UserError` for other numbers.
        """
        super().__init__()
        if batch_size_mem < 1 or weight <= 0:
            what = f"batch_size_mem={batch_size_mem}" if batch_size_mem < 1 else f"weight={weight}"
            raise UserError(f"SoftLabelReplay needs batch_size_mem of at least 1 and weight above 0, not {what}")
        self.storage_policy, self.batch_size_mem, self.weight, self.seed = storage_policy, batch_size_mem, weight, seed
        self.mem_size = storage_policy.max_size
        self._memory: _Memory | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Prepare to draw from the memory, unless it is still empty."""
        if not self.storage_policy.buffer_groups:
            return
        streams = Streams(self.seed).child("experience", strategy.clock.train_exp_counter)
        self._memory = _Memory(self.storage_policy, self.batch_size_mem, streams)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Append memory images to the mini-batch."""
        if self._memory is None:
            return
        drawn = self._memory.draw()
        strategy.mbatch = [torch.cat([now, part.to(now)]) for now, part in zip(strategy.mbatch, drawn, strict=True)]

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Remove the memory images from the mini-batch, so that criterion and metrics see current images only."""
        if self._memory is None:
            return
        current = len(strategy.mb_y) - self.batch_size_mem
        self._memory.labels = strategy.mbatch[1][current:]
        self._memory.outputs = strategy.mb_output[current:]
        strategy.mbatch = [part[:current] for part in strategy.mbatch]
        strategy.mb_output = strategy.mb_output[:current]

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the mean loss over current images into the mean over all images; terms of other plugins stay."""
        if self._memory is None:
            return
        current = len(strategy.mb_y)
        share = self.batch_size_mem / (current + self.batch_size_mem)
        strategy.loss = strategy.loss + share * (self.weight * self._memory.loss() - strategy.criterion())

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Update the memory with the experience."""
        self._memory = None  # a strategy is saved between experiences, and need not save this
        self.storage_policy.update(strategy, **kwargs)


class _Memory:
    """The memory within one experience, from which mini-batches are drawn."""

    def __init__(self, policy: DistilledBuffer, batch_size: int, streams: Streams) -> None:
        self.groups, self.outputs_of = list(policy.buffer_groups.values()), policy.outputs_of
        self.recipe: Recipe = policy.sets[0].manifest.recipe
        self.kind = policy.sets[0].manifest.targets
        banked = policy.labels == "bank"
        self.views = ShownViews(self.groups, self.recipe, streams) if banked else None
        self.items: AvalancheDataset = policy.items.eval() if banked else policy.items
        losses.require_learnable(self.recipe.loss, self.kind)
        self.batch_size, self.streams, self.drawn = batch_size, streams, 0
        self.rows: list[int] = []
        self.epochs = torch.zeros(0, dtype=torch.int64)  # the bank's epoch of each row's view
        self.labels: Tensor | None = None
        self.outputs: Tensor | None = None
        self._targets: tuple[Tensor, Tensor] | None = None

    def draw(self) -> list[Tensor]:
        """Images, labels and, where there are any, task labels of the next mini-batch."""
        begin = self.drawn * self.batch_size
        self.rows = self._next_rows()
        values = default_collate([self.items[row] for row in self.rows])
        if self.views is not None:
            self.epochs = self.views.epochs(torch.arange(begin, begin + self.batch_size) // len(self.items))
            values[0] = self.views.shown(values[0], torch.tensor(self.rows), self.epochs)
        return list(values[:-1] if self.kind == "logits" else values)

    def _next_rows(self) -> list[int]:
        """The next part of an endless sequence of random orders of all images."""
        count, begin = len(self.items), self.drawn * self.batch_size
        first, last = begin // count, (begin + self.batch_size - 1) // count
        orders = [
            torch.randperm(count, generator=self.streams.generator("order", turn)) for turn in range(first, last + 1)
        ]
        self.drawn += 1
        start = begin - first * count
        return torch.cat(orders)[start : start + self.batch_size].tolist()

    def loss(self) -> Float[Tensor, ""]:
        """The loss of the memory images that were drawn last."""
        assert self.outputs is not None
        assert self.labels is not None
        learned = losses.named(self.recipe.loss, temperature=self.recipe.temperature)
        if self.views is not None:
            rows, width = torch.tensor(self.rows), self.outputs.shape[1]
            probabilities = self.views.targets(rows, self.epochs, outputs_of=self.outputs_of, width=width)
            return learned(self.outputs, probabilities.to(self.outputs.device))
        if self.kind == "none":
            return losses.cross_entropy(self.outputs, self.labels)
        if self._targets is None:
            self._targets = aligned(self.groups, self.outputs_of, self.outputs.shape[1], self.recipe)
        targets, known = (part[self.rows].to(self.outputs.device) for part in self._targets)
        if losses.needs_values(self.recipe.loss):
            return losses.squared_error(self.outputs[known], targets[known])
        return learned(self.outputs, targets)
