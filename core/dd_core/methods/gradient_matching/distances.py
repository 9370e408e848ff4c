"""The weights whose gradients are matched, and the distance of two gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALL = 1e-6  # added to the product of two norms, so that no cosine divides by zero


def weights_of(network: nn.Module, matched: str) -> list[nn.Parameter]:
    """The weights whose gradients are matched: all with 2 or more dimensions, or those with 4 (convolutions)."""
    least = 4 if matched == "convolutions" else 2
    return [parameter for parameter in network.parameters() if parameter.ndim >= least]


def distance(gradients: Sequence[Tensor], others: Sequence[Tensor], kind: str) -> Tensor:
    """D, a scalar: the sum over weights of 1 - cosine of each row, of absolute (l1) or of squared differences (mse)."""
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
