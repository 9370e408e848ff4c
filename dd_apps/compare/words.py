"""The outcome of a comparison in words; where random real images win, it is said as plainly as where they lose."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from dd_apps.compare.comparing import Compared, Row
from dd_apps.compare.config import RANDOM, listed
from dd_apps.data import images_a_class
from dd_apps.report.scores import p_value
from dd_apps.report.tables import human_bytes


def sentences(rows: Sequence[Row], found: Sequence[Compared]) -> list[str]:
    """A line for each distilled row: its comparison with random real images first, then with all other rows."""
    return [
        _line(row, [each for each in found if row is each.row or row is each.against])
        for row in rows
        if row.kind == "distilled"
    ]


def _line(row: Row, against: Sequence[Compared]) -> str:
    place = f"{row.name}, {images_a_class(row.ipc)}"
    if not row.accuracies:
        return f"{place}: no score; {row.records[0].reason}."
    if len(row.accuracies) == 1:
        return f"{place}: no verdict, because one seed does not show how large the noise is."
    parts = [_beside_random(row, each) for each in against if _is_random(each.against)]
    others = [each for each in against if not _is_random(each.against)]
    groups = {
        "ahead of": [_other(row, each) for each in others if _word(row, each) == "ahead"],
        "behind": [_other(row, each) for each in others if _word(row, each) == "behind"],
        "not significantly different from": [
            _other(row, each) for each in others if _word(row, each) in (None, "no difference")
        ],
    }
    parts += [f"{words} {listed(names)}" for words, names in groups.items() if names]
    return f"{place}: {'; '.join(parts)}."


def _is_random(row: Row) -> bool:
    return row.kind == "twin" or (row.kind == "real" and row.name == RANDOM)


def _beside_random(row: Row, each: Compared) -> str:
    """The verdict on the set beside random real images: as many bytes of them, or as many images (its twin)."""
    ours, theirs = (statistics.fmean(side.accuracies.values()) for side in (row, each.against))
    size = "as many images" if each.against.kind == "twin" else f"as many bytes, {_bytes(each.against)}"
    tested = "" if each.adjusted is None else f", corrected {p_value(each.adjusted)}"
    figures = f"({size}: {100 * ours:.1f} % against {100 * theirs:.1f} %{tested})"
    if each.word is None:
        return f"no verdict beside random real images, as the difference is the same under every seed {figures}"
    if each.word == "ahead":
        return f"ahead of random real images {figures}"
    if each.word == "behind":
        return f"random real images win {figures}"
    if theirs > ours:
        return f"random real images have the higher mean, but not significantly {figures}"
    return f"not significantly different from random real images {figures}"


def _bytes(row: Row) -> str:
    return human_bytes(next(record.bytes for record in row.records if record.evaluation is not None))


def _other(row: Row, each: Compared) -> str:
    """The name of the other row, without the method that its real images are trained like."""
    return (each.against if each.row is row else each.row).name


def _word(row: Row, each: Compared) -> str | None:
    if each.row is row or each.word in (None, "no difference"):
        return each.word
    return "behind" if each.word == "ahead" else "ahead"
