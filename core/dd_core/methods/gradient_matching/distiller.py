"""The loop of gradient matching (algorithm 1, see `config`), over a class or a part of one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import augment, networks, selection, training
from dd_core.augment.names import resolve_strategy
from dd_core.distilled import DistilledSet
from dd_core.distiller import Context
from dd_core.errors import require_finite
from dd_core.images import InputForm, require_labels
from dd_core.methods.gradient_matching.config import STATISTICS_IMAGES, GradientMatchingConfig
from dd_core.methods.gradient_matching.distances import distance, weights_of
from dd_core.methods.gradient_matching.planning import plan, settings_of
from dd_core.streams import Streams
from dd_core.synthetic import Synthetic, initial_noise, initial_real
from dd_core.training import TrainingData

Gradients = list[Tensor]


class GradientMatchingDistiller:
    """Synthetic images while they are learned."""

    def __init__(self, config: GradientMatchingConfig, context: Context) -> None:
        source, streams, device = context.source, context.streams, context.device
        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.counts = context.counts
        self.members = selection.members_of(source, [1] * len(self.counts))
        self.goals = require_labels(source)
        self.at_once = plan(config, source, context.size, device).at_once
        self.outer, self.inner = config.loops_for(context.size, len(self.counts))
        self.form = form = InputForm.of(source)
        self.strategy = resolve_strategy(config.augmentation, source.name)
        if config.initial == "noise":
            start = initial_noise(sum(self.counts), source.image_shape, streams=streams).to(device)
        else:
            start = initial_real(source, self.counts, form, streams=streams, device=device, formation=config.formation)
        labels, clamp = selection.labels_of(self.counts), "raw" if config.clamp else "none"
        self.images = Synthetic(start, labels, form, formation=config.formation, clamp=clamp)
        self.pixels = self.images.pixels
        self.optimiser = torch.optim.SGD([self.pixels], lr=config.lr_img, momentum=config.momentum)

    def step(self, index: int) -> dict[str, float]:
        """One network: `outer` updates of the pixels; between two updates the network learns for `inner` epochs."""
        streams = self.streams.child("iteration", index)
        network = training.initialised(
            self.config.recipe, self.source.image_shape, len(self.counts), streams=streams
        ).to(self.device)
        loss = 0.0
        for update in range(self.outer):
            if update:
                self._teach(network, streams.child("learning", update))
            loss += self._update(network, streams.child("update", update))
        return {"loss": loss / (self.outer * len(self.counts))}

    # --- the network ------------------------------------------------------------------------------------------------

    def _teach(self, network: nn.Module, streams: Streams) -> None:
        """Train the network for `inner` epochs, on the present synthetic images or each epoch on other real images."""
        if self.config.learns == "synthetic":
            inputs, labels = self.images.decode(self.pixels.detach()), self.images.seen_labels
            self._learn(network, inputs, labels, epochs=self.inner, streams=streams)
            return
        for epoch in range(self.inner):
            order = torch.randperm(len(self.source), generator=streams.generator("real", epoch))
            rows = order[: self.config.real_images]
            self._learn(network, self._real(rows), self.goals[rows], epochs=1, streams=streams.child("epoch", epoch))

    def _learn(self, network: nn.Module, inputs: Tensor, labels: Tensor, *, epochs: int, streams: Streams) -> None:
        lessons = TrainingData(inputs, labels, None, len(self.counts), self.form.black)
        settings = settings_of(self.config, self.strategy, epochs=epochs)
        training.Loop(network, lessons, settings, streams=streams, device=self.device).run()

    def _freeze_norms(self, network: nn.Module, streams: Streams) -> None:
        """Freeze batch norms at the statistics of real images of every class."""
        network.train()
        norms = list(networks.batch_norms(network).values())
        if not norms:
            return
        rows = [
            members[torch.randperm(len(members), generator=streams.generator("statistics", label))[:STATISTICS_IMAGES]]
            for label, members in enumerate(self.members)
        ]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # the statistics of these images alone
        with torch.no_grad(), streams.seeded("dropout"):
            network(self._real(torch.cat(rows)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    # --- the pixels -------------------------------------------------------------------------------------------------

    def _update(self, network: nn.Module, streams: Streams) -> float:
        """One SGD step of the pixels of all classes; returns the sum of the classes' distances before the step."""
        self._freeze_norms(network, streams)
        weights = weights_of(network, self.config.matched)
        loss, gradients = 0.0, list[Tensor]()
        for label, pixels in enumerate(self.pixels.detach().split(list(self.counts))):
            target = self._real_gradient(network, weights, label, streams)
            apart, gradient = self._matched(network, weights, pixels, target, label, streams)
            loss += apart
            gradients.append(gradient)
        self.pixels.grad = torch.cat(gradients)
        require_finite(loss=loss, gradient=self.pixels.grad.norm().item())
        self.optimiser.step()
        self.images.updated()
        return loss

    def _real_gradient(self, network: nn.Module, weights: Sequence[Tensor], label: int, streams: Streams) -> Gradients:
        """The gradient on real images of a class, a part of them at a time."""
        members = self.members[label]
        rows = members[torch.randperm(len(members), generator=streams.generator("real", label))]
        rows = rows[: self.config.batch_real]
        parts = rows.split(self.at_once.real)
        losses = (
            self._loss(network, self._real(part), label, streams, part=place) * (len(part) / len(rows))
            for place, part in enumerate(parts)
        )
        return _sum(torch.autograd.grad(loss, weights) for loss in losses)

    def _matched(
        self,
        network: nn.Module,
        weights: Sequence[Tensor],
        pixels: Tensor,
        target: Gradients,
        label: int,
        streams: Streams,
    ) -> tuple[float, Tensor]:
        """The distance of a class, and the gradient of that distance with respect to the stored pixels of the class.

        With several parts, v, the gradient of the distance with respect to the weights' gradient g, is computed first.
        Then each part adds the gradient of <v, its share of g>, so that only one part's graph is held at a time.
        """
        pixels = pixels.clone().requires_grad_()
        seen = self.images.decode(pixels)
        parts = seen.split(self.at_once.synthetic)
        if len(parts) == 1:
            own = torch.autograd.grad(self._loss(network, seen, label, streams), weights, create_graph=True)
            apart = distance(own, target, self.config.distance)
            return apart.item(), torch.autograd.grad(apart, pixels)[0]

        def share_of(place: int, part: Tensor) -> Tensor:
            return self._loss(network, part, label, streams, part=place) * (len(part) / len(seen))

        leaves = [part.detach().requires_grad_() for part in parts]
        losses = (share_of(place, part) for place, part in enumerate(leaves))
        own = [gradient.requires_grad_() for gradient in _sum(torch.autograd.grad(loss, weights) for loss in losses)]
        apart = distance(own, target, self.config.distance)
        directions = torch.autograd.grad(apart, own)
        by_part: list[Tensor] = []
        for place, part in enumerate(leaves):
            gradients = torch.autograd.grad(share_of(place, part), weights, create_graph=True)
            product = torch.stack([(a * b).sum() for a, b in zip(gradients, directions, strict=True)]).sum()
            by_part += torch.autograd.grad(product, part)
        return apart.item(), torch.autograd.grad(seen, pixels, torch.cat(by_part))[0]

    def _loss(self, network: nn.Module, images: Tensor, label: int, streams: Streams, part: int = 0) -> Tensor:
        """Mean cross-entropy of images of a class; a new generator gives each batch of the class the same transform."""
        generator = streams.generator("augmentation", label)
        shown = augment.dsa(images, self.strategy, generator=generator, siamese=True)
        with streams.seeded(f"dropout-{label}", part):
            return F.cross_entropy(network(shown), torch.full((len(shown),), label, device=self.device))

    def _real(self, rows: Tensor) -> Tensor:
        """Real images as network inputs."""
        return self.form(self.source.take(rows).to(self.device, non_blocking=True))

    # --- state and result -------------------------------------------------------------------------------------------

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


def _sum(several: Any) -> Gradients:
    """The sum of gradients, weight by weight."""
    total: Gradients = []
    for gradients in several:
        total = [a + b for a, b in zip(total, gradients, strict=True)] if total else list(gradients)
    return total
