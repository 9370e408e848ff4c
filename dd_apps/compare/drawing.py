"""Accuracy against bytes, and against the seconds that making a set takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from dd_apps.compare.comparing import Row
from dd_apps.compare.running import Results
from dd_apps.report.plots import Curve, curves
from dd_apps.report.sections import Picture

LEAST = 1e-3  # seconds: a run's clock is no finer, and a logarithmic axis has no 0


def pictures(number: int, network: str, rows: Sequence[Row], results: Results, note: str) -> Iterator[Picture]:
    """Two pictures of one network; a line joins the ipcs of a row, and lines of twins are dashed."""
    shown = [row for row in rows if row.accuracies]
    if not shown:
        return
    yield curves(
        f"accuracy-bytes-{number}",
        _curves(shown, _bytes),
        title=f"accuracy on {network} against bytes",
        x="bytes (pixels, soft labels, learned rates)",
        y="accuracy (%)",
        logarithmic=True,
        note=f"{note}; dashed: random-real twins",
    )
    yield curves(
        f"accuracy-seconds-{number}",
        _curves([row for row in shown if row.kind != "twin"], lambda row: _seconds(row, results)),
        title=f"accuracy on {network} against seconds",
        x="seconds to make a set, with the artefacts that were made for it",
        y="accuracy (%)",
        logarithmic=True,
        note=f"{note}; seconds by the clock, mean over seeds",
    )


def _curves(rows: Sequence[Row], along: Callable[[Row], float]) -> dict[str, list[Curve]]:
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        group = row.methods[0] if row.kind == "twin" else row.called
        groups.setdefault(group, {}).setdefault(row.kind, []).append(row)
    return {
        group: [_curve(members, along, dashed=kind == "twin") for kind, members in kinds.items()]
        for group, kinds in groups.items()
    }


def _curve(rows: Sequence[Row], along: Callable[[Row], float], *, dashed: bool) -> Curve:
    values = [[100 * value for value in row.accuracies.values()] for row in rows]
    return Curve(
        [along(row) for row in rows],
        [statistics.fmean(each) for each in values],
        [statistics.stdev(each) if len(each) > 1 else None for each in values],
        dashed=dashed,
    )


def _bytes(row: Row) -> float:
    """Bytes, mean over seeds: the number of learned learning rates may differ between seeds."""
    scored = [record for record in row.records if record.evaluation is not None]
    if row.kind == "twin":
        return statistics.fmean(record.evaluation.twin_bytes for record in scored if record.evaluation is not None)
    return statistics.fmean(record.bytes for record in scored)


def _seconds(row: Row, results: Results) -> float:
    cost = results.costs[row.methods[0], row.name if row.kind == "real" else "", row.ipc]
    making = statistics.fmean(cost.sets) if cost.sets else 0.0
    return max(LEAST, making + (cost.artefacts or 0.0))
