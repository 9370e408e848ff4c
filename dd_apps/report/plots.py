"""Plots as pictures, drawn by matplotlib: groups differ in colour and mark, and the legend is beside the axes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from dd_apps.report.labels import Box, placed
from dd_apps.report.sections import Picture

# the palette of Okabe and Ito, which the colour-blind tell apart; grey replaces its yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DPI = 110
_INCH = 72  # points
_GREY = "#777777"
_TITLE = 30  # letters in a line of the title above small axes
_DECADES = 1000  # an axis is logarithmic where its largest value is more than so many times its smallest


@dataclass(frozen=True)
class Curve:
    """Means over x, and standard deviations (None where one value was measured); a baseline's curve is dashed."""

    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Cloud:
    """The points of one small plot, in the colour and mark of its group; `missing`: the y of points without an x."""

    title: str
    group: str
    x: Sequence[float]
    y: Sequence[float]
    missing: Sequence[float] = ()


@dataclass(frozen=True)
class Point:
    """A named estimate with its interval, in the colour and mark of its group; x is above 0."""

    name: str
    group: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Course:
    """The best value so far after each trial, None before the first; `failed` are the positions of failed trials."""

    name: str
    best: Sequence[float | None]
    failed: Sequence[int] = ()


@dataclass(frozen=True)
class Panel:
    """A matrix of numbers under a title, row by row; None where there is no number."""

    title: str
    values: Sequence[Sequence[float | None]]


def curves(
    name: str,
    groups: Mapping[str, Sequence[Curve]],
    *,
    title: str,
    x: str,
    y: str,
    whole: bool = False,
    logarithmic: bool = False,
    note: str = "",
) -> Picture:
    """A plot of curves, with one colour and one mark for each group.

    x, y: labels of the axes. whole: ticks of x are whole numbers. logarithmic: x, which must be above 0, has a
    logarithmic axis, and y need not begin at 0.
    """
    figure = _figure(7.5, 4)
    axes = figure.subplots()
    for (group, members), (colour, mark) in zip(groups.items(), _looks(groups).values(), strict=True):
        for curve in members:
            axes.errorbar(
                curve.x,
                curve.mean,
                yerr=[math.nan if std is None else std for std in curve.std],  # NaN: no error bar
                color=colour,
                linestyle="--" if curve.dashed else "-",
                marker=mark,
                markersize=4,
                markerfacecolor="white" if curve.dashed else colour,
                capsize=2,
                label=f"{group}, random real" if curve.dashed else group,
            )
    axes.set(xlabel=x, ylabel=y)
    if logarithmic:
        axes.set_xscale("log")
        _readable(axes, [x for members in groups.values() for curve in members for x in curve.x])
    else:
        axes.set_ylim(bottom=0)
    if whole:
        axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)
    return _picture(name, title, figure, note=note)


def scatters(
    name: str, clouds: Sequence[Cloud], *, title: str, x: str, y: str, columns: int = 4, note: str = ""
) -> Picture:
    """A small scatter plot for each cloud, all with the same y axis; points without an x are crosses at the left edge.

    An x axis is logarithmic if its values are positive and the largest is over a thousand times the smallest.
    """
    across = min(columns, len(clouds))
    rows = -(-len(clouds) // across)
    figure = _figure(max(4.0, 2.35 * across), 2.2 * rows + 0.4)
    grid = figure.subplots(rows, across, sharey=True, squeeze=False)
    looks = _looks(cloud.group for cloud in clouds)
    for cloud, axes in zip(clouds, grid.flat, strict=False):
        colour, mark = looks[cloud.group]
        axes.scatter(cloud.x, cloud.y, s=11, color=colour, marker=mark, alpha=0.7, linewidths=0)
        if _wide(cloud.x):
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=4)
            axes.ticklabel_format(axis="x", scilimits=(-3, 4))
        edge = axes.get_yaxis_transform()  # x as a fraction of the axes
        axes.plot([0.02] * len(cloud.missing), cloud.missing, "x", color=_GREY, markersize=4, transform=edge)
        axes.set_title("\n".join(textwrap.wrap(cloud.title, _TITLE)), fontsize="small")
        axes.tick_params(labelsize="x-small")
        axes.xaxis.get_offset_text().set_fontsize("x-small")
    for axes in grid.flat[len(clouds) :]:
        axes.set_axis_off()
    figure.supxlabel(x, fontsize="small")
    figure.supylabel(y, fontsize="small")
    return _picture(name, title, figure, note=note)


def estimates(
    name: str,
    points: Sequence[Point],
    *,
    title: str,
    x: str,
    y: str,
    lines: Mapping[str, float] | None = None,
    note: str = "",
) -> Picture:
    """Named points with their intervals over a logarithmic x; `lines` are named levels, drawn across the plot."""
    figure = _figure(8.5, 5)
    axes = figure.subplots()
    for group, (colour, mark) in _looks(point.group for point in points).items():
        members = [point for point in points if point.group == group]
        axes.errorbar(
            [point.x for point in members],
            [point.y for point in members],
            yerr=[[point.y - point.low for point in members], [point.high - point.y for point in members]],
            color=colour,
            ecolor=colour + "88",
            linestyle="none",
            marker=mark,
            markersize=7,
            capsize=2,
            label=group,
        )
    for style, (line, level) in zip(cycle(("--", ":", "-.")), (lines or {}).items(), strict=False):
        axes.axhline(level, color=_GREY, linewidth=1, linestyle=style, label=line)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    _readable(axes, [point.x for point in points])
    axes.set(xlabel=x, ylabel=y)
    _legend(axes)
    _name_points(figure, axes, points)
    return _picture(name, title, figure, note=note)


def courses(name: str, searches: Sequence[Course], *, title: str, y: str, note: str = "") -> Picture:
    """The best value so far over the trials of each search; crosses along the lower edge are its failed trials."""
    figure = _figure(7.5, 4)
    axes = figure.subplots()
    looks = _looks(course.name for course in searches)
    for row, course in enumerate(searches):
        colour, mark = looks[course.name]
        best = [math.nan if value is None else value for value in course.best]
        trials = range(1, len(best) + 1)
        every = max(1, len(best) // 8)
        style = {"color": colour, "marker": mark, "markersize": 4, "markevery": (row % every, every)}
        axes.plot(trials, best, drawstyle="steps-post", label=course.name, **style)
        edge = axes.get_xaxis_transform()  # y as a fraction of the axes
        failed = [position + 1 for position in course.failed]
        axes.plot(failed, [0.02 + 0.03 * row] * len(failed), "x", color=colour, markersize=4, transform=edge)
    if any(course.failed for course in searches):
        axes.margins(y=0.05 + 0.04 * len(searches))
    axes.set(xlabel="trials", ylabel=y)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)
    return _picture(name, title, figure, note=note)


def heat_map(
    name: str,
    panels: Sequence[Panel],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    across: int | None = None,
    note: str = "",
) -> Picture:
    """Matrices of numbers on one scale of colours, `across` panels (None: all of them) beside each other."""
    wide, down = len(columns), len(rows)
    beside = min(across or len(panels), len(panels))
    stacked = -(-len(panels) // beside)
    figure = _figure(2.2 + (0.75 * wide + 0.4) * beside, (1.6 + 0.38 * down) * stacked)
    grid = figure.subplots(stacked, beside, squeeze=False)
    known = [value for panel in panels for row in panel.values for value in row if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    for number, (panel, axes) in enumerate(zip(panels, grid.flat, strict=False)):
        numbers = [[math.nan if value is None else value for value in row] for row in panel.values]
        axes.imshow(numbers, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for place, (row, column) in enumerate((row, column) for row in range(down) for column in range(wide)):
            value = panel.values[place // wide][place % wide]
            dark = value is not None and value < (low + high) / 2
            text = "-" if value is None else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color="w" if dark else "k")
        axes.set_title(panel.title, fontsize="small")
        wrapped = ["\n".join(textwrap.wrap(column, _TITLE)) for column in columns]
        axes.set_xticks(range(wide), wrapped, rotation=45, ha="right", rotation_mode="anchor", fontsize="x-small")
        axes.set_yticks(range(down), rows if number % beside == 0 else [""] * down, fontsize="x-small")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    return _picture(name, title, figure, note=note)


# --- parts of all plots ------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Any:
    """An empty figure; width and height are inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=(width, height), dpi=_DPI, layout="constrained")).figure


def _looks(groups: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, mark) of each group, in the order of first appearance; a repeated colour comes with another mark."""
    names = list(dict.fromkeys(groups))
    count = len(COLOURS)
    return {name: (COLOURS[n % count], MARKS[(n + n // count) % len(MARKS)]) for n, name in enumerate(names)}


def _wide(values: Sequence[float]) -> bool:
    return len(values) > 0 and min(values) > 0 and max(values) > _DECADES * min(values)


def _readable(axes: Any, values: Sequence[float]) -> None:
    """Widen a logarithmic x axis whose values span less than a factor of two, so that its ticks can be read."""
    if max(values) < 2 * min(values):
        axes.set_xlim(min(values) / 2, 2 * max(values))


def _legend(axes: Any) -> None:
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _name_points(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Write each point's name beside the point, with a line between them where the name is far off."""
    figure.draw_without_rendering()  # lays the axes out
    corners = axes.transData.transform
    middles = [tuple(corners((point.x, point.y))) for point in points]
    half = 6  # pixels of a mark
    marks = [Box(x - half, y - half, x + half, y + half) for x, y in middles]
    ends = [(corners((point.x, point.low))[1], corners((point.x, point.high))[1]) for point in points]
    bars = [Box(x - 1, low, x + 1, high) for (x, _), (low, high) in zip(middles, ends, strict=True)]
    inside = Box(*axes.get_window_extent().padded(-2).extents)
    boxes = placed(middles, _sizes(axes, points), within=inside, marks=marks, bars=bars)
    for point, (x, y), box in zip(points, middles, boxes, strict=True):
        offset = ((box.left - x) * _INCH / _DPI, (box.bottom - y) * _INCH / _DPI)
        line = {"arrowstyle": "-", "color": _GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            point.name,
            (point.x, point.y),
            xytext=offset,
            textcoords="offset points",
            fontsize="small",
            verticalalignment="bottom",
            arrowprops=line if max(map(abs, _gap(box, x, y))) > 2 * half else None,
        )


def _sizes(axes: Any, points: Sequence[Point]) -> list[tuple[float, float]]:
    """(width, height) of each name, in pixels."""
    sizes = []
    for point in points:
        text = axes.text(0, 0, point.name, fontsize="small", transform=None)
        extent = text.get_window_extent()
        sizes.append((extent.width + 2, extent.height + 2))
        text.remove()
    return sizes


def _gap(box: Box, x: float, y: float) -> tuple[float, float]:
    """Distance in pixels of a point from a box, horizontally and vertically; 0 inside."""
    return max(box.left - x, 0, x - box.right), max(box.bottom - y, 0, y - box.top)


def _picture(name: str, title: str, figure: Any, *, note: str = "") -> Picture:
    return Picture(name, title, png=_written(figure, "png"), svg=_written(figure, "svg"), note=note)


def _written(figure: Any, kind: str) -> bytes:
    """The figure as the bytes of a file. No date and no random name is in them, so equal figures have equal bytes."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "dd-apps"}):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
