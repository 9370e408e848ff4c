"""Estimates of the bytes that training, evaluation and unrolled gradients will take, before they begin.

A mini-batch has the size that the protocol says, as another size would be another protocol. So no budget bounds the
memory of training; it is estimated, and the user is told.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import augment, unroll
from dd_core.augment.names import parse_strategy
from dd_core.networks.own import Network, built
from dd_core.recipe import Recipe
from dd_core.streams import generator
from dd_core.system.budget import Footprint
from dd_core.system.footprint import bytes_an_image, images_at_once, most_forward
from dd_core.unroll import Mode, Tensors
from dd_core.unroll.trail import bytes_in_memory

_COPIES = 4  # of the weights in memory: weights, gradients, an optimiser's state, and its temporaries in a step

Shape = tuple[int, int, int]


def image_bytes(recipe: Recipe, image_shape: Shape, classes: int, device: torch.device) -> int:
    """Bytes that each image (C, H, W) of a mini-batch takes in a step of training by `recipe`."""
    return _step_bytes(_Network(recipe.network, image_shape, classes, device), recipe.augmentation)


def training_bytes(recipe: Recipe, image_shape: Shape, classes: int, images: int, device: torch.device) -> int:
    """Bytes that a step of training by `recipe` takes, beside the set of `images` images (C, H, W)."""
    return _training_bytes(_Network(recipe.network, image_shape, classes, device), recipe, images)


def _training_bytes(network: _Network, recipe: Recipe, images: int) -> int:
    together = images if recipe.steps else min(images, recipe.batch_size)
    return together * _step_bytes(network, recipe.augmentation) + _COPIES * _weight_bytes(network)


def evaluation(
    recipe: Recipe,
    image_shape: Shape,
    classes: int,
    *,
    images: int,
    tested: int,
    sets: int,
    jobs: int,
    device: torch.device,
    own: Network | None = None,
) -> Footprint:
    """Bytes of `jobs` networks that train at a time, each on a set of `images` images, and of `sets` such sets.

    tested: the number of test images; own: a caller's network instead of the recipe's.
    """
    network = _Network(recipe.network if own is None else own, image_shape, classes, device)
    cost = _test_bytes(network)
    testing = cost * images_at_once(cost, most=min(most_forward(device), tested))
    step = _training_bytes(network, recipe, images)
    inputs = 4 * images * prod(image_shape)  # float32
    settings = ("number of workers",) if jobs > 1 else ("network",)
    return Footprint(jobs * max(step, testing) + sets * inputs, settings)


def unrolled_bytes(
    recipe: Recipe, image_shape: Shape, classes: int, *, images: int, steps: int, mode: Mode, device: torch.device
) -> int:
    """Bytes of the gradient through `steps` steps on `images` images each; for `truncated`, `steps` is the window."""
    network = _Network(recipe.network, image_shape, classes, device)
    weights = _weight_bytes(network)
    if mode in ("adjoint", "tesla"):
        one_step = _unrolled_bytes(network, recipe.augmentation, steps=1, mode="adjoint")
        return images * one_step + bytes_in_memory(weights, steps, device) + _COPIES * weights
    first, second = (_unrolled_bytes(network, recipe.augmentation, steps=count, mode="full") for count in (1, 2))
    return images * (first + (steps - 1) * (second - first)) + (2 * steps + _COPIES) * weights


# --- measurements: each is made once for a network ---------------------------------------------------------------


class _Network(NamedTuple):
    """What determines the bytes of a network's step, whatever its weights are."""

    network: Network
    image_shape: Shape
    classes: int
    device: torch.device

    def built(self) -> nn.Module:
        """The network in training mode."""
        model = built(self.network, self.image_shape, outputs=self.classes, seed=0)
        return model.to(self.device).train()


_measured_once = lru_cache(maxsize=64)


@_measured_once
def _weight_bytes(network: _Network) -> int:
    return sum(parameter.nbytes for parameter in network.built().parameters())


@_measured_once
@torch.no_grad()
def _test_bytes(network: _Network) -> int:
    """Bytes of an image in a forward pass without gradient."""
    model = network.built().eval()
    return bytes_an_image(lambda pixels: model(pixels.float()), network.image_shape, network.device)


@_measured_once
def _step_bytes(network: _Network, strategy: str) -> int:
    """Bytes of an image in a step of training."""
    model = network.built()

    def step(pixels: Tensor) -> None:
        labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
        F.cross_entropy(model(_augmented(pixels.float(), strategy)), labels).backward()

    return bytes_an_image(step, network.image_shape, network.device)


@_measured_once
def _unrolled_bytes(network: _Network, strategy: str, *, steps: int, mode: Mode) -> int:
    """Bytes of an image in the gradient through `steps` steps."""
    model = network.built()
    theta = tuple(parameter.detach() for parameter in model.parameters())

    def through(pixels: Tensor) -> object:
        return _unrolled(model, theta, pixels.float(), strategy, steps=steps, mode=mode)

    return bytes_an_image(through, network.image_shape, network.device)


def _unrolled(
    model: nn.Module, theta: Tensors, pixels: Tensor, strategy: str, *, steps: int, mode: Mode
) -> unroll.Unrolled:
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)

    def loss(t: int, weights: Tensors, learned: Tensors) -> Tensor:
        return F.cross_entropy(unroll.apply(model, weights, _augmented(learned[0], strategy)), labels)

    def outer(final: Tensors) -> Tensor:
        return torch.stack([weights.square().sum() for weights in final]).sum()

    step = unroll.sgd_step(loss, lambda t, learned: learned[1])
    return unroll.unroll(step, steps, theta, (pixels, torch.ones((), device=pixels.device)), outer, mode=mode)


def _augmented(inputs: Tensor, strategy: str) -> Tensor:
    """`inputs` under the last kind of the strategy; all kinds run, so that the most memory is measured."""
    views = inputs
    for kind in parse_strategy(strategy) or ("none",):
        views = augment.dsa(inputs, kind, generator=generator(0, "footprint"))
    return views
