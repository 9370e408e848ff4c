"""GSAM (Zhuang et al. 2022): a step of SGD towards a flat minimum, within ASAM's neighbourhood (Kwon et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dd_core.methods.trajectory_matching.expert_training import Sharpness

Gradients = tuple[Tensor, ...]


def flat_gradient(
    loss_at: Callable[[Gradients], Tensor], theta: Gradients, *, sharpness: Sharpness
) -> tuple[Tensor, Gradients]:
    """(loss at `theta`, gradient of a step from there towards a flat minimum).

    g is the gradient at theta, e = rho theta^2 g / || |theta| g || the worst step nearby (ASAM, equation 9), and g_p
    the gradient at theta + e. The result is g_p less alpha times the part of g that is orthogonal to g_p (GSAM,
    equation 8); norms are over all parameters.
    """
    loss = loss_at(theta)
    g = torch.autograd.grad(loss, theta)
    with torch.no_grad():
        scale = sharpness.rho / (_norm(tuple(w.abs() * part for w, part in zip(theta, g, strict=True))) + 1e-12)
        worst = tuple(w + scale * w.square() * part for w, part in zip(theta, g, strict=True))
    worst = tuple(w.requires_grad_() for w in worst)
    g_p = torch.autograd.grad(loss_at(worst), worst)
    along = sum((a * b).sum() for a, b in zip(g, g_p, strict=True)) / (_norm(g_p).square() + 1e-12)
    return loss.detach(), tuple(b - sharpness.alpha * (a - along * b) for a, b in zip(g, g_p, strict=True))


def _norm(tensors: Gradients) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors]).norm()
