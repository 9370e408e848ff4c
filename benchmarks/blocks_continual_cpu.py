"""Blocks of REPRODUCIBILITY: memories and strategies at equal bytes, on digits, MNIST and CIFAR-10, on a CPU.

Every figure is the newest run's. Bold: ahead of every memory of real images of the table, by the corrected tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from cells import Record, bold, bullets, matching, records, signed, spread, table
from record import RESULTS

from dd_core.evaluation.differences import difference
from dd_core.evaluation.verdicts import holm, word

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
    return [*table(header, cells), "", *bullets(_told(lines[0]))]


def _cell(line: Record, kind: str, row: str) -> str:
    by_order = line["final"].get(kind, {}).get(row)
    if by_order is None:
        return "-"
    return bold(spread([value for order in by_order for value in order]), when=ahead_of_real(line, kind, row))


def ahead_of_real(line: Mapping[str, Any], kind: str, row: str) -> bool:
    """Whether a row of learned images is ahead of every memory whose images are not learned."""
    against = line["verdicts"][kind].get(row)
    if against is None:
        return False
    real = [other for other in against if other not in BOUNDS and other not in line["verdicts"][kind]]
    return bool(real) and all(against[other]["word"] == "ahead" for other in real)


@dataclass(frozen=True)
class Lead:
    """The best memory of learned images against the best of real images, both chosen in the first class orders."""

    what: str
    learned: str
    real: str
    finals: tuple[list[float], ...]  # of both in each of the other class orders, in %


def leads(*cases: str) -> list[str]:
    """The leads of distilled memories, tested in other class orders, and corrected for the number of tests."""
    found = [lead for case in cases for lead in _leads(case)]
    tested = [difference(lead.finals[0], lead.finals[1], new_draw=False) for lead in found]
    adjusted = holm([1.0 if each.p is None else each.p for each in tested])
    rows = [
        [
            lead.what,
            f"`{lead.learned}` {np.mean(lead.finals[0]):.1f}",
            f"`{lead.real}` {np.mean(lead.finals[1]):.1f}",
            f"{signed(each.mean)} [{signed(each.low or 0)}, {signed(each.high or 0)}]",
            f"{p:.2g}",
            bold(word(each.mean, p), when=word(each.mean, p) == "ahead"),
        ]
        for lead, each, p in zip(found, tested, adjusted, strict=True)
    ]
    return table(["", "learned", "real", "difference [95 %]", "p (Holm)", "verdict"], rows)


def _leads(case: str) -> Iterator[Lead]:
    again = {line["images"]: line for line in measured(case, "best")}
    for line in measured(case, "grid"):
        if line["images"] not in again:
            continue
        for kind in TABLES:
            means = {row: np.mean(np.concatenate(by_order)) for row, by_order in line["final"][kind].items()}
            learned = line["verdicts"][kind].keys()
            ours, theirs = (
                max(names, key=lambda row: means[row])
                for names in (means.keys() & learned, means.keys() - learned - set(BOUNDS))
            )
            final = again[line["images"]]["final"][kind]
            finals = tuple([100 * float(np.mean(order)) for order in final[row]] for row in (ours, theirs))
            yield Lead(f"{case}, {line['images']} a class, {kind}", ours, theirs, finals)


def costs(case: str) -> list[str]:
    """Bytes and seconds of each row at the largest memory, from a run with one job at a time where there is one."""
    line = (measured(case, "overhead") or measured(case, "grid"))[-1]
    parts = ("distilling", "storing", "training")

    def seconds(each: Mapping[str, float]) -> float:
        return sum(each[part] for part in parts)

    of_real = {each["table"]: seconds(each) for each in line["ledger"] if each["row"] == "real"}
    header = ["row", "table", "images", "bytes", "earlier weights", *(f"{part} (s)" for part in parts), "times real"]
    rows = [
        [
            f"`{each['row']}`",
            each["table"],
            str(each["images"]),
            str(each["pixels"] + each["labels"]),
            str(each["earlier weights"]),
            *(f"{each[part]:.2g}" for part in parts),
            f"{seconds(each) / of_real[each['table']]:.2g}",
        ]
        for each in line["ledger"]
    ]
    return [*table(header, rows), "", *bullets(_told(line))]


def _told(line: Record) -> str:
    return f"{line['data']}; {line['hardware']['cpu']}, torch {line['versions']['torch']}."


def taught() -> list[str]:
    """SRe2L's experiment: accuracy after the last step. Bold: ahead of random real images with the same labels."""
    lines = {line["steps"]: line for line in records("continual_sre2l")}
    rows = list(dict.fromkeys(row for line in lines.values() for row in line["final"]["taught"]))
    header = ["row", *(f"{steps} steps" for steps in lines)]
    cells = [[f"`{row}`", *(_taught_cell(line, row) for line in lines.values())] for row in rows]
    return [*table(header, cells), "", *bullets(_told([*lines.values()][-1]))]


def _taught_cell(line: Record, row: str) -> str:
    by_order = line["final"]["taught"][row]
    twin = f"random-{row.partition('-')[2]}"
    against = line["verdicts"]["taught"].get(row, {}).get(twin)
    ahead = against is not None and against["word"] == "ahead"
    return bold(spread([value for order in by_order for value in order]), when=ahead)


_PARTS = [(case, part) for case in ("digits", "mnist", "cifar10") for part in ("grid", "best", "remedies")]
_NAMES = {"grid": "continual-{}", "best": "continual-{}-best", "remedies": "continual-{}-remedies"}
BLOCKS = {
    **{_NAMES[part].format(case): partial(accuracies, case, part) for case, part in _PARTS if measured(case, part)},
    "continual-leads": partial(leads, "digits", "mnist", "cifar10"),
    "continual-digits-costs": partial(costs, "digits"),
    **({"continual-sre2l": taught} if (RESULTS / "continual_sre2l.jsonl").exists() else {}),
}
