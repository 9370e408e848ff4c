"""The artefacts, checks and bytes of a run of KRR-ST."""

from __future__ import annotations

from math import prod

import torch

from dd_core import networks, training
from dd_core.artefacts import ArtefactSpec
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import Source, called, require_labels
from dd_core.methods.krr_st.config import FEATURES, TEACHER, KRRSTConfig
from dd_core.streams import Streams
from dd_core.system.budget import Footprint
from dd_core.training.estimates import training_bytes
from dd_core.training.feature_teachers import FeaturesSpec

_WIDTH = 512  # features of the literature's teachers; a teacher's own number is known only once it is made


def needed(config: KRRSTConfig, source: Source) -> dict[str, ArtefactSpec]:
    """The teacher, and its features of all real images; nothing with `objective` labels."""
    if config.objective == "labels":
        return {}
    network = config.teacher.network or config.recipe.network
    features = FeaturesSpec.of(source, config.teacher.model_copy(update={"network": network}))
    return {TEACHER: features.teacher, FEATURES: features}


def check_source(config: KRRSTConfig, source: Source, size: Size) -> None:
    """Raise `UserError` for too few real images, and for a network without features or that cannot be unrolled."""
    count = size.total(len(source.classes))
    if config.objective == "labels":
        require_labels(source)
    if config.initial == "real" and count > len(source):
        raise UserError(
            f"{called(source)} has {len(source):,} images, and {count:,} are asked for; ask for fewer, or set initial "
            "'noise', which needs no real images to start from"
        )
    if config.inner == "unrolled":
        training.require_pure(config.recipe, source.image_shape, _WIDTH, method="inner 'unrolled'")
        return
    model = training.initialised(config.recipe, source.image_shape, _WIDTH, streams=Streams(0)).eval()
    with torch.no_grad():
        networks.embed(model, torch.zeros(1, *source.image_shape))


def footprint(config: KRRSTConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """A step of training on all synthetic images, the networks of the pool, kernels, and the answers to real images."""
    count = size.total(len(source.classes))
    recipe = config.recipe.model_copy(update={"batch_size": count})
    step = training_bytes(recipe, source.image_shape, _WIDTH, count, device)
    model = training.initialised(config.recipe, source.image_shape, _WIDTH, streams=Streams(0))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    learned = 16 * count * (prod(source.image_shape) + _WIDTH)  # with gradients and two moments
    kernels = 8 * count * (2 * count + config.batch_real)
    answers = 4 * len(source) * _WIDTH
    return Footprint(step + 3 * config.networks * weights + learned + kernels + answers, ("number of images",))
