"""The form of figures in REPRODUCIBILITY: percentages, deviations, bold type, tables, paragraphs."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from record import RESULTS

Record = dict[str, Any]
WIDTH = 120


def records(name: str) -> list[Record]:
    """All lines of `benchmarks/results/<name>.jsonl`, the oldest first."""
    with open(RESULTS / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def newest(lines: Iterable[Record], **wanted: Any) -> Record:
    """The last of the records that have these values. Raises ValueError where there is none."""
    fitting = matching(lines, **wanted)
    if not fitting:
        raise ValueError(f"no record has {wanted}")
    return fitting[-1]


def matching(lines: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records that have these values, the oldest first."""
    return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def percent(fraction: float) -> str:
    """0.943 as `94.3`."""
    return f"{100 * fraction:.1f}"


def score(values: Mapping[str, Any]) -> str:
    """Mean and standard deviation in %, `94.3 ± 0.2`; the mean alone where there is one network."""
    single = values["std"] is None or len(values.get("per_network", (0, 0))) == 1
    return percent(values["mean"]) if single else f"{percent(values['mean'])} ± {percent(values['std'])}"


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of fractions, in %; the mean alone of a single one."""
    mean = statistics.fmean(values)
    return percent(mean) if len(values) == 1 else f"{percent(mean)} ± {percent(statistics.stdev(values))}"


def signed(points: float) -> str:
    """A difference in points with its sign, `+0.8`; `0.0` where nothing is left after rounding."""
    text = f"{points:+.1f}"
    return text[1:] if float(text) == 0 else text


def bold(text: str, *, when: bool) -> str:
    """`text`, in bold type where a difference is more than noise."""
    return f"**{text}**" if when else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    rule = ["---"] * len(header)
    return [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (header, rule, *rows)]


def paragraph(text: str, *, bullet: str = "") -> list[str]:
    """`text` on lines of at most `WIDTH` letters; `± 0.2` and ` %` stay with their number."""
    tied = bullet + " ".join(text.split()).replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
    indent = " " * len(bullet)
    lines = textwrap.wrap(tied, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def bullets(*texts: str) -> list[str]:
    """A list, each text a paragraph of its own."""
    return [line for text in texts for line in paragraph(text, bullet="- ")]


def words(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
