"""What training, and what is built on it, will take: estimates before anything of it is begun.

A mini-batch has the size that the protocol says, since another size would be another protocol. So the memory of
training is not bounded by a budget; it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import augment, unroll
from dd_core.augment.names import parse_strategy
from dd_core.recipe import Recipe
from dd_core.streams import Streams, generator
from dd_core.system.budget import Footprint
from dd_core.system.footprint import bytes_an_image, images_at_once
from dd_core.training.initial import initialised
from dd_core.unroll import Mode, Tensors

_COPIES = 4  # of the weights: themselves, gradients, and what an optimiser keeps of each and makes at a step

Shape = tuple[int, int, int]


def image_bytes(recipe: Recipe, image_shape: Shape, classes: int, device: torch.device) -> int:
    """Bytes that each image (C, H, W) of a mini-batch takes in a step of training by `recipe`."""
    model = _model(recipe, image_shape, classes, device)

    def step(pixels: Tensor) -> None:
        labels = torch.zeros(len(pixels), dtype=torch.int64, device=device)
        F.cross_entropy(model(_augmented(pixels.float(), recipe.augmentation)), labels).backward()

    return bytes_an_image(step, image_shape, device)


def training_bytes(recipe: Recipe, image_shape: Shape, classes: int, images: int, device: torch.device) -> int:
    """Bytes that a step of training by `recipe` takes, beside the `images` images (C, H, W) that it learns from."""
    together = images if recipe.steps else min(images, recipe.batch_size)
    weights = _weight_bytes(_model(recipe, image_shape, classes, device))
    return together * image_bytes(recipe, image_shape, classes, device) + _COPIES * weights


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
) -> Footprint:
    """`jobs` networks at a time that train on a set of `images` and are tested on `tested`, and `sets` such sets."""
    model = _model(recipe, image_shape, classes, device).eval()
    with torch.no_grad():
        cost = bytes_an_image(lambda pixels: model(pixels.float()), image_shape, device)
    testing = cost * images_at_once(cost, most=min(512, tested))
    step = training_bytes(recipe, image_shape, classes, images, device)
    inputs = 4 * images * prod(image_shape)  # float32
    settings = ("number of workers",) if jobs > 1 else ("network",)
    return Footprint(jobs * max(step, testing) + sets * inputs, settings)


def unrolled_bytes(
    recipe: Recipe, image_shape: Shape, classes: int, *, images: int, steps: int, mode: Mode, device: torch.device
) -> int:
    """Bytes of the gradient through `steps` steps on `images` images each; `truncated`: through the `steps` last."""
    model = _model(recipe, image_shape, classes, device)
    theta = tuple(parameter.detach() for parameter in model.parameters())

    def through(count: int, mode: Mode) -> Callable[[Tensor], object]:
        return lambda pixels: _unrolled(model, theta, pixels.float(), recipe.augmentation, steps=count, mode=mode)

    weights = _weight_bytes(model)
    if mode in ("adjoint", "tesla"):
        return images * bytes_an_image(through(1, "adjoint"), image_shape, device) + (steps + _COPIES) * weights
    first, second = (bytes_an_image(through(count, "full"), image_shape, device) for count in (1, 2))
    return images * (first + (steps - 1) * (second - first)) + (2 * steps + _COPIES) * weights


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
    """Each kind of the strategy in turn, so that the largest is among them; the last one's result."""
    views = inputs
    for kind in parse_strategy(strategy) or ("none",):
        views = augment.dsa(inputs, kind, generator=generator(0, "footprint"))
    return views


def _model(recipe: Recipe, image_shape: Shape, classes: int, device: torch.device) -> nn.Module:
    """The recipe's network, wherever its weights come from, in training mode."""
    drawn = recipe.model_copy(update={"initialisation": "default", "weights": None})
    return initialised(drawn, image_shape, classes, streams=Streams(0)).to(device).train()


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
