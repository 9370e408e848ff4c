"""The pictures of a continual run: accuracy matrices, curves with intervals, and accuracy against bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dd_apps.continual.metrics import mean_matrix
from dd_apps.continual.rows import Table
from dd_apps.continual.summaries import Course
from dd_apps.report import plots
from dd_apps.report.plots import Curve, Panel, Point
from dd_apps.report.sections import Picture

ACROSS = 4  # matrices in a line of the picture
BESIDE = 0.03  # shift between curves, as a fraction of an experience, so that error bars do not overlap
INTERVAL = "bars: 95 % intervals of the mean over class orders (Student's t)"
BOUNDS = ("none", "joint")  # rows that are levels to compare with, not memories


def pictures(
    tables: Mapping[Table, Sequence[Mapping[str, Any]]],
    matrices: Mapping[Table, Mapping[str, Sequence[Any]]],
    courses: Mapping[Table, Mapping[str, Course]],
) -> Iterator[Picture]:
    """For each table: the mean accuracy matrix of each row, the curves, and the final accuracy against bytes."""
    for table, rows in tables.items():
        if rows:
            yield _matrices(table, matrices[table])
            yield _curves(table, courses[table])
            if any(row["bytes"] and row["row"] not in BOUNDS for row in rows):
                yield _against_bytes(table, rows, courses[table])


def _matrices(table: Table, by_row: Mapping[str, Sequence[Any]]) -> Picture:
    panels = [
        Panel(name, [[None if value is None else 100 * value for value in line] for line in mean_matrix(matrices)])
        for name, matrices in by_row.items()
    ]
    numbers = [str(number + 1) for number in range(len(panels[0].values))]
    return plots.heat_map(
        f"{table}-matrices",
        panels,
        rows=[f"after {number}" for number in numbers],
        columns=numbers,
        title=f"{table}: accuracy (%) on the test images of each experience, mean over all networks",
        across=ACROSS,
    )


def _curves(table: Table, courses: Mapping[str, Course]) -> Picture:
    middle = (len(courses) - 1) / 2
    groups = {
        name: [
            Curve(
                x=[number + 1 + BESIDE * (place - middle) for number in range(len(course.mean))],
                mean=[100 * value for value in course.mean],
                std=[None if half is None else 100 * half for half in course.half],
            )
        ]
        for place, (name, course) in enumerate(courses.items())
    }
    title = f"{table}: accuracy on the classes seen so far"
    return plots.curves(
        f"{table}-curves", groups, title=title, x="experiences learned", y="accuracy (%)", whole=True, note=INTERVAL
    )


def _against_bytes(table: Table, rows: Sequence[Mapping[str, Any]], courses: Mapping[str, Course]) -> Picture:
    points: list[Point] = []
    for row in rows:
        mean, half = courses[row["row"]].mean[-1], courses[row["row"]].half[-1] or 0.0
        if row["bytes"] and row["row"] not in BOUNDS:
            low, high = 100 * max(0.0, mean - half), 100 * min(1.0, mean + half)
            points.append(Point(row["row"], row["row"], row["bytes"], 100 * mean, low, high))
    return plots.estimates(
        f"{table}-bytes",
        points,
        title=f"{table}: accuracy on all classes after the last experience against bytes of the memory",
        x="bytes of the memory (uint8 pixels, and labels kept with them)",
        y="accuracy (%)",
        lines={name: 100 * course.mean[-1] for name, course in courses.items() if name in BOUNDS},
        note=INTERVAL,
    )
