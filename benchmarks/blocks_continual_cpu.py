"""Blocks of REPRODUCIBILITY: memories and strategies at equal bytes, on digits, MNIST and CIFAR-10, on a CPU.

Every figure is the newest run's. Bold: ahead of every memory of real images of the table, by the corrected tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from cells import Record, bold, bullets, matching, records, spread, table

TABLES = ("retraining", "replay")
BOUNDS = ("none", "joint", "lwf", "ewc")


def measured(case: str, part: str) -> list[Record]:
    """The newest record of each size of memory, the smallest first."""
    lines = matching(records("continual_cpu"), case=case, part=part)
    return [line for _, line in sorted({line["images"]: line for line in lines}.items())]


def accuracies(case: str, part: str) -> list[str]:
    """Accuracy on all classes after the last experience: mean and deviation over all networks of all class orders."""
    lines = measured(case, part)
    kinds = [kind for kind in TABLES if any(kind in line["final"] for line in lines)]
    rows = list(dict.fromkeys(row for line in lines for kind in kinds for row in line["final"].get(kind, {})))
    header = ["row", *(f"{kind}, {line['images']} a class" for kind in kinds for line in lines)]
    cells = [[f"`{row}`", *(_cell(line, kind, row) for kind in kinds for line in lines)] for row in rows]
    return [*table(header, cells), "", *bullets(_told(lines))]


def _cell(line: Record, kind: str, row: str) -> str:
    by_order = line["final"].get(kind, {}).get(row)
    if by_order is None:
        return "-"
    return bold(spread([value for order in by_order for value in order]), when=ahead_of_real(line, kind, row))


def ahead_of_real(line: Mapping[str, Any], kind: str, row: str) -> bool:
    """Whether a row of learned images is ahead of every other memory that learned none."""
    against = line["verdicts"][kind].get(row)
    if against is None:
        return False
    real = [other for other in against if other not in BOUNDS and other not in line["verdicts"][kind]]
    return bool(real) and all(against[other]["word"] == "ahead" for other in real)


def costs(case: str) -> list[str]:
    """Bytes and seconds of each row at the largest memory."""
    line = measured(case, "grid")[-1]
    parts = ("distilling", "storing", "training")
    header = ["row", "table", "images", "bytes", "earlier weights", *(f"{part} (s)" for part in parts), "times real"]
    rows = [
        [
            f"`{each['row']}`",
            each["table"],
            str(each["images"]),
            str(each["pixels"] + each["labels"]),
            str(each["earlier weights"]),
            *(f"{each[part]:.2g}" for part in parts),
            f"{each['times real']:.2g}",
        ]
        for each in line["ledger"]
    ]
    return [*table(header, rows), "", *bullets(_told([line]))]


def _told(lines: list[Record]) -> str:
    minutes = " + ".join(f"{line['minutes']:.0f}" for line in lines)
    first = lines[0]
    return f"{first['data']}; {first['hardware']['cpu']}, torch {first['versions']['torch']}; {minutes} minutes."


BLOCKS = {
    **{f"continual-{case}": partial(accuracies, case, "grid") for case in ("digits", "mnist", "cifar10")},
    **{f"continual-{case}-best": partial(accuracies, case, "best") for case in ("digits", "mnist", "cifar10")},
    "continual-digits-remedies": partial(accuracies, "digits", "remedies"),
    "continual-digits-costs": partial(costs, "digits"),
}
