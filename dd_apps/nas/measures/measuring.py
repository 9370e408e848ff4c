"""One zero-cost measure of a network; the network itself does not change."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dd_apps.nas.measures import formulas
from dd_apps.nas.measures.table import Measure, by_name
from dd_core import streams
from dd_core.errors import UserError
from dd_core.system import surroundings

FORMULAS: dict[str, Any] = {
    "parameters": formulas.parameters,
    "flops": formulas.flops,
    "synflow": formulas.synflow,
    "jacob_cov": formulas.jacob_cov,
    "naswot": formulas.naswot,
    "snip": formulas.snip,
    "grad_norm": formulas.grad_norm,
}


@surroundings.own()
def measure(
    name: str, network: nn.Module, images: Num[Tensor, "N C H W"], labels: Num[Tensor, " labels"] | None = None
) -> float:
    """The zero-cost measure `name` of an untrained network; higher predicts a better architecture.

    `images` are normalised inputs of the network; the literature takes 64, drawn at random, and 128 for `naswot`.
    `labels` are class indices, for `snip` and `grad_norm`. A copy of the network is measured on the network's device,
    with all parameters trainable, in training mode (`synflow` and `flops`: in evaluation mode); random draws, as of
    dropout, come from one fixed stream. `synflow` is the sum itself, not its logarithm, and refused where it overflows
    float64.

    Raises `UserError` where the measure has no finite value for this network and batch, with the reason.
    """
    spec = by_name(name)
    try:
        value = _value(spec, network, images, labels)
        if not math.isfinite(value):
            raise UserError(f"its value is {value}, since weights, outputs or gradients of the network overflow")
    except UserError as error:
        raise UserError(f"no {name}: {error.text}") from error
    return value


def _value(spec: Measure, network: nn.Module, images: Tensor, labels: Tensor | None) -> float:
    if spec.needs_images:
        _check_images(images)
    if spec.needs_labels:
        _check_labels(labels, count=len(images))
    duplicate = _copy(network)
    like = next((each for each in duplicate.parameters() if each.is_floating_point()), images)
    inputs = {
        "shape": images.shape[1:],
        "images": images.detach().to(like.device, like.dtype).clone(),  # a first layer may overwrite its input
        "labels": None if labels is None else labels.to(like.device, torch.long).clone(),
    }
    with streams.seeded(0, "zero-cost measure"):
        return FORMULAS[spec.name](duplicate, *(inputs[need] for need in spec.needs))


def _check_images(images: Tensor) -> None:
    if not images.is_floating_point():
        raise UserError(f"the images are {images.dtype}; give floats, normalised as inputs of the network")
    if not len(images):
        raise UserError("there are no images")
    if not images.isfinite().all():
        raise UserError("pixels of the images are not finite")


def _check_labels(labels: Tensor | None, *, count: int) -> None:
    if labels is None or labels.is_floating_point():
        raise UserError("give the labels of the images, as class indices")
    if len(labels) != count:
        raise UserError(f"{len(labels)} labels for {count} images")


def _copy(network: nn.Module) -> nn.Module:
    """A copy of the network in training mode, with gradients for all parameters."""
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise UserError("the network has lazy layers, whose sizes are not known yet; run it on one batch first")
    try:
        duplicate = deepcopy(network).train()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # a tensor that is no leaf, or an object that cannot be copied
        reason = str(error).partition("\n")[0]
        raise UserError(f"a {type(network).__name__} is measured on a copy and cannot be copied: {reason}") from error
    for parameter in duplicate.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    return duplicate
