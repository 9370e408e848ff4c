"""`dm`: distribution matching (Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023).

At every step a freshly initialised network psi embeds real and synthetic images under one siamese
augmentation A, and the pixels move so that the class means meet (equation 7):

    sum_c || mean_i psi(A(x_ci)) - mean_j psi(A(s_cj)) ||^2

The sum falls apart into classes, so a buffer that sees two classes at a time loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dd_core.augment_names import Strategy, resolve_strategy
from dd_core.distilled import DistilledSet, Manifest, Pixels, Recipe, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import require_finite

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.artefacts import Artefact
    from dd_core.images import Source
    from dd_core.streams import Streams

IMAGES_AT_ONCE = 1024  # embedded together: bounds memory; batch norm sees the classes of one such group


class DistributionMatching(MethodConfig):
    """Hyper-parameters of distribution matching; the recipe's network is the one that embeds (psi)."""

    name: ClassVar[str] = "dm"

    steps: int = Field(default=1000, ge=0, description="outer iterations, a new network each (K; the paper has 20000)")
    lr_img: float = Field(default=1.0, gt=0, description="learning rate of the pixels, SGD; 10 from 100 ipc on (eta)")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of that SGD")
    batch_real: int = Field(default=256, ge=1, description="real images of each class in a step (|B_c|)")
    augmentation: Strategy = Field(default="auto", description="DSA strategy (A); auto: all, without flip for digits")
    recipe: Recipe = Field(
        default=Recipe(epochs=1000, augmentation="auto"),
        description="how to train on the set (the paper's own way), and the network that embeds (psi)",
    )

    def build(
        self,
        *,
        source: Source,
        size: Size,
        artefacts: Mapping[str, Artefact],
        streams: Streams,
        device: torch.device,
    ) -> Matching:
        """Start from random real images; raises `UserError` where a class is too small."""
        return Matching(self, source, size=size, streams=streams, device=device)


class Matching:
    """Pixels under way."""

    def __init__(
        self, config: DistributionMatching, source: Source, *, size: Size, streams: Streams, device: torch.device
    ) -> None:
        import torch

        from dd_core import images, selection

        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.counts = size.per_class(len(source.classes))
        self.members = selection.members_of(source, self.counts)
        self.mean, self.std = images.channel_stats(source)
        self.strategy = resolve_strategy(config.augmentation, source.name)
        chosen = selection.random_indices(source, self.counts, streams=streams, stream="initial-images")
        initial = images.normalise(source.take(chosen).to(device), self.mean, self.std)
        self.pixels = initial.requires_grad_()
        self.optimiser = torch.optim.SGD([self.pixels], lr=config.lr_img, momentum=config.momentum)

    def step(self, index: int) -> dict[str, float]:
        """One network, one augmentation, one step of all pixels."""
        from dd_core import networks

        network = networks.for_source(
            self.config.recipe.network, self.source, seed=self.streams.seed, stream="network", step=index
        )
        network = network.to(self.device).requires_grad_(False)
        self.optimiser.zero_grad()
        loss = 0.0
        for classes in self._class_groups():
            part = self._loss(network, index, classes)
            part.backward()
            loss += part.item()
        assert self.pixels.grad is not None
        require_finite(loss=loss, gradient=self.pixels.grad.norm().item())
        self.optimiser.step()
        return {"loss": loss}

    def _class_groups(self) -> list[range]:
        """Consecutive classes whose images fit through the network together."""
        images = max(max(self.counts), min(self.config.batch_real, max(len(m) for m in self.members)))
        together = max(1, IMAGES_AT_ONCE // images)
        count = len(self.counts)
        return [range(first, min(first + together, count)) for first in range(0, count, together)]

    def _loss(self, network: torch.nn.Module, index: int, classes: range) -> Tensor:
        """Equation 7 over a group of classes."""
        import torch

        real, real_counts = self._real_batch(index, classes)
        first = sum(self.counts[: classes.start])
        counts = self.counts[classes.start : classes.stop]
        synthetic = self.pixels[first : first + sum(counts)]
        with torch.no_grad():
            target = class_means(self._embed(network, real, index), real_counts)
        return (class_means(self._embed(network, synthetic, index), counts) - target).square().sum()

    def _real_batch(self, index: int, classes: range) -> tuple[Tensor, list[int]]:
        """Normalised real images of the classes, class-major, and how many there are of each."""
        import torch

        from dd_core.images import normalise

        chosen: list[Tensor] = []
        for label in classes:
            members = self.members[label]
            generator = self.streams.generator(f"real-{label}", index)
            chosen.append(members[torch.randperm(len(members), generator=generator)[: self.config.batch_real]])
        images = self.source.take(torch.cat(chosen)).to(self.device)
        return normalise(images, self.mean, self.std), [len(part) for part in chosen]

    def _embed(self, network: torch.nn.Module, images: Tensor, index: int) -> Tensor:
        """psi(A(images)); the generator is made anew, so every batch of a step gets the same A."""
        from dd_core import augment, networks

        generator = self.streams.generator("augmentation", index)
        augmented = augment.dsa(images, self.strategy, generator=generator, siamese=True)
        with self.streams.seeded("dropout", index):
            return networks.embed(network, augmented)

    def state_dict(self) -> dict[str, Any]:
        """Pixels and momentum."""
        return {"pixels": self.pixels.detach().clone(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up pixels and momentum."""
        import torch

        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self) -> DistilledSet:
        """The pixels, float32 in normalised space."""
        from dd_core.selection import labels_of

        manifest = Manifest(
            classes=self.source.classes,
            pixels=Pixels(space="normalised", mean=self.mean, std=self.std),
            recipe=self.config.recipe.for_source(self.source.name),
        )
        return DistilledSet(self.pixels.detach().cpu().numpy().copy(), labels_of(self.counts).numpy(), manifest)


def class_means(features: Tensor, counts: Sequence[int]) -> Tensor:
    """(classes, D) means of consecutive blocks of rows of `features` (sum of counts, D)."""
    import torch

    return torch.stack([block.mean(0) for block in features.split(list(counts))])
