"""Differentiable siamese augmentation (DSA), for any batch on any device.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, with the ranges of
their code. A strategy is a list of kinds of transform; each call draws *one* kind for the whole batch.
"Siamese" means that the real and the synthetic batch get the same transform.

Drawing is separate from transforming: `draw_parameters` draws a few numbers on the CPU, whatever the device of
the images, and `apply` transforms without any draw, twice differentiable in the images.

Shapes: N images, C channels, H rows, W columns; R is 1 (one transform for all) or N (one for each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dd_core.augment.names import parse_strategy

FLIP_PROBABILITY = 0.5
SCALE_RATIO = 1.2  # each axis by a factor in [1/1.2, 1.2]
ROTATE_DEGREES = 15.0
CROP_FRACTION = 0.125  # largest shift, in image sides
CUTOUT_FRACTION = 0.5  # side of the hole, in image sides
BRIGHTNESS = 0.5  # largest amount added, in the pixels' own unit
SATURATION = 2.0  # largest factor
CONTRAST = 0.5  # largest departure of the factor from 1


@dataclass(frozen=True)
class Parameters:
    """One drawn transform: its kind (None: the identity) and its numbers, in one row for each image or one for all.

    The columns: color = amount added, saturation factor, contrast factor; crop = rows, columns shifted;
    cutout = row, column of the centre; flip = 1 or 0; scale = factors of y, x; rotate = radians.
    """

    kind: str | None
    values: Float[Tensor, "R K"]


def dsa(
    images_NCHW: Float[Tensor, "N C H W"],
    strategy: str,
    *,
    generator: torch.Generator,
    siamese: bool = False,
    align_corners: bool = True,
) -> Float[Tensor, "N C H W"]:
    """Draw one kind of the strategy and apply it, with other numbers for each image, or with the same (`siamese`).

    `generator` is a CPU generator. Equal generators give equal kinds whatever the batch size, and with
    `siamese` equal transforms. Raises `UserError` for an unknown kind. Zhao and Bilen 2021, equation 8.
    """
    rows, size = 1 if siamese else len(images_NCHW), (images_NCHW.shape[2], images_NCHW.shape[3])
    parameters = draw_parameters(strategy, rows=rows, image_size=size, generator=generator)
    return apply(images_NCHW, parameters, align_corners=align_corners)


def draw_parameters(strategy: str, *, rows: int, image_size: tuple[int, int], generator: torch.Generator) -> Parameters:
    """Draw a kind, then `rows` rows of its numbers (1 row serves a batch of any size), on the CPU.

    `image_size` is (H, W) in pixels. Raises `UserError` for an unknown kind.
    """
    kinds = parse_strategy(strategy)
    if not kinds:
        return Parameters(None, torch.empty(rows, 0))
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    columns = {"color": 3, "flip": 1, "rotate": 1}.get(kind, 2)
    uniform = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    return Parameters(kind, _spread(kind, uniform, image_size=image_size).float())


def _spread(kind: str, uniform: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """The numbers of `kind`, uniform in their ranges, from numbers that are uniform in [0, 1)."""
    if kind == "color":
        low = torch.tensor([-BRIGHTNESS, 0.0, 1 - CONTRAST])
        return low + uniform * torch.tensor([2 * BRIGHTNESS, SATURATION, 2 * CONTRAST])
    if kind == "crop":
        largest = torch.tensor([_portion(side, CROP_FRACTION) for side in image_size])
        return (uniform * (2 * largest + 1)).floor() - largest
    if kind == "cutout":
        places = [side + 1 - _portion(side, CUTOUT_FRACTION) % 2 for side in image_size]
        return (uniform * torch.tensor(places)).floor()
    if kind == "flip":
        return (uniform < FLIP_PROBABILITY).double()
    if kind == "scale":
        return 1 / SCALE_RATIO + uniform * (SCALE_RATIO - 1 / SCALE_RATIO)
    return (2 * uniform - 1) * math.radians(ROTATE_DEGREES)


def apply(
    images_NCHW: Float[Tensor, "N C H W"], parameters: Parameters, *, align_corners: bool = True
) -> Float[Tensor, "N C H W"]:
    """Transform the images as drawn; color is brightness, saturation and contrast in any order.

    align_corners: as in `grid_sample`, for scale and rotate alone: True in MTT and its successors, False in the
    ECCV-2024 challenge's evaluator.
    """
    kind, x = parameters.kind, images_NCHW
    # a non-blocking copy is safe, as these numbers are not written to again
    values = parameters.values.to(x.device, non_blocking=True)
    if kind == "color":
        added, saturated, contrasted = values.to(x.dtype).unbind(1)
        return contrast(saturation(brightness(x, added), saturated), contrasted)
    if kind == "crop":
        return crop(x, values.long())
    if kind == "cutout":
        return cutout(x, values.long())
    if kind == "flip":
        return flip(x, values[:, 0] > 0)
    if kind == "scale":
        return scale(x, values.to(x.dtype), align_corners=align_corners)
    if kind == "rotate":
        return rotate(x, values[:, 0].to(x.dtype), align_corners=align_corners)
    return x


def brightness(x: Float[Tensor, "N C H W"], amount: Float[Tensor, " R"]) -> Float[Tensor, "N C H W"]:
    """Add `amount` to every pixel."""
    return x + amount.view(-1, 1, 1, 1)


def saturation(x: Float[Tensor, "N C H W"], factor: Float[Tensor, " R"]) -> Float[Tensor, "N C H W"]:
    """Multiply each pixel's difference from its mean over channels by `factor`; grey images stay as they are."""
    if x.shape[1] == 1:
        return x
    return _away_from(x.mean(dim=1, keepdim=True), x, factor)


def contrast(x: Float[Tensor, "N C H W"], factor: Float[Tensor, " R"]) -> Float[Tensor, "N C H W"]:
    """Multiply each pixel's difference from its image's mean over pixels and channels by `factor`."""
    return _away_from(x.mean(dim=(1, 2, 3), keepdim=True), x, factor)


def crop(x: Float[Tensor, "N C H W"], shift: Int[Tensor, "R 2"]) -> Float[Tensor, "N C H W"]:
    """Pixel (i, j) becomes pixel (i + shift_y, j + shift_x), or 0 where that is outside the image."""
    # Reading with wrap-around, then blanking, uses each source pixel once. So the backward pass adds nothing up,
    # and is the same in every run, on a GPU too.
    for dim, step in ((2, shift[:, 0]), (3, shift[:, 1])):
        side, shape = x.shape[dim], (-1, 1, x.shape[2], 1) if dim == 2 else (-1, 1, 1, x.shape[3])
        source = torch.arange(side, device=x.device) + step[:, None]
        inside = ((source >= 0) & (source < side)).view(shape)
        x = x.gather(dim, (source % side).view(shape).expand(x.shape)).where(inside, 0)
    return x


def cutout(x: Float[Tensor, "N C H W"], centre: Int[Tensor, "R 2"]) -> Float[Tensor, "N C H W"]:
    """Set a window of half of each side around `centre` (row, column) to 0; the image's edge cuts the window."""
    # a product is faster than a masked fill, forward and backward
    rows, columns = (
        _window(side, middle).to(x.dtype) for side, middle in zip(x.shape[2:], centre.unbind(1), strict=True)
    )
    return x * (1 - rows[:, :, None] * columns[:, None, :])[:, None]


def flip(x: Float[Tensor, "N C H W"], flipped: Tensor) -> Float[Tensor, "N C H W"]:
    """Mirror left and right the images for which the boolean `flipped` (R,) is true."""
    # exact at weights 0 and 1, and faster than torch.where
    return torch.lerp(x, x.flip(3), flipped.to(x.dtype).view(-1, 1, 1, 1))


def scale(
    x: Float[Tensor, "N C H W"], factor: Float[Tensor, "R 2"], *, align_corners: bool = True
) -> Float[Tensor, "N C H W"]:
    """Sample each image, bilinear and 0 outside, at its coordinates times (factor_y, factor_x).

    Coordinates are 0 at the centre, so a factor above 1 shows the image smaller.
    """
    zero = torch.zeros_like(factor[:, 0])
    rows = (factor[:, 1], zero, zero), (zero, factor[:, 0], zero)
    return _affine(x, rows, align_corners=align_corners)


def rotate(
    x: Float[Tensor, "N C H W"], angle: Float[Tensor, " R"], *, align_corners: bool = True
) -> Float[Tensor, "N C H W"]:
    """Sample each image, bilinear and 0 outside, at its coordinates turned by `angle` (radians).

    Coordinates run from -1 to 1 on both axes, as in the paper's code, so an oblong image is sheared a little.
    """
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(x, ((cos, -sin, zero), (sin, cos, zero)), align_corners=align_corners)


def _affine(x: Tensor, rows: tuple[tuple[Tensor, ...], ...], *, align_corners: bool) -> Tensor:
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(theta, [len(theta), *x.shape[1:]], align_corners=align_corners)
    grid = grid.expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)


def _window(side: int, middle: Tensor) -> Tensor:
    """(R, side): which rows, or columns, are within the window around `middle`."""
    length = _portion(side, CUTOUT_FRACTION)
    from_start = torch.arange(side, device=middle.device) - (middle[:, None] - length // 2)
    return (from_start >= 0) & (from_start < length)


def _away_from(mean: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return (x - mean) * factor.view(-1, 1, 1, 1) + mean


def _portion(side: int, fraction: float) -> int:
    """`fraction` of a side in whole pixels, halves rounded up."""
    return int(side * fraction + 0.5)
