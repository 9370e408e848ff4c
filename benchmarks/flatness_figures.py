"""Curves, claims and the picture from the measurements of `flatness.py`, whose docstring defines them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from dd_core.evaluation.verdicts import paired

KINDS: dict[str, dict[str, float] | None] = {
    "plain": None,
    "flat, rho 0.01": {"rho": 0.01, "alpha": 0.3},
    "flat, rho 0.5": {"rho": 0.5, "alpha": 0.3},
}
PLAIN, *FLAT = KINDS


class Point(NamedTuple):
    """One measured value: of what, at which segment or radius (x), along which held-out expert."""

    kind: str
    quantity: str
    expert: int
    x: float
    value: float


def as_trained(flat: str) -> str:
    """The name of plain weights whose training loss is nearest to that of flat experts at their end."""
    return f"expert with the training loss of {flat}"


def summaries(points: Iterable[Point]) -> dict[tuple[str, str], dict[str, Any]]:
    """Mean and deviation over experts, sets and draws at each x, by (kind, quantity)."""
    values: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in points:
        values[one.kind, one.quantity][one.x].append(one.value)
    return {
        key: {
            "x": list(found),
            "mean": [round(statistics.fmean(several), 5) for several in found.values()],
            "std": [deviation(several) for several in found.values()],
            "n": [len(several) for several in found.values()],
        }
        for key, found in values.items()
    }


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation to five digits; None of one value."""
    return round(statistics.stdev(values), 5) if len(values) > 1 else None


def claims(points: Sequence[Point], epochs: int) -> list[dict[str, Any]]:
    """Each claim for each kind of flat experts: is the flat figure smaller? Over experts, and expert by expert.

    `held` is the direction of the means. `verdict` is a paired t-test over held-out experts ("behind" where the flat
    figure is smaller beyond the noise); students follow the same distilled sets along all of them, and the test says
    nothing of other sets.
    """
    half, end = epochs // 2, epochs
    followed = [
        (f"{what}, from epoch {start}", partial(at_last, points, f"{what}, from epoch {start}"))
        for what, start in product(("accumulated error", "distance"), (0, half))
    ]
    followed += [
        (f"growth, from epoch {start}, mean of segments", partial(on_average, points, f"growth, from epoch {start}"))
        for start in (0, half)
    ]
    found: list[dict[str, Any]] = []
    for flat in FLAT:
        changes = [
            (f"{change} of {what} under perturbation", partial(on_change, points, what))
            for whose, split, (change, name) in product(
                (f"expert at epoch {end}", as_trained(flat), "student"),
                ("training", "test"),
                (("fall", "accuracy"), ("rise", "loss")),
            )
            for what in (f"{name} on {split} images, {whose}",)
        ]
        for claim, figure_of in (*followed, *changes):
            plain, ours = figure_of(PLAIN), figure_of(flat)
            found.append(
                {
                    "what": "claim",
                    "claim": f"smaller for {flat}: {claim}",
                    "held": statistics.fmean(ours.values()) < statistics.fmean(plain.values()),
                    "verdict": asdict(paired([ours[one] for one in plain], list(plain.values()))),
                    "experts_where_it_held": f"{sum(ours[one] < plain[one] for one in plain)} of {len(plain)}",
                    "plain": spread(plain),
                    "flat": spread(ours),
                    "difference": spread({one: ours[one] - plain[one] for one in plain}),
                }
            )
    return found


def spread(figures: Mapping[int, float]) -> dict[str, float | None]:
    """Mean and deviation over experts."""
    values = list(figures.values())
    return {"mean": round(statistics.fmean(values), 5), "std": deviation(values)}


def by_expert(points: Sequence[Point], quantity: str, kind: str) -> dict[int, dict[float, float]]:
    """For each expert, the mean over sets and draws at each x."""
    values: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in points:
        if (one.kind, one.quantity) == (kind, quantity):
            values[one.expert][one.x].append(one.value)
    return {expert: {x: statistics.fmean(some) for x, some in found.items()} for expert, found in values.items()}


def at_last(points: Sequence[Point], quantity: str, kind: str) -> dict[int, float]:
    """The value after the last segment, for each expert."""
    return {expert: found[max(found)] for expert, found in by_expert(points, quantity, kind).items()}


def on_average(points: Sequence[Point], quantity: str, kind: str) -> dict[int, float]:
    """The mean over segments, for each expert."""
    return {expert: statistics.fmean(found.values()) for expert, found in by_expert(points, quantity, kind).items()}


def on_change(points: Sequence[Point], quantity: str, kind: str) -> dict[int, float]:
    """The change of the value by perturbation, mean over radii, for each expert."""
    return {
        expert: statistics.fmean(abs(value - found[0.0]) for radius, value in found.items() if radius)
        for expert, found in by_expert(points, quantity, kind).items()
    }


def draw(curves: Mapping[tuple[str, str], dict[str, Any]], epochs: int, path: Path) -> None:
    """Errors over segments above, perturbation below."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    half, end = epochs // 2, epochs
    # what is drawn in full, dotted and dashed
    panels = (
        ("accumulated error, from epoch 0", "own error, from epoch 0", "accumulated error, from epoch 0, random real"),
        (f"accumulated error, from epoch {half}", f"own error, from epoch {half}"),
        ("growth, from epoch 0", f"growth, from epoch {half}"),
        *(
            (f"{name} on test images, {whose}", f"{name} on training images, {whose}")
            for name, whose in (
                ("accuracy", f"expert at epoch {end}"),
                ("loss", f"expert at epoch {end}"),
                ("accuracy", "student"),
            )
        ),
    )
    figure, axes = plt.subplots(2, 3, figsize=(14, 8))
    for place, (main_one, *others) in zip(axes.flat, panels, strict=True):
        for colour, kind in enumerate(KINDS):
            curve = curves[kind, main_one]
            how = {"color": f"C{colour}", "label": kind, "marker": ".", "capsize": 2}
            place.errorbar(curve["x"], curve["mean"], [math.nan if std is None else std for std in curve["std"]], **how)
            for style, other in zip((":", "--"), others, strict=False):
                place.plot(curves[kind, other]["x"], curves[kind, other]["mean"], style, color=f"C{colour}")
        notes = [f"{style}: {other}" for style, other in zip(("dotted", "dashed"), others, strict=False)]
        place.set_title("\n".join((main_one, *notes)), fontsize=8)
        place.set_xlabel("radius" if " on " in main_one else "segment", fontsize=8)
        place.xaxis.get_major_locator().set_params(integer=" on " not in main_one)
        if not main_one.startswith("growth"):
            place.set_ylim(bottom=0)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
