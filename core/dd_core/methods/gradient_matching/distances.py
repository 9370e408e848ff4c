"""Gradients of a network on some images, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALL = 1e-6  # added to the product of two norms


def weights_of(network: nn.Module, matched: str) -> list[nn.Parameter]:
    """The weights whose gradients are matched: of all layers, or of convolutions; none that has one dimension."""
    least = 4 if matched == "convolutions" else 2
    return [parameter for parameter in network.parameters() if parameter.ndim >= least]


def distance(gradients: Sequence[Tensor], others: Sequence[Tensor], kind: str) -> Tensor:
    """D: the sum over weights of 1 - cosine of each row, of absolute (l1) or of squared differences (mse)."""
    measure = {"cosine": _cosine, "l1": _absolute, "mse": _squared}[kind]
    return torch.stack([measure(one, other) for one, other in zip(gradients, others, strict=True)]).sum()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    one, other = one.flatten(1), other.flatten(1)
    products = (one * other).sum(1)
    return (1 - products / (one.norm(dim=1) * other.norm(dim=1) + SMALL)).sum()


def _absolute(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().sum()


def _squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum()
