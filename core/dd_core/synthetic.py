"""What a method may ask of the pixels that it learns beside its own loss: that they look like photographs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def total_variation(images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Sum over four directions of the L2 norm of all differences between neighbouring pixels (Yin et al. 2020)."""
    down, right = images[:, :, 1:], images[:, :, :, 1:]
    differences: Sequence[Tensor] = (
        right - images[:, :, :, :-1],
        down - images[:, :, :-1],
        down[:, :, :, 1:] - images[:, :, :-1, :-1],
        down[:, :, :, :-1] - right[:, :, :-1],
    )
    return torch.stack([difference.norm() for difference in differences]).sum()


def mean_norm(images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Mean over images of the L2 norm."""
    return images.flatten(1).norm(dim=1).mean()
