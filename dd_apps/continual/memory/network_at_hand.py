"""Outputs (for soft labels) and features of images, by a strategy's network as it is after an experience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dd_apps.continual.adapter import AvalancheDataset, avalanche_forward
from dd_core import networks
from dd_core.errors import UserError
from dd_core.system.surroundings.generators import generators_kept

BATCH = 256  # images at once


def outputs(strategy: Any, data: AvalancheDataset) -> Float[Tensor, "n K"]:
    """The network's outputs for the images of `data` in their transforms for evaluation, in evaluation mode."""
    return _of_batches(strategy, data, lambda images, tasks: avalanche_forward(strategy.model, images, tasks))


def features(strategy: Any, data: AvalancheDataset) -> Float[Tensor, "n D"]:
    """The inputs of the network's last linear layer for the images of `data`, in the same modes as `outputs`.

    Raises `UserError` for a network without a linear layer.
    """
    return _of_batches(strategy, data, lambda images, tasks: networks.embed(strategy.model, images))


def require_network(strategy: Any) -> None:
    """Raise `UserError` if `strategy` has no network."""
    if not isinstance(getattr(strategy, "model", None), nn.Module):
        raise UserError(
            "this memory needs the strategy's network for labels or features, and got no strategy; let a plugin of "
            "Avalanche update the memory, or hand the strategy to post_adapt"
        )


@torch.no_grad()
def _of_batches(strategy: Any, data: AvalancheDataset, of: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
    parts: list[Tensor] = []
    with generators_kept(), _evaluating(strategy.model):
        for images, _, *rest in DataLoader(cast(Any, data.eval()), batch_size=BATCH):
            tasks = rest[0].to(strategy.device) if rest else None
            parts.append(of(images.to(strategy.device), tasks).float().cpu())
    return torch.cat(parts)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards each module returns to the mode that it had before."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
