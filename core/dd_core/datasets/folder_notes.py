"""Lines about oddities of a folder's images, which nobody would notice in a table of accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dd_core.datasets.decoding import FEW_LEVELS
from dd_core.datasets.file_rows import Headers
from dd_core.errors import UserError

_NEARLY_BLACK = 64  # the lowest quarter of the levels
_NAMED = 6


def notes(headers: Headers) -> Iterator[str]:
    """Lines about images with transparency, without content, all the same, or with few grey levels."""
    table, count = headers.table, len(headers)
    transparent = table["transparent"].sum()
    constant = table["constant"]
    if transparent:
        lost = (table["transparent"] & constant).sum()
        then = f"; {lost:,} of them are of one colour after that" if lost else ""
        yield f"transparency in {transparent:,} of {count:,} images is laid on black{then}"
    if constant.all():
        yield f"each of the {count:,} images is of one colour: there is nothing in them to learn from"
    if count > 1 and all((table[name] == table[name][0]).all() for name in ("width", "height", "checksum")):
        yield f"the {count:,} images are all the same"
    if levels := _levels(headers):
        yield _about(levels)


def refuse_lost_drawings(name: str, headers: Headers) -> None:
    """Raise `UserError` where every image has transparency and is of one colour over black."""
    if (headers.table["transparent"] & headers.table["constant"]).all():
        raise UserError(
            f"{name}: transparency is laid on black, and then each of the {len(headers):,} images is of one colour: "
            "dark drawings on a transparent ground; save them on a ground of another colour, white for instance"
        )


def _levels(headers: Headers) -> list[int]:
    """The grey levels of all images; none where some image has colours, or where there are more than a few."""
    levels, texts = set[int](), headers.levels
    for number in np.unique(headers.table["levels"]).tolist():
        text = texts[number]
        levels.update(bytes.fromhex(text))
        if not text or len(levels) > FEW_LEVELS:
            return []
    return sorted(levels)


def _about(levels: Sequence[int]) -> str:
    noun = "level" if len(levels) == 1 else "levels"
    line = f"the images have {len(levels)} grey {noun} only: {_listed(levels)} (black is 0, white 255)"
    if levels[-1] >= _NEARLY_BLACK:
        return line
    return f"{line}, so all are nearly black; if the highest stands for white, spread the levels over 0 to 255 first"


def _listed(levels: Sequence[int]) -> str:
    if len(levels) > 2 and levels[-1] - levels[0] == len(levels) - 1:
        return f"{levels[0]} to {levels[-1]}"
    if len(levels) > _NAMED:
        return f"{', '.join(map(str, levels[: _NAMED - 1]))}, ... {levels[-1]}"
    return ", ".join(map(str, levels))
