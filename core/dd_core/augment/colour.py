"""torchvision's colour operations for a whole batch at once, each image by its own factor.

Images are float (n, C, H, W) in [0, 1]. Only images with C = 3 have saturation and hue; others are left unchanged.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in the brightness


def grey(images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n 1 H W"]:
    """The brightness of each pixel: `LUMA` of 3 channels, or the mean of any other number of channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor(LUMA, dtype=images.dtype).view(1, 3, 1, 1).to(images.device, non_blocking=True)
    return (images * weights).sum(1, keepdim=True)


def brightened(images: Float[Tensor, "n C H W"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n C H W"]:
    """Every pixel is multiplied by the factor of its image, and clamped to [0, 1]."""
    return (images * _column(factors)).clamp(0, 1)


def contrasted(images: Float[Tensor, "n C H W"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n C H W"]:
    """Every pixel's difference from its image's mean brightness is multiplied by the image's factor."""
    return _blended(images, grey(images).mean((1, 2, 3), keepdim=True), factors)


def saturated(images: Float[Tensor, "n C H W"], factors: Float[Tensor, " n"]) -> Float[Tensor, "n C H W"]:
    """Every pixel's difference from the pixel's own brightness is multiplied by the factor of its image."""
    return images if images.shape[1] != 3 else _blended(images, grey(images), factors)


def hued(images: Float[Tensor, "n C H W"], shifts: Float[Tensor, " n"]) -> Float[Tensor, "n C H W"]:
    """The hue of every pixel is turned by the shift of its image, from -0.5 to 0.5 of the colour circle."""
    if images.shape[1] != 3:
        return images
    hue, saturation, value = _hsv(images)
    return _rgb((hue + shifts.view(-1, 1, 1)) % 1.0, saturation, value)


def solarised(images: Float[Tensor, "n C H W"], *, threshold: float = 0.5) -> Float[Tensor, "n C H W"]:
    """Values x from the threshold on become 1 - x."""
    return torch.where(images >= threshold, 1 - images, images)


def where(rows: Bool[Tensor, " n"], yes: Float[Tensor, "n C H W"], no: Float[Tensor, "n C H W"]) -> Tensor:
    """The image of `yes` where `rows` is true, else the image of `no`."""
    return torch.where(rows.view(-1, 1, 1, 1), yes, no)


def _column(factors: Tensor) -> Tensor:
    return factors.view(-1, 1, 1, 1)


def _blended(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    ratio = _column(factors)
    return (ratio * images + (1 - ratio) * others).clamp(0, 1)


def _hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue (in turns of the colour circle), saturation and value, (n, H, W) each."""
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    spread = high - low
    flat = spread == 0
    divisor = torch.where(flat, torch.ones_like(spread), spread)
    saturation = spread / torch.where(flat, torch.ones_like(high), high)
    to_red, to_green, to_blue = ((high - channel) / divisor for channel in (red, green, blue))
    reddest, greenest = high == red, (high == green) & (high != red)
    bluest = (high != green) & (high != red)
    turns = reddest * (to_blue - to_green) + greenest * (2 + to_red - to_blue) + bluest * (4 + to_green - to_red)
    return (turns / 6 + 1) % 1.0, saturation, high


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    sector = (hue * 6).floor()
    rest = hue * 6 - sector
    low = (value * (1 - saturation)).clamp(0, 1)
    falling = (value * (1 - saturation * rest)).clamp(0, 1)
    rising = (value * (1 - saturation * (1 - rest))).clamp(0, 1)
    table = torch.stack(
        [
            torch.stack([value, rising, low], 1),
            torch.stack([falling, value, low], 1),
            torch.stack([low, value, rising], 1),
            torch.stack([low, falling, value], 1),
            torch.stack([rising, low, value], 1),
            torch.stack([value, low, falling], 1),
        ]
    )
    chosen = (sector.long() % 6)[None, :, None].expand(1, -1, 3, -1, -1)
    return table.gather(0, chosen)[0]
