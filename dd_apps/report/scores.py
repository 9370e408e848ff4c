"""The table of an evaluation: a distilled set beside its random-real twin, for each kind of network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dd_apps.report.tables import Table, Unit

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation


def score_table(evaluations: Sequence[Evaluation], *, title: str) -> Table:
    """One row for each network; the notes carry all else that a figure has to say, but for the machine."""
    first = evaluations[0]
    rows = [_row(evaluation) for evaluation in evaluations]
    notes = [verdict(evaluation) for evaluation in evaluations if evaluation.twin_wins]
    notes.append(
        f"protocol {first.protocol}, {first.nets} networks (seed {first.seed}), mean and standard deviation, "
        f"{first.epoch} epoch; {first.data}"
    )
    percent, size = ("distilled", "random real"), ("bytes", "bytes of the twin")
    units: dict[str, Unit] = {**dict.fromkeys(percent, "percent"), **dict.fromkeys(size, "bytes")}
    return Table(title, rows, units=units, notes=notes)


def machine(hardware: Mapping[str, Any]) -> str:
    """What a figure has to say about where it was computed, on one line."""
    return ", ".join(f"{name} {value}" for name, value in hardware.items())


def verdict(evaluation: Evaluation) -> str:
    """What a score is worth, in words."""
    ours, twin = 100 * evaluation.accuracy.mean, 100 * evaluation.random_real.mean
    pair = f"{ours:.1f} % against {twin:.1f} %"
    if evaluation.twin_wins:
        return f"{evaluation.network}: as many random real images do at least as well ({pair})"
    return f"{evaluation.network}: better than as many random real images ({pair})"


def _row(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "network": evaluation.network,
        "distilled": {"mean": evaluation.accuracy.mean, "std": evaluation.accuracy.std},
        "random real": {"mean": evaluation.random_real.mean, "std": evaluation.random_real.std},
        "images": evaluation.images,
        "bytes": evaluation.bytes,
        "bytes of the twin": evaluation.twin_bytes,
    }
