"""Multi-formation: a stored image is a grid of small images, and networks see each small image enlarged.

IDC (Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, section 3.2): a stored
image is cut into factor^2 tiles of ceil(H / factor) x ceil(W / factor) pixels, and each tile is enlarged to H x W by
bilinear interpolation. So factor^2 images share the bytes of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dd_core.errors import UserError

PADDING = 0.5  # raw value of the pixels that complete the last tiles where factor does not divide a side


def _is_default(factor: int) -> bool:
    return factor == 1


# A factor of 1 is not written, so that runs and sets of earlier versions keep their meaning.
Factor = Annotated[int, Field(ge=1, le=16, exclude_if=_is_default)]


def problem(factor: int, image_size: tuple[int, int]) -> str | None:
    """Why images of `image_size` (H, W) cannot be cut into factor x factor tiles, in words; None where they can."""
    if all((factor - 1) * -(-side // factor) < side for side in image_size):
        return None
    return (
        f"images of {image_size[0]} x {image_size[1]} pixels cannot be cut into {factor} x {factor} tiles (formation)"
    )


def require_possible(factor: int, image_size: tuple[int, int]) -> None:
    """Raise `UserError` where some tile would have no pixel of the image."""
    if (words := problem(factor, image_size)) is not None:
        raise UserError(f"{words}: take a smaller factor; 1 stores images as they are")


def tile_size(factor: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a tile: those of the image, divided by the factor and rounded up."""
    height, width = (-(-side // factor) for side in image_size)
    return height, width


def enlargements(factor: int, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(H, rows of a tile) and (W, columns of a tile) float32 weights that enlarge a tile to an image of H x W."""
    small = tile_size(factor, image_size)
    down, across = (enlargement(*sides).astype(np.float32) for sides in zip(small, image_size, strict=True))
    return down, across


def enlargement(small: int, large: int) -> np.ndarray:
    """(large, small) matrix of weights that interpolates a line of `small` pixels linearly at `large` places.

    Pixels are at the centres of cells; beyond the first and the last centre the outermost pixel is repeated.
    """
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    distances = np.abs(places[:, None] - np.arange(small))
    return np.clip(1 - distances, 0, None)


def tiles(images: Any, factor: int, *, grey: Any, down: Any, across: Any) -> Iterator[Any]:
    """The factor^2 tiles of images (N, C, H, W), each enlarged to (N, C, H, W), line by line of the grid.

    Arguments are numpy arrays or torch tensors, all of one kind. grey: `PADDING` in the space of the images, to
    broadcast; down and across: the matrices of `enlargements`. Matrix products enlarge the tiles, because torch's
    interpolation has no deterministic gradient on a GPU. Missing pixels of the last tiles are grey: their difference
    from grey is 0, so the products leave them out.
    """
    apart, rows, columns = images - grey, down.shape[1], across.shape[1]
    for top in range(0, factor * rows, rows):
        for left in range(0, factor * columns, columns):
            tile = apart[:, :, top : top + rows, left : left + columns]
            yield down[:, : tile.shape[2]] @ tile @ across[:, : tile.shape[3]].T + grey
