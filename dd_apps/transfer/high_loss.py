"""The real images with the highest loss of a trained network, as a baseline of MKDT (Joshi et al. 2025)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dd_apps.transfer.pretraining import Say, pretrain
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.system import device as devices
from dd_core.system.footprint import prediction_batch


def high_loss_rows(
    source: Source, taught: DistilledSet, count: int, *, seed: int, device: str, say: Say | None = None
) -> Int64[Tensor, " n"]:
    """The rows of the `count` images with the highest loss of a network that learned all of them, the highest first.

    taught: all images of `source` with features (N, D) as targets, and the recipe that trains the network. The loss of
    an image is the mean over its D targets of the squared error, after training, in evaluation mode. Raises `UserError`
    where there are fewer images, and what `pretrain` raises.
    """
    if count > len(source):
        raise UserError(f"{count} images cannot be chosen from {len(source)}; give a smaller number")
    student = pretrain(taught.manifest.recipe.network, taught, seed=seed, device=device, say=say)
    assert taught.targets is not None
    losses = _losses(student, source, taught, torch.tensor(taught.targets), devices.resolve(device))
    return losses.argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def _losses(
    student: torch.nn.Module, source: Source, taught: DistilledSet, targets: Tensor, device: torch.device
) -> Float[Tensor, " N"]:
    form = taught.input_form()

    def outputs(images: Tensor) -> Tensor:
        return student(form(images))

    size = prediction_batch(outputs, source.image_shape, device)
    found = torch.cat([outputs(batch.to(device)).cpu() for batch in source.batches(size)])
    return (found - targets).square().mean(1)
