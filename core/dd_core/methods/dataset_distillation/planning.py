"""What dataset distillation needs before it begins: checks, the pool of networks, and the bytes that a run takes."""

from __future__ import annotations

from math import prod

import torch

from dd_core import selection, training
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.methods.dataset_distillation.config import DatasetDistillationConfig
from dd_core.recipe import StartingPool
from dd_core.system.budget import Footprint
from dd_core.system.footprint import images_at_once
from dd_core.training import estimates, starts

pretrained_on = starts.pretrained_on


def check_steps(config: DatasetDistillationConfig, source: Source, size: Size) -> None:
    """Raise `UserError` for what `config.check` names."""
    training.block_rows(selection.labels_of(config.seen(size, len(source.classes))), config.blocks)
    config.attacked(source)
    steps = config.blocks * config.epochs
    if config.gradient == "truncated" and (config.window is None or config.window > steps):
        raise UserError(f"gradient 'truncated' needs a window from 1 to {steps} steps, not {config.window}")
    training.require_pure(config.recipe, source.image_shape, len(source.classes), method=config.name)


def pool_spec(config: DatasetDistillationConfig, source: Source, weights: StartingPool) -> starts.StartingWeightsSpec:
    """The spec of the pool of networks `weights`, for images shaped like those of `source`."""
    return starts.spec_of(config.recipe, source.image_shape, len(source.classes), weights)


def footprint(config: DatasetDistillationConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """The inner loop over the synthetic images of a block, and the outer loss on real ones within `batch_bytes`.

    Both are held together: the outer loss is computed from the inner loop's last weights, whose graph waits for it.
    """
    classes, stored = len(source.classes), sum(size.per_class(len(source.classes)))
    steps = config.window if config.gradient == "truncated" else None
    inner = estimates.unrolled_bytes(
        config.recipe,
        source.image_shape,
        classes,
        images=sum(config.seen(size, classes)) // config.blocks,
        steps=steps or config.blocks * config.epochs,
        mode="adjoint" if config.gradient == "auto" else config.gradient,
        device=device,
    )
    outer = _image_bytes(config, source, device) * real_at_once(config, source, device)
    whole = 16 * stored * prod(source.image_shape)  # pixels, gradient, Adam's two moments
    graph = "network" if config.gradient in ("auto", "adjoint") else "network, or gradient 'adjoint',"
    return Footprint(inner + outer + whole, ("batch_bytes" if outer > inner else graph,))


def real_at_once(config: DatasetDistillationConfig, source: Source, device: torch.device) -> int:
    """The number of real images that go through the network together in the outer loss."""
    most = min(config.batch_real, len(source))
    return images_at_once(_image_bytes(config, source, device), budget=config.batch_bytes, most=most)


def _image_bytes(config: DatasetDistillationConfig, source: Source, device: torch.device) -> int:
    """Bytes that a real image takes in the outer loss."""
    recipe = config.recipe.model_copy(update={"augmentation": "none"})
    return estimates.image_bytes(recipe, source.image_shape, len(source.classes), device)
