"""How many images go through the network together in a step of gradient matching, and the bytes that they take."""

from __future__ import annotations

from functools import lru_cache, partial
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_core import augment, networks, selection
from dd_core.augment.names import parse_strategy, resolve_strategy
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.methods.gradient_matching.config import STATISTICS_IMAGES, GradientMatchingConfig
from dd_core.methods.gradient_matching.distances import weights_of
from dd_core.streams import generator
from dd_core.system.budget import Footprint
from dd_core.system.footprint import bytes_an_image, images_at_once
from dd_core.training import Settings, estimates

_COPIES = 8  # of the weights in memory: weights, real and synthetic gradients, v, and those of differentiating twice


class Images(NamedTuple):
    """A number for real images, and one for synthetic images."""

    real: int
    synthetic: int


class Plan(NamedTuple):
    """How real and synthetic images of a class go through the network."""

    largest: Images  # images of the largest class
    costs: Images  # bytes that one image takes
    at_once: Images  # images that go through the network together


def plan(config: GradientMatchingConfig, source: Source, size: Size, device: torch.device) -> Plan:
    """How many images of a class go through the network together, as `batch_bytes` allows."""
    classes = len(source.classes)
    real = max(len(members) for members in selection.members_of(source, [1] * classes))
    largest = Images(min(config.batch_real, real), max(config.seen(size, classes)))
    strategy = resolve_strategy(config.augmentation, source.name)
    costs = _bytes_an_image(config.recipe.network, config.matched, strategy, source.image_shape, classes, device)
    fit = (
        images_at_once(cost, budget=config.batch_bytes, most=most) for cost, most in zip(costs, largest, strict=True)
    )
    return Plan(largest, costs, Images(*fit))


def footprint(config: GradientMatchingConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """The largest batch, real, synthetic or of the network's own; the gradients, and four copies of the set."""
    classes = len(source.classes)
    largest, costs, at_once = plan(config, source, size, device)
    batches = [most * cost for cost, most in zip(costs, at_once, strict=True)]
    recipe = config.recipe.model_copy(
        update={
            "batch_size": config.batch_net,
            "augmentation": resolve_strategy(config.augmentation, source.name),
            "steps": (),
        }
    )
    learned = config.real_images if config.learns == "real" else sum(config.seen(size, classes))
    step = estimates.training_bytes(recipe, source.image_shape, classes, learned, device)
    network = networks.for_source(config.recipe.network, source, seed=0)
    statistics = classes * STATISTICS_IMAGES * costs.real if networks.mixes_images(network) else 0
    weights = sum(parameter.nbytes for parameter in network.parameters())
    if step > max(*batches, statistics):
        setting = "batch_net"
    elif at_once != largest:
        setting = "batch_bytes"
    else:
        setting = "batch_real" if batches[0] >= batches[1] else "number of images per class"
    copies = 16 * sum(size.per_class(classes)) * prod(source.image_shape)
    return Footprint(max(*batches, step, statistics) + _COPIES * weights + copies, (setting,))


def settings_of(config: GradientMatchingConfig, strategy: str, *, epochs: int) -> Settings:
    """How the network learns between two updates of the pixels: plain SGD, each image under a transform of its own."""
    return Settings(
        learning_rate=config.lr_net,
        epochs=epochs,
        batch_size=config.batch_net,
        augmentation=strategy,
        loss_called="loss of the network",
        check_every=50,
    )


def check_network(config: GradientMatchingConfig, source: Source, size: Size) -> None:
    """Raise `UserError` for a class with too few images, and for a network with no weights of the `matched` kind.

    Also for a network with batch norm whose last mini-batch would be one image, with one pixel left to normalise.
    """
    classes = len(source.classes)
    counts = size.per_class(classes)
    selection.members_of(source, counts if config.initial == "real" else [1] * classes)
    network = networks.for_source(config.recipe.network, source, seed=0)
    if not weights_of(network, config.matched):
        raise UserError(
            f"matched: '{config.recipe.network}' has no {config.matched} whose gradients could be matched; take "
            "another network"
        )
    learned = min(config.real_images, len(source)) if config.learns == "real" else sum(config.seen(size, classes))
    if learned % config.batch_net != 1 or not networks.mixes_images(network):
        return
    try:
        with torch.no_grad():
            network.train()(torch.zeros(1, *source.image_shape))
    except ValueError:
        raise UserError(
            f"batch_net: '{config.recipe.network}' has a batch norm that cannot normalise one image alone, and "
            f"{learned} images in mini-batches of {config.batch_net} leave one; take another batch_net"
        ) from None


@lru_cache(maxsize=64)  # a run asks twice: before it begins, and for its batches
def _bytes_an_image(
    network: str,
    matched: str,
    strategy: str,
    image_shape: tuple[int, int, int],
    classes: int,
    device: torch.device,
) -> Images:
    """Bytes of a real image in the weights' gradient, and of a synthetic one, which is differentiated twice."""
    channels, height, width = image_shape
    model = networks.build(network, in_channels=channels, classes=classes, image_size=(height, width), seed=0)
    model.to(device).train()
    for norm in networks.batch_norms(model).values():
        norm.eval()
    weights = weights_of(model, matched)

    def differentiate(images: Tensor, *, twice: bool) -> None:
        pixels = inputs = images.float().requires_grad_(twice)
        for kind in parse_strategy(strategy) or ("none",):
            inputs = augment.dsa(pixels, kind, generator=generator(0, "footprint"), siamese=True)
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), weights, create_graph=twice)
        if twice:
            torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in gradients]).sum(), pixels)

    each = (partial(differentiate, twice=twice) for twice in (False, True))
    return Images(*(bytes_an_image(function, image_shape, device) for function in each))
