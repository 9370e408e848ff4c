"""Views of images. Each view has a record, from which the view can be shown again at any time.

A record has the box that a view shows of its image, whether the view is mirrored, which other image is mixed into it,
with which share and in which box. The other image enters by its own view, so any rows of records can be one batch.

Shapes: N images, n of them in a batch; boxes are (top, left, height, width) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dd_core.augment.view_config import Views

ATTEMPTS = 10  # draws of a box, as in torchvision's RandomResizedCrop, before the central box is taken
FLIP_PROBABILITY = 0.5
ROWS_AT_ONCE = 1 << 16  # rows whose boxes are drawn together: a draw takes 1.5 kB of memory a row


@dataclass(frozen=True)
class Records:
    """One view of each of N images.

    boxes: the part of the image that is shown, resized to the whole size; flips: whether it is then mirrored. partners:
    the row of the image whose view is mixed in; shares: the share of the view itself in the mix (lambda), 1 where
    nothing is mixed in; holes: the box in which CutMix shows the partner's view, with sides of 0 for other mixes.
    """

    boxes: Int64[Tensor, "N 4"]
    flips: Bool[Tensor, " N"]
    partners: Int64[Tensor, " N"]
    shares: Float[Tensor, " N"]
    holes: Int64[Tensor, "N 4"]

    def __len__(self) -> int:
        return len(self.boxes)

    def of(self, rows: Int64[Tensor, " n"]) -> Records:
        """The records of the images `rows`; their partners keep their row numbers."""
        return Records(self.boxes[rows], self.flips[rows], self.partners[rows], self.shares[rows], self.holes[rows])


def draw(
    views: Views,
    *,
    count: int,
    image_size: tuple[int, int],
    generator: torch.Generator,
    native_sizes: Int64[Tensor, "N 2"] | None = None,
) -> Records:
    """One view of each of `count` images of (H, W) pixels. `generator` is a CPU generator.

    Every image takes equally many draws, so the record of a row depends on `count` and on no other row.

    native_sizes: (height, width) of the image that each crop is cut from; None: `image_size`.
    """
    size = torch.tensor(image_size).expand(count, 2)
    if views.crop is not None:
        parts = [size] if native_sizes is None else native_sizes.split(ROWS_AT_ONCE)
        boxes = torch.cat(
            [draw_boxes(part, scale=views.crop, ratio=views.ratio, generator=generator) for part in parts]
        )
    else:
        shifts = torch.randint(-views.padding, views.padding + 1, (count, 2), generator=generator)
        boxes = torch.cat([shifts, size], dim=1)
    flips = torch.rand(count, generator=generator) < FLIP_PROBABILITY
    if not views.flip:
        flips = torch.zeros_like(flips)
    none = Records(boxes, flips, torch.arange(count), torch.ones(count), torch.zeros(count, 4, dtype=torch.int64))
    return none if views.mix == "none" else _mixed(none, views, size, generator)


def draw_boxes(
    sizes: Int64[Tensor, "n 2"],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Int64[Tensor, "n 4"]:
    """A random box within each image of (height, width) `sizes`, drawn as in torchvision's RandomResizedCrop.

    A box's area is uniform in `scale`, as fractions of the image's, and its width over its height is log-uniform in
    `ratio`. Where none of ten draws fits into the image, the box is the largest central one with the nearest ratio.
    """
    height, width = sizes.double().unbind(1)
    drawn = torch.rand(ATTEMPTS, 4, len(sizes), generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + drawn[:, 0] * (scale[1] - scale[0]))
    low, high = torch.tensor(ratio, dtype=torch.float64).log()
    form = (low + drawn[:, 1] * (high - low)).exp()
    widths, heights = (area * form).sqrt().round(), (area / form).sqrt().round()
    fits = (widths > 0) & (heights > 0) & (widths <= width) & (heights <= height)
    tops, lefts = (drawn[:, 2] * (height - heights + 1)).floor(), (drawn[:, 3] * (width - widths + 1)).floor()
    boxes = torch.stack([tops, lefts, heights, widths], dim=-1)
    first = fits.double().argmax(0)
    chosen = boxes[first, torch.arange(len(sizes))]
    return torch.where(fits.any(0)[:, None], chosen, _central(height, width, ratio)).long()


def _central(height: Tensor, width: Tensor, ratio: tuple[float, float]) -> Tensor:
    """The largest central box whose width over height is within `ratio`."""
    widths = torch.minimum(width, (height * ratio[1]).round()).clamp(min=1)
    heights = torch.minimum(height, (width / ratio[0]).round()).clamp(min=1)
    return torch.stack([((height - heights) / 2).floor(), ((width - widths) / 2).floor(), heights, widths], dim=-1)


def _mixed(records: Records, views: Views, size: Tensor, generator: torch.Generator) -> Records:
    """The records with partners, a random permutation of the rows, and with shares from Beta(alpha, alpha)."""
    count = len(records)
    partners = torch.randperm(count, generator=generator)
    shares = _beta(views.mix_alpha, count, generator)
    holes = records.holes
    if views.mix == "cutmix":
        holes = _holes(shares, size, generator)
        shares = (1 - holes[:, 2] * holes[:, 3] / size.prod(1)).double()
    return Records(records.boxes, records.flips, partners, shares.float(), holes)


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """(count,) draws of Beta(alpha, alpha); by numpy, because torch's Beta takes no generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))


def _holes(shares: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """CutMix's boxes (Yun et al. 2019): sides are sqrt(1 - lambda) of the image's, centres uniform, edges cut them."""
    sides = (size * (1 - shares).sqrt()[:, None]).long()
    centres = (torch.rand(len(shares), 2, generator=generator, dtype=torch.float64) * size).long()
    starts = (centres - sides // 2).clamp(min=0)
    ends = torch.minimum(centres + sides // 2, size)
    return torch.cat([starts, ends - starts], dim=1)


# --- showing views ----------------------------------------------------------------------------------------------


def crops(
    images: Float[Tensor, "n C H W"],
    boxes: Int64[Tensor, "n 4"],
    flips: Bool[Tensor, " n"],
    *,
    black: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "n C H W"]:
    """The part of each image in its box, resized bilinearly to the image's size, and mirrored where `flips` is true.

    The box is cut out before it is resized, so pixels outside it play no part. Beyond the image's edge, pixels are
    `black`; None: 0. Differentiable in the images.
    """
    height, width = images.shape[2:]
    boxes, flips = (each.to(images.device, non_blocking=True) for each in (boxes, flips))
    rows = _coordinates(boxes[:, 0], boxes[:, 2], height)
    columns = _coordinates(boxes[:, 1], boxes[:, 3], width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    grid = torch.stack(
        [
            (2 * columns + 1)[:, None, :].expand(-1, height, -1) / width - 1,
            (2 * rows + 1)[:, :, None].expand(-1, -1, width) / height - 1,
        ],
        dim=-1,
    )
    background = None if black is None else black.to(images, non_blocking=True).view(1, -1, 1, 1)
    shifted = images if background is None else images - background
    shown = F.grid_sample(shifted, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    return shown if background is None else shown + background


def _coordinates(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(n, size): the image coordinates of a view's pixels along one side; pixel centres are at whole numbers."""
    steps = torch.arange(size, dtype=torch.float32, device=start.device)
    within = (steps + 0.5) * (length[:, None] / size) - 0.5
    return start[:, None] + within.clamp(min=0).minimum(length[:, None] - 1.0)


def mix(own: Float[Tensor, "n C H W"], other: Float[Tensor, "n C H W"], records: Records) -> Float[Tensor, "n C H W"]:
    """The views `own`, with their partners' views `other` mixed in as the n `records` say."""
    holes = records.holes.to(own.device, non_blocking=True)
    shares = records.shares.to(own, non_blocking=True)
    cut = holes[:, 2:].prod(1) > 0
    blended = torch.lerp(other, own, shares.where(~cut, 1.0).view(-1, 1, 1, 1))
    return torch.where(_inside(holes, own.shape[2:])[:, None], other, blended)


def _inside(holes: Tensor, size: torch.Size) -> Tensor:
    """(n, H, W): which pixels lie within the boxes."""
    masks: list[Tensor] = []
    for axis, side in enumerate(size):
        steps = torch.arange(side, device=holes.device)
        start, length = holes[:, axis, None], holes[:, axis + 2, None]
        masks.append((steps >= start) & (steps < start + length))
    return masks[0][:, :, None] & masks[1][:, None, :]
