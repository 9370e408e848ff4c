"""The experts, checks and bytes of a run of trajectory matching."""

from __future__ import annotations

from math import prod

import torch

from dd_core import selection, training, zca
from dd_core.augment.names import resolve_strategy
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import Source, indices_by_class
from dd_core.methods.trajectory_matching.config import MTTConfig
from dd_core.methods.trajectory_matching.experts import ExpertsSpec
from dd_core.system.budget import Footprint
from dd_core.training.estimates import training_bytes, unrolled_bytes


def experts_spec(config: MTTConfig, source: Source) -> ExpertsSpec:
    """The spec of the experts: matched epochs are kept, and the last one if it chooses images or labels them."""
    if config.zca:
        zca.check_source(source)
    asked, whole = config.soft_labels or config.initial == "right", config.keep == "all"
    # training ends where nobody needs later epochs, so that training.epochs does not change the experts' digest
    epochs = config.training.epochs if asked or whole or config.training.decay else config.matched
    strategy = resolve_strategy(config.training.augmentation, source.name)
    return ExpertsSpec(
        source=source.fingerprint(),
        network=config.recipe.network,
        initialisation=config.recipe.initialisation,
        image_shape=source.image_shape,
        classes=len(source.classes),
        count=config.experts,
        seed=config.experts_seed,
        zca=config.zca,
        statistics=config.statistics,
        training=config.training.model_copy(update={"epochs": epochs, "augmentation": strategy}),
        first=0 if whole else config.first_epoch,
        last=epochs if whole else config.matched,
        final=asked or whole,
    )


def footprint(config: MTTConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """The larger of a step of an expert and a student's steps with their gradient, and four copies of the set."""
    shape, classes = source.image_shape, len(source.classes)
    images, seen = sum(size.per_class(classes)), sum(config.seen(size, classes))
    strategy = resolve_strategy(config.training.augmentation, source.name)
    recipe = config.recipe.model_copy(update={"batch_size": config.training.batch_size, "augmentation": strategy})
    expert = training_bytes(recipe, shape, classes, len(source), device)
    student = unrolled_bytes(
        recipe.model_copy(update={"augmentation": resolve_strategy(config.augmentation, source.name)}),
        shape,
        classes,
        images=min(config.batch_syn or seen, seen),
        steps=(config.window if config.gradient == "truncated" else None) or config.syn_steps,
        mode="adjoint" if config.gradient == "auto" else config.gradient,
        device=device,
    )
    setting = "training.batch_size" if expert > student else "batch_syn"
    return Footprint(max(expert, student) + 16 * images * prod(shape), (setting,))


def check_source(config: MTTConfig, source: Source, size: Size) -> None:
    """Raise `UserError` for what `config.check` names."""
    classes = len(source.classes)
    # with `initial` right, every tile of a formation starts from an image of its own
    selection.members_of(source, config.seen(size, classes) if config.initial == "right" else size.per_class(classes))
    training.require_pure(config.recipe, source.image_shape, classes, method=config.name)
    if config.zca:
        zca.check_source(source)
    elif config.statistics == "imagenet" and source.image_shape[0] != 3:
        raise UserError(
            f"statistics 'imagenet' are of 3 channels, and {source.name} has {source.image_shape[0]}; take statistics "
            "'data'"
        )


def rehearsal(config: MTTConfig, source: Source, size: Size) -> tuple[MTTConfig, Source]:
    """The same student steps, with one expert of one epoch, on only the images of each class that a step can use."""
    each = max(*config.seen(size, len(source.classes)), config.batch_real if config.also else 1)
    few = torch.cat([members[:each] for members in indices_by_class(source)])
    changes = {
        "experts": 1,
        "first_epoch": 0,
        "last_epoch": 1,
        "expert_epochs": 1,
        "range_start": None,
        "range_below": None,
        "threshold": None,
        "initial": "random",
        "soft_labels": False,
        "zca": False,
        "compile": None if config.compile else config.compile,  # a forecast waits for no compiler
        "training": config.training.model_copy(update={"epochs": 1, "sharpness": None}),
    }
    return config.model_copy(update=changes), source.subset(few)
