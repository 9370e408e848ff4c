"""Kernel ridge regression in closed form, with its gradient.

Shapes: N support images, B queries, D features of an image, K targets of an image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def with_one(features: Float[Tensor, "n D"]) -> Float[Tensor, "n D+1"]:
    """The features with a column of ones, which gives a linear regression its offset."""
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def predictions(
    support: Float[Tensor, "N D"], targets: Float[Tensor, "N K"], queries: Float[Tensor, "B D"], *, ridge: float
) -> Float[Tensor, "B K"]:
    """The predictions for `queries` of a ridge regression from `support` to `targets`; differentiable in all three.

        K_qs (K_ss + lambda I)^-1 Y,   K_ab = F_a F_b^T,   lambda = ridge trace(K_ss), taken as a constant

    All is computed in float64, whatever the features are: the smallest eigenvalue is a millionth of the largest one,
    and float32 would leave an error of a percent in values and gradients. With more images than features the smaller,
    equivalent system F_q (F_s^T F_s + lambda I)^-1 F_s^T Y is solved. The result is float64 for float64 features, else
    float32. (Lee et al. 2024)
    """
    f_s, f_q, values = (tensor.double() for tensor in (support, queries, targets))
    penalty = ridge * f_s.square().sum().detach()
    if len(f_s) <= f_s.shape[1]:
        predicted = (f_q @ f_s.T) @ torch.linalg.solve(_damped(f_s @ f_s.T, penalty), values)
    else:
        predicted = f_q @ torch.linalg.solve(_damped(f_s.T @ f_s, penalty), f_s.T @ values)
    return predicted if support.dtype == torch.float64 else predicted.float()


def _damped(matrix: Float[Tensor, "n n"], penalty: Float[Tensor, ""]) -> Float[Tensor, "n n"]:
    return matrix + penalty * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
