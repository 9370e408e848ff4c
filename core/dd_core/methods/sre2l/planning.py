"""The artefacts, checks and bytes of a run of SRe2L, and the set that it makes."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dd_core import artefacts, networks, selection, training
from dd_core.config import decode
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.distiller import Context
from dd_core.errors import UserError
from dd_core.images import InputForm, Source, require_labels
from dd_core.methods.sre2l.config import RECOVERY, TEACHER, SRe2LConfig
from dd_core.methods.sre2l.recovery import RecoveryBatch, RecoverySpec, recovered, snapshots
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system.budget import Footprint
from dd_core.system.footprint import bytes_an_image
from dd_core.training.estimates import training_bytes
from dd_core.training.mosaics import MosaicSpec
from dd_core.training.teachers import TeacherSpec, form_in, teacher_for


def recovery_spec(config: SRe2LConfig, source: Source, size: Size, seed: int) -> RecoverySpec:
    """The spec of the recovered images, which has the spec of their teacher within."""
    teacher, counts = TeacherSpec.of(source, teacher_for(config.recipe, config.teacher)), _counts(source, size)
    mosaics = None
    if config.recover.initial == "mosaics":
        mosaics = MosaicSpec(teacher=teacher, mosaic=config.mosaic, counts=counts, seed=seed)
    return RecoverySpec(teacher=teacher, recover=config.recover, mosaics=mosaics, counts=counts, seed=seed)


def _counts(source: Source, size: Size) -> tuple[int, ...]:
    return size.per_class(len(source.classes))


def check_source(config: SRe2LConfig, source: Source, size: Size) -> None:
    """Raise `UserError` for what `config.check` names."""
    require_labels(source)
    name = str(teacher_for(config.recipe, config.teacher).network)
    networks.require_batch_norms(networks.for_source(name, source, seed=0), name)
    if config.recover.initial == "real":
        selection.members_of(source, _counts(source, size))
    if config.recover.initial == "mosaics":
        training.check_mosaics(config.mosaic, source, _counts(source, size))


def footprint(config: SRe2LConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """The larger of a step of the teacher's training and an iteration on a batch of images."""
    shape, classes, teacher = source.image_shape, len(source.classes), teacher_for(config.recipe, config.teacher)
    name = str(teacher.network)
    recipe = Recipe(network=name, batch_size=teacher.batch_size)
    training = training_bytes(recipe, shape, classes, len(source), device) if teacher.epochs else 0
    network = networks.for_source(name, source, seed=0)
    form = InputForm((0.5,) * shape[0], (0.5,) * shape[0])

    def iteration(pixels: Tensor) -> None:
        labels = torch.zeros(len(pixels), dtype=torch.int64)
        batch = RecoveryBatch(network, form(pixels), labels, form, config.recover, streams=Streams(0), device=device)
        batch.step()

    images = min(config.recover.batch_size, sum(_counts(source, size)))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    recovery = images * bytes_an_image(iteration, shape, device) + weights
    return Footprint(max(training, recovery), (f"{'teacher' if training > recovery else 'recover'}.batch_size",))


def recovered_set(config: SRe2LConfig, context: Context) -> DistilledSet:
    """The set of recovered images: uint8 raw pixels, which networks see normalised as the teacher's inputs are."""
    form = form_in(context.artefacts[TEACHER])
    manifest = Manifest(
        classes=context.source.classes,
        pixels=Pixels(space="raw", mean=form.mean, std=form.std),
        recipe=config.recipe.for_source(context.source.name),
    )
    images = recovered(context.artefacts[RECOVERY]).numpy()
    return DistilledSet(images, selection.labels_of(context.counts).numpy(), manifest)


def way_of(ds: DistilledSet) -> UInt8[np.ndarray, "S N C H W"]:
    """The raw pixels of an SRe2L set at S moments of their recovery, from the start to the finished set.

    Raises `UserError` for another method's set, for a set made without snapshots, and where the cache lacks them.
    """
    provenance = ds.manifest.provenance
    if provenance is None or provenance.method != SRe2LConfig.name:
        raise UserError("only a set of method sre2l can be animated: it alone keeps intermediate states of its images")
    config = decode(SRe2LConfig, provenance.config, where="the set's manifest", key="config")
    if not config.recover.snapshots:
        raise UserError(
            "no intermediate states of the images were kept; distil with --set recover.snapshots=20 to keep them"
        )
    for content in provenance.artefacts:
        if (artefact := artefacts.by_content(content, RecoverySpec)) is not None:
            return snapshots(artefact).numpy()
    raise UserError(
        "the intermediate states of the images are not in this cache: the set was made with another cache, or they "
        "were pruned; use that cache, or distil again"
    )
