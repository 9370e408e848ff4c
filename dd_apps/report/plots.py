"""Curves as pictures, drawn by matplotlib: told apart by colour, dash and mark, with the legend beside them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from dd_apps.report.sections import Picture

# Okabe and Ito's, which the colour-blind tell apart, without its yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Curve:
    """Means over x, and standard deviations (None where one value was measured); dashed for what is compared with."""

    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float | None]
    dashed: bool = False


def curves(name: str, groups: Mapping[str, Sequence[Curve]], *, title: str, x: str, y: str) -> Picture:
    """One colour and one mark for each group; `x` and `y` say what the axes are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots()
    for (group, members), colour, mark in zip(groups.items(), cycle(COLOURS), cycle(MARKS), strict=False):
        for curve in members:
            axes.errorbar(
                curve.x,
                curve.mean,
                yerr=[math.nan if std is None else std for std in curve.std],  # no bar where none was measured
                color=colour,
                linestyle="--" if curve.dashed else "-",
                marker=mark,
                markersize=4,
                markerfacecolor="white" if curve.dashed else colour,
                capsize=2,
                label=f"{group}, random real" if curve.dashed else group,
            )
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return Picture(name, title, png=_written(figure, "png"), svg=_written(figure, "svg"))


def _written(figure: Any, kind: str) -> bytes:
    """The figure as a file; equal figures give equal bytes, which a date or a random name would not."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "dd-apps"}):
        figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
    return buffer.getvalue()
