"""The objectives that self-supervised learning minimises over two views of each image.

They are computed in float32 or float64, even where autocast is on around the call.

Shapes: n images, D outputs of the projector for a view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5  # added to variances, as in batch norm


def barlow_twins(
    first: Float[Tensor, "n D"], second: Float[Tensor, "n D"], *, off_diagonal: float = 5e-3
) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, with C (D, D) the correlation of both views' outputs.

    Zbontar et al. 2021, equations 1 and 2; lambda is `off_diagonal`.
    """
    with torch.autocast(first.device.type, enabled=False):
        one, other = (_standardised(_precise(values)) for values in (first, second))
        correlation = one.T @ other / len(one)
    diagonal = correlation.diagonal()
    rest = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * rest


def nt_xent(first: Float[Tensor, "n D"], second: Float[Tensor, "n D"], *, temperature: float) -> Float[Tensor, ""]:
    """Mean over the 2n views of -log softmax(cosine / T) at the same image's other view.

    The softmax is over all 2n views but the view itself: Chen et al. 2020 (SimCLR), equation 1.
    """
    with torch.autocast(first.device.type, enabled=False):
        views = F.normalize(_precise(torch.cat([first, second])), dim=1)
        likeness = views @ views.T / temperature
    likeness = likeness.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    partners = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(likeness, partners)


def byol(predicted: Float[Tensor, "n D"], target: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Mean over images of 2 - 2 cos(predicted, target): Grill et al. 2020, equation 2, one of its two directions."""
    return 2 - 2 * F.cosine_similarity(_precise(predicted), _precise(target), dim=1).mean()


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _standardised(values: Tensor) -> Tensor:
    """Each output with mean 0 and variance 1 over images, as from a batch norm without weights in training."""
    variance, mean = torch.var_mean(values, dim=0, correction=0)
    return (values - mean) / (variance + EPSILON).sqrt()
