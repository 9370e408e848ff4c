"""Contact sheets: the images of a distilled set as one picture, a grid for each class. numpy and Pillow only."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from dd_core.distilled.sets import DistilledSet

_GAP = 2
_STACKED = 5  # grids below each other before further grids are placed beside them
_FONT = 14
_NAME = 24  # longest class name on a sheet, in characters


@dataclass(frozen=True)
class _Block:
    """The grid of a class: its images in lines of `columns`, and the class name to the left of them."""

    name: str
    tiles: list[Image.Image]
    columns: int

    @property
    def lines(self) -> int:
        return -(-len(self.tiles) // self.columns)


def contact_sheet(
    ds: DistilledSet, *, columns: int = 20, lines: int = 5, rows: int = 100, side: int = 64, largest: int = 128
) -> Image.Image:
    """A grid for each of the first `rows` classes, of the class's first images; a last line counts the images drawn.

    A grid has at most `columns` columns and `lines` lines. Small grids are placed side by side, `columns` images wide
    at most. Images are drawn as they are stored, those of a set with a formation as grids of tiles. Images smaller than
    `side` pixels are enlarged by a whole factor to about `side`, larger ones than `largest` are reduced to `largest`.
    The last line is left out where all images are drawn. Pixels outside [0, 1] are clipped. A set without labels is one
    grid, in stored order, and images of neither 1 nor 3 channels are drawn as the mean over their channels.
    """
    groups = _groups(ds, columns * lines, columns * rows)[:rows]
    across = min(columns, max(len(indices) for _, indices in groups))
    blocks = [_Block(_short(name), _tiles(ds, indices, side, largest), across) for name, indices in groups]
    drawn = sum(len(block.tiles) for block in blocks)
    footer = "" if drawn == len(ds) else f"{drawn} of {len(ds)} images"
    beside = max(1, min(columns // across, -(-len(blocks) // _STACKED)))
    return _draw([blocks[start : start + beside] for start in range(0, len(blocks), beside)], footer)


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file; equal images give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def gif_bytes(sheets: Sequence[Image.Image], *, milliseconds: int = 100, last: int = 2000) -> bytes:
    """Sheets as a repeating GIF, `milliseconds` each, the last one `last` ms. Equal sheets give equal bytes."""
    buffer, (first, *others) = io.BytesIO(), sheets
    durations = [milliseconds] * len(others) + [last]
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return buffer.getvalue()


def _groups(ds: DistilledSet, of_class: int, of_all: int) -> list[tuple[str, np.ndarray]]:
    """(class name, indices of the images) of each grid; a class without images has no grid."""
    if ds.labels is None:
        return [("", np.arange(min(len(ds), of_all)))]
    members = [(name, np.flatnonzero(ds.labels == label)[:of_class]) for label, name in enumerate(ds.classes)]
    return [(name, indices) for name, indices in members if len(indices)]


def _tiles(ds: DistilledSet, indices: np.ndarray, side: int, largest: int) -> list[Image.Image]:
    labels, targets = (None if array is None else array[indices] for array in (ds.labels, ds.targets))
    part = replace(ds, images=ds.images[indices], labels=labels, targets=targets)
    return [_tile(pixels, side, largest) for pixels in part.quantised().images]


def pil_image(pixels: np.ndarray) -> Image.Image:
    """One (C, H, W) uint8 image; of neither 1 nor 3 channels, the mean over its channels."""
    rgb = pixels.shape[0] == 3
    return Image.fromarray(pixels.transpose(1, 2, 0) if rgb else np.rint(pixels.mean(0)).astype(np.uint8))


def _tile(pixels: np.ndarray, small: int, large: int) -> Image.Image:
    """One (C, H, W) uint8 image, enlarged by a whole factor or reduced."""
    image = pil_image(pixels)
    side = max(image.size)
    if side > large:
        width, height = (max(1, round(length * large / side)) for length in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    factor = max(1, round(small / side))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _draw(rows: list[list[_Block]], footer: str) -> Image.Image:
    font, every = ImageFont.load_default(_FONT), [block for row in rows for block in row]
    tile = every[0].tiles[0]
    margin = _GAP + max(int(font.getlength(block.name)) + 2 * _GAP if block.name else 0 for block in every)
    pitch = max(tile.height, _FONT) + _GAP
    wide = margin + every[0].columns * (tile.width + _GAP)
    heights = [max(block.lines for block in row) * pitch for row in rows]
    width = max(len(rows[0]) * wide, int(font.getlength(footer)) + 2 * _GAP)
    sheet = Image.new(tile.mode, (width, _GAP + sum(heights) + (2 * _FONT if footer else 0)), "white")
    draw, top = ImageDraw.Draw(sheet), _GAP
    for row, height in zip(rows, heights, strict=True):
        for place, block in enumerate(row):
            left = place * wide
            draw.text((left + _GAP, top + tile.height // 2), block.name, fill="black", font=font, anchor="lm")
            for index, image in enumerate(block.tiles):
                line, column = divmod(index, block.columns)
                sheet.paste(image, (left + margin + column * (tile.width + _GAP), top + line * pitch))
        top += height
    draw.text((_GAP, sheet.height - _FONT), footer, fill="black", font=font, anchor="lm")
    return sheet


def _short(name: str) -> str:
    """A class name as it fits beside its row: on one line, and cut where it is long."""
    line = "".join(char if char.isprintable() else "?" for char in name)
    return line if len(line) <= _NAME else line[: _NAME - 3] + "..."
