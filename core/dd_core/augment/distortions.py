"""Two distorted views of each image, for self-supervised learning.

Draws are recorded for all images of an epoch, so that any rows can be shown as a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from dd_core.augment import colour, views
from dd_core.augment.view_config import Distortions, Views


@dataclass(frozen=True)
class Distorted:
    """One view of each of N images.

    boxes, flips: see `views.Records`; factors: those of brightness, contrast and saturation, and the shift of hue;
    order: the order in which these four are applied; jittered: whether they are applied at all; greyed, solarised:
    whether the view loses its colours, and is solarised.
    """

    boxes: Int64[Tensor, "N 4"]
    flips: Bool[Tensor, " N"]
    factors: Float[Tensor, "N 4"]
    order: Int64[Tensor, "N 4"]
    jittered: Bool[Tensor, " N"]
    greyed: Bool[Tensor, " N"]
    solarised: Bool[Tensor, " N"]

    def of(self, rows: Int64[Tensor, " n"]) -> Distorted:
        """The records of the images `rows`."""
        return Distorted(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw(
    settings: Distortions, *, second: bool, count: int, image_size: tuple[int, int], generator: torch.Generator
) -> Distorted:
    """The first or the second view of each of `count` images of (H, W) pixels. `generator` is a CPU generator."""
    crop = Views(crop=settings.crop, flip=settings.flip)
    crops = views.draw(crop, count=count, image_size=image_size, generator=generator)
    limits = torch.tensor([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    drawn = (2 * torch.rand(count, 4, generator=generator) - 1) * limits
    factors = drawn + torch.tensor([1.0, 1.0, 1.0, 0.0])
    order = torch.rand(count, 4, generator=generator).argsort(1)
    chances = torch.rand(3, count, generator=generator)
    limit = torch.tensor([settings.jitter, settings.grey, settings.solarise[int(second)]])
    jittered, greyed, solarised = (chances < limit[:, None]).unbind(0)
    return Distorted(crops.boxes, crops.flips, factors, order, jittered, greyed, solarised)


def distorted(images: UInt8[Tensor, "n C H W"], records: Distorted) -> Float[Tensor, "n C H W"]:
    """The views of n images that `records` describe, in [0, 1], on the images' device."""
    shown = views.crops(images.float() / 255, records.boxes, records.flips).clamp(0, 1)
    factors, greyed, solarised = (
        each.to(shown.device, non_blocking=True) for each in (records.factors, records.greyed, records.solarised)
    )
    operations = (colour.brightened, colour.contrasted, colour.saturated, colour.hued)
    for place in range(len(operations)):
        for number, operation in enumerate(operations):
            chosen = records.jittered & (records.order[:, place] == number)
            if chosen.any():  # on the CPU, so that nothing waits for a GPU
                rows = chosen.nonzero().flatten().to(shown.device, non_blocking=True)
                shown = shown.index_copy(0, rows, operation(shown[rows], factors[rows, number]))
    shown = colour.where(greyed, colour.grey(shown).expand_as(shown), shown)
    return colour.where(solarised, colour.solarised(shown), shown)
