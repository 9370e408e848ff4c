"""Contact sheets: the images of a distilled set as one picture, a row for each class. numpy and Pillow only."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dd_core.distilled import DistilledSet

_LARGE = 128  # px: larger images are reduced to it, which bounds the sheet
_GAP = 2
_FONT = 14
_NAME = 24  # letters of a class name


@dataclass(frozen=True)
class _Row:
    name: str
    tiles: list[Image.Image]


def contact_sheet(ds: DistilledSet, *, columns: int = 20, rows: int = 100, side: int = 64) -> Image.Image:
    """The first `columns` images of each of the first `rows` classes; a last line says what was left out.

    Images smaller than `side` pixels are enlarged towards it, by a whole factor. Pixels outside [0, 1] are clipped.
    A set without labels is drawn in plain order, and images of neither 1 nor 3 channels as the mean over their
    channels.
    """
    groups = _groups(ds, columns)
    shown = [_Row(_short(name), _tiles(ds, indices, side)) for name, indices in groups[:rows]]
    drawn = sum(len(row.tiles) for row in shown)
    footer = "" if drawn == len(ds) else f"{drawn} of {len(ds)} images"
    return _draw(shown, footer)


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file; equal images give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _groups(ds: DistilledSet, columns: int) -> list[tuple[str, np.ndarray]]:
    """(name, indices of its images) of each row; a class without images has no row."""
    if ds.labels is None:
        return [("", np.arange(start, min(start + columns, len(ds)))) for start in range(0, len(ds), columns)]
    members = [(name, np.flatnonzero(ds.labels == label)[:columns]) for label, name in enumerate(ds.classes)]
    return [(name, indices) for name, indices in members if len(indices)]


def _tiles(ds: DistilledSet, indices: np.ndarray, side: int) -> list[Image.Image]:
    labels, targets = (None if array is None else array[indices] for array in (ds.labels, ds.targets))
    part = replace(ds, images=ds.images[indices], labels=labels, targets=targets)
    return [_tile(pixels, side) for pixels in part.quantised().images]


def _tile(pixels: np.ndarray, small: int) -> Image.Image:
    """One (C, H, W) uint8 image, enlarged by a whole factor or reduced."""
    rgb = pixels.shape[0] == 3
    image = Image.fromarray(pixels.transpose(1, 2, 0) if rgb else np.rint(pixels.mean(0)).astype(np.uint8))
    side = max(image.size)
    if side > _LARGE:
        width, height = (max(1, round(length * _LARGE / side)) for length in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    factor = max(1, round(small / side))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _draw(rows: list[_Row], footer: str) -> Image.Image:
    font = ImageFont.load_default(_FONT)
    tile = rows[0].tiles[0]
    margin = _GAP + max(int(font.getlength(row.name)) + 2 * _GAP if row.name else 0 for row in rows)
    pitch = max(tile.height, _FONT) + _GAP
    width = margin + max(len(row.tiles) for row in rows) * (tile.width + _GAP)
    width = max(width, int(font.getlength(footer)) + 2 * _GAP)
    sheet = Image.new(tile.mode, (width, _GAP + len(rows) * pitch + (2 * _FONT if footer else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        top = _GAP + index * pitch
        draw.text((_GAP, top + tile.height // 2), row.name, fill="black", font=font, anchor="lm")
        for position, image in enumerate(row.tiles):
            sheet.paste(image, (margin + position * (tile.width + _GAP), top))
    draw.text((_GAP, sheet.height - _FONT), footer, fill="black", font=font, anchor="lm")
    return sheet


def _short(name: str) -> str:
    """A class name as it fits beside its row: on one line, and cut where it is long."""
    line = "".join(char if char.isprintable() else "?" for char in name)
    return line if len(line) <= _NAME else line[: _NAME - 3] + "..."
