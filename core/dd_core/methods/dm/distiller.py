"""`dm`: distribution matching (Zhao and Bilen, Dataset Condensation with Distribution DMDistiller, WACV 2023).

At every step a freshly initialised network psi embeds real and synthetic images under one siamese
augmentation A, and the pixels move so that the class means meet (equation 7):

    sum_c || mean_i psi(A(x_ci)) - mean_j psi(A(s_cj)) ||^2

The sum falls apart into classes, so a buffer that sees two classes at a time loses nothing. Classes are embedded a
few at a time, and a class in parts, within a budget of bytes. A network with batch norm sees one whole class at a time,
whatever the budget: its features of an image depend on the images beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from dd_core.augment.names import Strategy, parse_strategy, resolve_strategy
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError, require_finite
from dd_core.recipe import Recipe
from dd_core.system.budget import BATCH_BYTES, BatchBytes, Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.artefacts import Artefact
    from dd_core.images import Source
    from dd_core.streams import Streams

IMAGES_AT_ONCE = 1024  # of the classes that are embedded together: more is no faster


class Images(NamedTuple):
    """A number for real images, and one for synthetic images."""

    real: int
    synthetic: int


class Plan(NamedTuple):
    """The images of the largest class, the bytes that one takes in the network, and how many go through it at once."""

    largest: Images
    costs: Images
    at_once: Images

    @property
    def classes(self) -> int:
        """How many whole classes go through the network at once; 1 where not even one does."""
        fit = (most // images for most, images in zip(self.at_once, self.largest, strict=True))
        return max(1, min(IMAGES_AT_ONCE // max(self.largest), *fit))


class DMConfig(MethodConfig):
    """Hyper-parameters of distribution matching; the recipe's network is the one that embeds (psi)."""

    name: ClassVar[str] = "dm"

    steps: int = Field(default=1000, ge=0, description="outer iterations, a new network each (K; the paper has 20000)")
    lr_img: float = Field(default=1.0, gt=0, description="learning rate of the pixels, SGD; 10 from 100 ipc on (eta)")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of that SGD")
    batch_real: int = Field(default=256, ge=1, description="real images of each class in a step (|B_c|)")
    augmentation: Strategy = Field(default="auto", description="DSA strategy (A); auto: all, without flip for digits")
    batch_bytes: BatchBytes = Field(
        default=BATCH_BYTES,
        description="bytes of images and activations that a batch may take in the network; classes, and parts of one, "
        "are embedded one after the other within it (a network with batch norm: one whole class at a time)",
    )
    recipe: Recipe = Field(
        default=Recipe(epochs=1000, augmentation="auto"),
        description="how to train on the set (the paper's own way), and the network that embeds (psi)",
    )

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for a network with batch norm that cannot take the single image of a class."""
        import torch

        from dd_core import networks
        from dd_core.selection import members_of

        counts = size.per_class(len(source.classes))
        fewest = min(self.batch_real, *counts, *(len(members) for members in members_of(source, counts)))
        network = networks.for_source(self.recipe.network, source, seed=0)
        if fewest > 1 or not networks.mixes_images(network):
            return
        try:
            with torch.no_grad():
                networks.embed(network, torch.zeros(1, *source.image_shape))
        except ValueError:
            raise UserError(
                f"recipe.network: '{self.recipe.network}' has a batch norm, and sees one image of a class alone, of "
                "which it leaves a single pixel to normalise; ask for 2 images of each class, or take a network "
                "without batch norm"
            ) from None

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """One batch of the larger kind, and four copies of the set: pixels, gradient, momentum and update."""
        counts = size.per_class(len(source.classes))
        largest, costs, at_once = plan = self.plan(source, counts, device)
        classes = min(plan.classes, len(counts))
        batches = [min(classes * count, most) * cost for count, most, cost in zip(largest, at_once, costs, strict=True)]
        whole = "batch_real" if batches[0] >= batches[1] else "number of images per class"
        setting = whole if at_once == largest else "batch_bytes"
        return Footprint(max(batches) + 16 * sum(counts) * prod(source.image_shape), (setting,))

    def plan(self, source: Source, counts: Sequence[int], device: torch.device) -> Plan:
        """How many images may go through the network together: as `batch_bytes` says, or a whole class."""
        from dd_core import networks
        from dd_core.selection import members_of
        from dd_core.system.footprint import images_at_once

        real = max(len(members) for members in members_of(source, counts))
        largest = Images(min(self.batch_real, real), max(counts))
        costs = _bytes_an_image(self, source, device)
        if networks.mixes_images(networks.for_source(self.recipe.network, source, seed=0)):
            return Plan(largest, costs, largest)
        most = max(IMAGES_AT_ONCE, *largest)
        return Plan(
            largest, costs, Images(*(images_at_once(cost, budget=self.batch_bytes, most=most) for cost in costs))
        )

    def build(
        self,
        *,
        source: Source,
        size: Size,
        artefacts: Mapping[str, Artefact],
        streams: Streams,
        device: torch.device,
    ) -> DMDistiller:
        """Start from random real images; raises `UserError` where a class is too small, and what `check` raises."""
        self.check(source, size)
        return DMDistiller(self, source, size=size, streams=streams, device=device)


class DMDistiller:
    """Pixels under way."""

    def __init__(self, config: DMConfig, source: Source, *, size: Size, streams: Streams, device: torch.device) -> None:
        import torch

        from dd_core import images, selection

        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.counts = size.per_class(len(source.classes))
        self.members = selection.members_of(source, self.counts)
        self.plan = config.plan(source, self.counts, device)
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
        """Consecutive classes whose images go through the network together."""
        count, together = len(self.counts), self.plan.classes
        return [range(first, min(first + together, count)) for first in range(0, count, together)]

    def _loss(self, network: torch.nn.Module, index: int, classes: range) -> Tensor:
        """Equation 7 over a group of classes."""
        import torch

        rows = [self._real_rows(index, label) for label in classes]
        first = sum(self.counts[: classes.start])
        counts = self.counts[classes.start : classes.stop]
        synthetic = self.pixels[first : first + sum(counts)]
        with torch.no_grad():
            parts = [
                self._embed(network, self._real(part), index) for part in torch.cat(rows).split(self.plan.at_once.real)
            ]
            target = class_means(torch.cat(parts), [len(several) for several in rows])
        return (class_means(self._embed_synthetic(network, synthetic, index), counts) - target).square().sum()

    def _real_rows(self, index: int, label: int) -> Tensor:
        """Which real images of a class are embedded."""
        import torch

        members = self.members[label]
        generator = self.streams.generator(f"real-{label}", index)
        return members[torch.randperm(len(members), generator=generator)[: self.config.batch_real]]

    def _real(self, rows: Tensor) -> Tensor:
        """Normalised real images."""
        from dd_core.images import normalise

        return normalise(self.source.take(rows).to(self.device), self.mean, self.std)

    def _embed_synthetic(self, network: torch.nn.Module, images: Tensor, index: int) -> Tensor:
        """psi(A(images)) with its gradient; of several parts, each is embedded again when its gradient is due."""
        import torch
        from torch.utils.checkpoint import checkpoint

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


def _bytes_an_image(config: DMConfig, source: Source, device: torch.device) -> Images:
    """Bytes that a real image takes on its way through the network, and a synthetic one with its gradient."""
    import torch

    from dd_core import augment, networks
    from dd_core.streams import generator
    from dd_core.system.footprint import bytes_an_image

    network = networks.for_source(config.recipe.network, source, seed=0).to(device).requires_grad_(False)
    kinds = parse_strategy(resolve_strategy(config.augmentation, source.name)) or ("none",)

    def embed(images: Tensor, *, gradient: bool) -> None:
        pixels = inputs = images.float().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            for kind in kinds:
                inputs = augment.dsa(pixels, kind, generator=generator(0, "footprint"), siamese=True)
            features = networks.embed(network, inputs)
            if gradient:
                features.sum().backward()

    each = (partial(embed, gradient=gradient) for gradient in (False, True))
    return Images(*(bytes_an_image(function, source.image_shape, device) for function in each))
