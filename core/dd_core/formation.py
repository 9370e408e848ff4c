"""Multi-formation: a stored image is a grid of small ones, and networks see each of them enlarged.

IDC (Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, section 3.2): a stored
image is cut into factor^2 tiles of ceil(H / factor) x ceil(W / factor) pixels, and each tile is enlarged to H x W by
bilinear interpolation. So factor^2 images share the bytes of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from dd_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PADDING = 0.5  # raw value of the pixels that complete the last tiles where factor does not divide a side


def _is_default(factor: int) -> bool:
    return factor == 1


# At its default it is left out of what is written, so that runs and sets of earlier versions mean what they meant.
Factor = Annotated[int, Field(ge=1, le=64, exclude_if=_is_default)]


def problem(factor: int, image_size: tuple[int, int]) -> str | None:
    """Why images of so many rows and columns of pixels are no grids of factor x factor tiles, in words; else None."""
    if all((factor - 1) * -(-side // factor) < side for side in image_size):
        return None
    return f"{image_size[0]} x {image_size[1]} pixels do not make a grid of {factor} x {factor} tiles (formation)"


def require_possible(factor: int, image_size: tuple[int, int]) -> None:
    """Raise `UserError` where some tile would have no pixel of the image."""
    if (words := problem(factor, image_size)) is not None:
        raise UserError(f"{words}: take a smaller factor; 1 stores images as they are")


def tile_size(factor: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a tile: those of the image, divided by the factor and rounded up."""
    height, width = (-(-side // factor) for side in image_size)
    return height, width


def enlargement(small: int, large: int) -> np.ndarray:
    """(large, small) matrix of weights: bilinear interpolation of a line of pixels, which are the centres of cells.

    Beyond the first and the last centre, a value is that of the outermost pixel.
    """
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    distances = np.abs(places[:, None] - np.arange(small))
    return np.clip(1 - distances, 0, None)


def decode(images: Tensor, factor: int, *, padding: Tensor) -> Tensor:
    """(factor^2 N, C, H, W): tile 0 of all N images (N, C, H, W), then tile 1 of all, line by line of the grid.

    padding: (C,) values of the pixels that complete the last tiles, `PADDING` in the space of the images. Matrix
    products enlarge the tiles, because torch's own interpolation has no deterministic gradient on a GPU.
    """
    import torch  # a method's config names the factor, and is listed without torch

    if factor == 1:
        return images
    count, channels, height, width = images.shape
    rows, columns = tile_size(factor, (height, width))
    grey = padding.to(images).view(1, -1, 1, 1)
    below = grey.expand(count, channels, factor * rows - height, width)
    whole = torch.cat([images, below], dim=2)
    beside = grey.expand(count, channels, factor * rows, factor * columns - width)
    whole = torch.cat([whole, beside], dim=3)
    grid = whole.view(count, channels, factor, rows, factor, columns)
    tiles = grid.permute(2, 4, 0, 1, 3, 5).reshape(-1, channels, rows, columns)
    down, across = (torch.from_numpy(enlargement(*sides)).to(images) for sides in ((rows, height), (columns, width)))
    return down @ tiles @ across.T
