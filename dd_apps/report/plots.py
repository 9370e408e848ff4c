"""Curves as PNG files, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """Means over x, and standard deviations (None where one value was measured); dashed for what is compared with."""

    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float | None]
    dashed: bool = False


def curves_png(groups: Mapping[str, Sequence[Curve]], *, x: str, y: str) -> bytes:
    """One colour for each group; a PNG file."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="tight")
    axes = FigureCanvasAgg(figure).figure.subplots()
    colours = matplotlib.color_sequences["tab10"]
    for index, (name, curves) in enumerate(groups.items()):
        for curve in curves:
            label = f"{name}, random real" if curve.dashed else name
            axes.errorbar(
                curve.x,
                curve.mean,
                yerr=[math.nan if std is None else std for std in curve.std],  # no bar where none was measured
                color=colours[index % len(colours)],
                linestyle="--" if curve.dashed else "-",
                marker=".",
                capsize=2,
                label=label,
            )
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
