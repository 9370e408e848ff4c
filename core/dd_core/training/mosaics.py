"""Mosaics of the crops of real images that a teacher classifies best (RDED: Sun, Shi, Liu and Lin 2024).

Some crops of each real image are drawn, and the crop with the teacher's smallest loss is kept. Of the kept crops of a
class, those with the smallest losses are reduced in size, and factor x factor of them make an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from dd_core import selection
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Tensors
from dd_core.augment import views
from dd_core.errors import UserError
from dd_core.images import InputForm, Source, require_labels
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.training.mosaic_config import MosaicConfig
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec, form_in, network_of, teacher_for

TEACHER = "teacher"  # role among the artefacts
IMAGES_AT_ONCE = 50  # images whose crops go through the teacher together; it changes at most the last bits of losses


class MosaicSpec(ArtefactSpec):
    """Mosaics, `counts[c]` of each class c; a part is a class."""

    kind: ClassVar[str] = "mosaics"
    verb: ClassVar[str] = "choosing"
    noun: ClassVar[str] = "group of crops"

    teacher: TeacherSpec = Field(description="the teacher")
    mosaic: MosaicConfig = Field(description="how crops are drawn and put together")
    counts: tuple[int, ...] = Field(description="mosaics of each class")
    seed: int = Field(default=0, ge=0, description="seed of images and crops")

    def needs(self) -> dict[str, ArtefactSpec]:
        """The teacher."""
        return {TEACHER: self.teacher}

    def sources(self) -> dict[str, str]:
        """The real images."""
        return self.teacher.sources()

    def parts(self) -> int:
        """One class a part."""
        return len(self.counts)

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """The mosaics of class `index`, with the teacher's mean loss on their crops."""
        del progress
        teacher: Artefact = resources.artefacts[TEACHER]
        source: Source = resources.sources[self.teacher.source]
        device = devices.resolve(resources.device)
        crops, losses = self._best_crops(index, source, network_of(teacher).to(device), form_in(teacher), device)
        kept = losses.argsort(stable=True)[: self.counts[index] * self.mosaic.factor**2]
        return {"images": tiled(crops[kept], self.mosaic.factor).numpy()}, {"loss": losses[kept].mean().item()}

    @torch.no_grad()
    def _best_crops(
        self, label: int, source: Source, teacher: nn.Module, form: InputForm, device: torch.device
    ) -> tuple[UInt8[Tensor, "n C H W"], Float[Tensor, " n"]]:
        """For `mosaic.images` random images of a class, the resized crop with the least loss of each, and that loss."""
        mosaic, streams = self.mosaic, Streams(self.seed).child("mosaics", label)
        members = (require_labels(source) == label).nonzero().flatten()
        chosen = members[torch.randperm(len(members), generator=streams.generator("images"))[: mosaic.images]]
        size = torch.tensor(self.teacher.image_shape[1:]).expand(len(chosen) * mosaic.crops, 2)
        boxes = views.draw_boxes(size, scale=mosaic.crop, ratio=(1.0, 1.0), generator=streams.generator("crops"))
        kept: list[Tensor] = []
        losses: list[Tensor] = []
        for rows, drawn in zip(chosen.split(IMAGES_AT_ONCE), boxes.split(IMAGES_AT_ONCE * mosaic.crops), strict=True):
            images = source.take(rows).repeat_interleave(mosaic.crops, dim=0).float()
            shown = views.crops(images, drawn, torch.zeros(len(drawn), dtype=torch.bool)).round().to(torch.uint8)
            logits = teacher(form(shown.to(device)))
            loss = F.cross_entropy(logits, torch.full((len(drawn),), label, device=device), reduction="none").cpu()
            least = loss.view(-1, mosaic.crops).min(1)
            kept.append(shown.view(-1, mosaic.crops, *shown.shape[1:])[torch.arange(len(rows)), least.indices])
            losses.append(least.values)
        return torch.cat(kept), torch.cat(losses)


def tiled(crops: UInt8[Tensor, "n C H W"], factor: int) -> UInt8[Tensor, "m C H W"]:
    """Images of factor x factor reduced crops; the first crops make the first image, row by row."""
    count, (channels, height, width) = len(crops) // factor**2, crops.shape[1:]
    small = F.interpolate(
        crops.float(), size=(height // factor, width // factor), mode="bilinear", antialias=True, align_corners=False
    )
    rows = small.view(count, factor, factor, *small.shape[1:]).permute(0, 3, 1, 4, 2, 5)
    images = rows.reshape(count, channels, factor * small.shape[2], factor * small.shape[3])
    rest = (0, width - images.shape[3], 0, height - images.shape[2])  # of a side that the factor does not divide
    return F.pad(images, rest, mode="replicate").round().clamp(0, 255).to(torch.uint8)


def mosaics_of(
    source: Source, recipe: Recipe, teacher: TeacherConfig, mosaic: MosaicConfig, *, counts: tuple[int, ...], seed: int
) -> MosaicSpec:
    """The spec of the mosaics of a source; the teacher is the recipe's network, unless `teacher` names another."""
    return MosaicSpec(
        teacher=TeacherSpec.of(source, teacher_for(recipe, teacher)), mosaic=mosaic, counts=counts, seed=seed
    )


def mosaics_in(artefact: Artefact) -> UInt8[Tensor, "N C H W"]:
    """All mosaics of a `MosaicSpec`, class-major."""
    return torch.cat([torch.from_numpy(tensors["images"].copy()) for tensors, _ in artefact])


def check_mosaics(mosaic: MosaicConfig, source: Source, counts: Sequence[int]) -> None:
    """Raise `UserError` where a class has fewer images than its mosaics have crops, and for images too small."""
    each = mosaic.factor**2
    selection.members_of(source, counts)
    try:
        selection.members_of(source, [count * each for count in counts])
    except UserError as error:
        raise UserError(f"{error.text}, as a mosaic has crops of {each} different images") from None
    if max(counts) * each > mosaic.images:
        raise UserError(
            f"mosaic.images: crops of {mosaic.images} images of a class are scored, and {max(counts)} mosaics "
            f"have {max(counts) * each} crops; set mosaic.images to at least {max(counts) * each}"
        )
    if min(source.image_shape[1:]) < mosaic.factor:
        sides = "x".join(map(str, source.image_shape[1:]))
        raise UserError(
            f"mosaic.factor: {mosaic.factor} crops do not fit along each side of {sides} pixels; take a smaller factor"
        )
