"""Losses of a network's outputs and their targets, each a formula of tensors.

N images, K classes, D outputs. z are a network's logits (N, K), y labels (N,), p class probabilities (N, K), T the
temperature of soft targets; q = softmax(z / T). The caller makes p from logits with the same T.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dd_core.errors import UserError
from dd_core.recipe import LossName

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> mean over the images


def named(name: LossName, *, temperature: float = 1.0) -> Loss:
    """The loss that a recipe calls `name`, at its temperature."""
    if name == "mse":
        return squared_error
    if name == "cross-entropy":
        return partial(cross_entropy, temperature=temperature)
    return partial(divergence, temperature=temperature, squared=name == "kl-t2")


def cross_entropy(
    logits: Float[Tensor, "N K"], targets: Float[Tensor, "N K"] | Int64[Tensor, " N"], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Mean over images of - sum_k p_k log q_k; for labels of - log softmax(z)_y, without the temperature."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits / temperature, targets)


def divergence(
    logits: Float[Tensor, "N K"],
    targets: Float[Tensor, "N K"] | Int64[Tensor, " N"],
    *,
    temperature: float = 1.0,
    squared: bool = False,
) -> Float[Tensor, ""]:
    """Mean over images of KL(p || q) = sum_k p_k (log p_k - log q_k); times T^2 where `squared` (Hinton et al. 2015).

    As gradients shrink with 1 / T^2, the factor keeps them equally large at every temperature. Labels are learned by
    cross-entropy, which is the divergence from one-hot probabilities.
    """
    if targets.ndim == 1:
        return cross_entropy(logits, targets)
    mean = F.kl_div((logits / temperature).log_softmax(1), targets, reduction="batchmean")
    return mean * temperature**2 if squared else mean


def squared_error(outputs: Tensor, targets: Tensor) -> Float[Tensor, ""]:
    """Mean of (outputs - targets)^2 over images and outputs; both are (N, D), targets being features or logits.

    Raises `UserError` where the shapes differ, as with labels, or features of another width.
    """
    if outputs.shape != targets.shape:
        raise UserError(
            f"loss 'mse' compares outputs {tuple(outputs.shape)} with targets {tuple(targets.shape)}; both need the "
            "same shape, one target for each output of the network"
        )
    return F.mse_loss(outputs, targets)


def needs_values(name: LossName) -> bool:
    """Whether a loss takes logits or features as targets, and no labels or probabilities."""
    return name == "mse"


def require_learnable(name: LossName, targets: str) -> None:
    """Raise `UserError` for a loss that cannot learn a set with targets of the kind `targets` (see `Manifest`)."""
    if needs_values(name) and targets not in ("logits", "features"):
        kind = "labels alone" if targets == "none" else targets
        raise UserError(
            f"loss 'mse' compares outputs with logits or features, and the set has {kind}; take another loss"
        )
    if targets == "features" and not needs_values(name):
        raise UserError(f"a set with features needs loss 'mse', and the recipe's loss is '{name}'")
