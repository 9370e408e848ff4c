"""The loop of distribution matching (equation 7, see `config`), over a few classes or a part of one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dd_core import augment, networks, selection
from dd_core.augment.names import resolve_strategy
from dd_core.distilled import DistilledSet
from dd_core.distiller import Context
from dd_core.errors import require_finite
from dd_core.images import InputForm
from dd_core.methods.dm.config import DMConfig
from dd_core.methods.dm.planning import plan
from dd_core.synthetic import Synthetic, initial_real


class DMDistiller:
    """Synthetic images while they are learned."""

    def __init__(self, config: DMConfig, context: Context) -> None:
        source, streams, device = context.source, context.streams, context.device
        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.counts = context.counts
        self.members = selection.members_of(source, self.counts)
        self.plan = plan(config, source, context.size, device)
        self.form = InputForm.of(source)
        self.strategy = resolve_strategy(config.augmentation, source.name)
        start = initial_real(source, self.counts, self.form, streams=streams, device=device, formation=config.formation)
        labels, clamp = selection.labels_of(self.counts), "raw" if config.clamp else "none"
        self.images = Synthetic(start, labels, self.form, formation=config.formation, clamp=clamp)
        self.pixels = self.images.pixels
        self.optimiser = torch.optim.SGD([self.pixels], lr=config.lr_img, momentum=config.momentum)

    def step(self, index: int) -> dict[str, float]:
        """One outer iteration: a new network, one augmentation, and one SGD step of all pixels."""
        network = networks.for_source(
            self.config.recipe.network, self.source, seed=self.streams.seed, stream="network", step=index
        )
        network = network.to(self.device).requires_grad_(False)
        loss, gradient = 0.0, torch.empty_like(self.pixels)
        for classes in self._class_groups():
            first, count = sum(self.counts[: classes.start]), sum(self.counts[classes.start : classes.stop])
            # a leaf of its own: through a part of all pixels, each group's gradient would be as large as the set
            pixels = self.pixels.detach()[first : first + count].requires_grad_()
            part = self._loss(network, index, classes, pixels)
            gradient[first : first + count] = torch.autograd.grad(part, pixels)[0]
            loss += part.item()
        self.pixels.grad = gradient
        require_finite(loss=loss, gradient=gradient.norm().item())
        self.optimiser.step()
        self.images.updated()
        return {"loss": loss}

    def _class_groups(self) -> list[range]:
        """Consecutive classes whose images go through the network together."""
        count, together = len(self.counts), self.plan.classes
        return [range(first, min(first + together, count)) for first in range(0, count, together)]

    def _loss(self, network: torch.nn.Module, index: int, classes: range, pixels: Tensor) -> Tensor:
        """Equation 7 over a group of classes, whose stored images are `pixels`."""
        rows = [self._real_rows(index, label) for label in classes]
        own = self.counts[classes.start : classes.stop]
        counts, synthetic = [count * self.config.formation**2 for count in own], self.images.decode_classes(pixels, own)
        with torch.no_grad():
            parts = torch.cat(rows).split(self.plan.together)
            features = torch.cat([self._embed(network, self._real(part), index) for part in parts])
            target = class_means(features, [len(several) for several in rows])
        return (class_means(self._embed_synthetic(network, synthetic, index), counts) - target).square().sum()

    def _real_rows(self, index: int, label: int) -> Tensor:
        """Which real images of a class are embedded."""
        members = self.members[label]
        generator = self.streams.generator(f"real-{label}", index)
        return members[torch.randperm(len(members), generator=generator)[: self.config.batch_real]]

    def _real(self, rows: Tensor) -> Tensor:
        """Normalised real images."""
        return self.form(self.source.take(rows).to(self.device, non_blocking=True))

    def _embed_synthetic(self, network: torch.nn.Module, images: Tensor, index: int) -> Tensor:
        """psi(A(images)) with its gradient; with several parts, each is embedded again in the backward pass."""
        parts = images.split(self.plan.at_once.synthetic)
        if len(parts) == 1:
            return self._embed(network, images, index)
        again = [
            checkpoint(self._embed, network, part, index, use_reentrant=False, preserve_rng_state=False)
            for part in parts
        ]
        return torch.cat(again)

    def _embed(self, network: torch.nn.Module, images: Tensor, index: int) -> Tensor:
        """psi(A(images)); the generator is made anew, so every batch of a step gets the same A."""
        generator = self.streams.generator("augmentation", index)
        augmented = augment.dsa(images, self.strategy, generator=generator, siamese=True)
        with self.streams.seeded("dropout", index):
            return networks.embed(network, augmented)

    def state_dict(self) -> dict[str, Any]:
        """Pixels and momentum."""
        return {**self.images.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.images.load_state_dict(state)
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self) -> DistilledSet:
        """The pixels, float32 in normalised space."""
        return self.images.export(self.config.recipe.for_source(self.source.name), classes=self.source.classes)


def class_means(features: Tensor, counts: Sequence[int]) -> Tensor:
    """(classes, D) means of consecutive blocks of rows of `features` (sum of counts, D)."""
    return torch.stack([block.mean(0) for block in features.split(list(counts))])
