"""How many images go through the network together in a step of distribution matching, and the bytes that they take."""

from __future__ import annotations

from functools import lru_cache, partial
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from dd_core import augment, networks, selection
from dd_core.augment.names import parse_strategy, resolve_strategy
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.methods.dm.config import DMConfig
from dd_core.streams import generator
from dd_core.system.budget import Footprint
from dd_core.system.footprint import bytes_an_image, images_at_once, most_forward

IMAGES_AT_ONCE = 1024  # most images of the classes that are embedded together: more is no faster
GROUPED_ON_CPU = 64  # the same for synthetic images of several classes on a CPU


class Images(NamedTuple):
    """A number for real images, and one for synthetic images."""

    real: int
    synthetic: int


class Plan(NamedTuple):
    """How real and synthetic images go through the network."""

    largest: Images  # images of the largest class
    costs: Images  # bytes that one image takes
    at_once: Images  # images of a few classes that are embedded together
    together: int  # real images that go through the network together: these need no gradient
    grouped: int  # most synthetic images of several classes that are embedded together

    @property
    def classes(self) -> int:
        """How many whole classes go through the network at once; 1 also where a class goes through in parts."""
        fit = (most // images for most, images in zip(self.at_once, self.largest, strict=True))
        return max(1, min(IMAGES_AT_ONCE // max(self.largest), self.grouped // self.largest.synthetic, *fit))


def plan(config: DMConfig, source: Source, size: Size, device: torch.device) -> Plan:
    """How many images go through the network together: as `batch_bytes` allows, or a whole class with batch norm."""
    classes = len(source.classes)
    real = max(len(members) for members in selection.members_of(source, size.per_class(classes)))
    largest = Images(min(config.batch_real, real), max(config.seen(size, classes)))
    strategy = resolve_strategy(config.augmentation, source.name)
    costs = _bytes_an_image(config.recipe.network, strategy, source.image_shape, classes, device)
    if networks.mixes_images(networks.for_source(config.recipe.network, source, seed=0)):
        return Plan(largest, costs, largest, largest.real, largest.synthetic)
    most = max(IMAGES_AT_ONCE, *largest)
    at_once = Images(*(images_at_once(cost, budget=config.batch_bytes, most=most) for cost in costs))
    together = min(at_once.real, most_forward(device, on_gpu=at_once.real))
    return Plan(largest, costs, at_once, together, GROUPED_ON_CPU if device.type == "cpu" else IMAGES_AT_ONCE)


def footprint(config: DMConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """The larger batch, real or synthetic, and four copies of the set: pixels, gradient, momentum and update."""
    counts = size.per_class(len(source.classes))
    sizes = plan(config, source, size, device)
    largest, costs, at_once = sizes.largest, sizes.costs, sizes.at_once
    classes, most = min(sizes.classes, len(counts)), (sizes.together, at_once.synthetic)
    batches = [min(classes * count, top) * cost for count, top, cost in zip(largest, most, costs, strict=True)]
    whole = "batch_real" if batches[0] >= batches[1] else "number of images per class"
    setting = whole if at_once == largest else "batch_bytes"
    return Footprint(max(batches) + 16 * sum(counts) * prod(source.image_shape), (setting,))


def check_network(config: DMConfig, source: Source, size: Size) -> None:
    """Raise `UserError` for a class with too few images, and for a batch norm that would see a single value."""
    counts = size.per_class(len(source.classes))
    seen = config.seen(size, len(source.classes))
    fewest = min(config.batch_real, *seen, *(len(members) for members in selection.members_of(source, counts)))
    network = networks.for_source(config.recipe.network, source, seed=0)
    if fewest > 1 or not networks.mixes_images(network):
        return
    try:
        with torch.no_grad():
            networks.embed(network, torch.zeros(1, *source.image_shape))
    except ValueError:
        raise UserError(
            f"recipe.network: '{config.recipe.network}' has a batch norm that cannot normalise one image of a class "
            "alone, as a single pixel of it is left there; ask for 2 or more images of each class (and a batch_real "
            "of 2 or more), or take a network without batch norm"
        ) from None


@lru_cache(maxsize=64)  # a run asks twice: before it begins, and for its batches
def _bytes_an_image(
    network: str, strategy: str, image_shape: tuple[int, int, int], classes: int, device: torch.device
) -> Images:
    """Bytes that a real image takes on its way through `network`, and a synthetic one with its gradient."""
    channels, height, width = image_shape
    model = networks.build(network, in_channels=channels, classes=classes, image_size=(height, width), seed=0)
    model.to(device).requires_grad_(False)

    def embed(images: Tensor, *, gradient: bool) -> None:
        pixels = inputs = images.float().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            for kind in parse_strategy(strategy) or ("none",):
                inputs = augment.dsa(pixels, kind, generator=generator(0, "footprint"), siamese=True)
            features = networks.embed(model, inputs)
            if gradient:
                features.sum().backward()

    each = (partial(embed, gradient=gradient) for gradient in (False, True))
    return Images(*(bytes_an_image(function, image_shape, device) for function in each))
