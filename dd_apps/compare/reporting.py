"""The report of a comparison: accuracies, differences, costs, and accuracy against bytes and against seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from dd_apps.compare.comparing import Compared, Row, compared, rows_at
from dd_apps.compare.config import CompareScenario
from dd_apps.compare.drawing import pictures
from dd_apps.compare.running import Results
from dd_apps.compare.words import sentences
from dd_apps.report.scores import choice, machine, taught, where
from dd_apps.report.sections import Section
from dd_apps.report.tables import Table, Unit
from dd_apps.report.words import several
from dd_core.config import plain
from dd_core.evaluation import Evaluation
from dd_core.evaluation.results import Score

NEW_DRAW = (
    "where one distilled set, the same under every seed, is compared with images that are drawn anew for each seed, "
    "Student's t is that for one more draw; a test between two such sets is about the sets and not about their methods"
)
SHARED = "experts, teachers and the like are made once for all seeds: a test of a method holds for these ones only"
SECONDS = (
    "seconds by the clock, on a machine that may have done other work at the same time; making a set: mean over seeds; "
    "artefacts: experts, teachers and the like, made once for all seeds and ipcs that use them (-: in the cache before)"
)


class Report:
    """The sections and figures of a comparison's report."""

    def __init__(self, scenario: CompareScenario, results: Results) -> None:
        self.scenario, self.results = scenario, results
        self.networks = scenario.networks or ("",)
        self.places = {
            (network, ipc): rows_at(scenario, results.records, ipc, network)
            for network in self.networks
            for ipc in scenario.ipcs
        }
        self.compared = compared(list(self.places.values()))

    def sections(self) -> list[Section]:
        """A table for each network, all differences, costs, and two pictures for each network."""
        tables = [self._accuracies(network) for network in self.networks]
        drawn = [
            picture
            for number, network in enumerate(self.networks)
            for picture in pictures(number, self._called(network), self._rows(network), self.results, self._spread())
        ]
        return [*tables, *drawn, *([self._differences()] if self.compared else []), self._costs()]

    def details(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "cells": [plain(record) for record in self.results.records.values()],
            "differences": [
                {
                    **{"network": each.row.network, "ipc": each.row.ipc},
                    **{"row": each.row.called, "against": each.against.called},
                    **plain(each.difference),
                    **{"adjusted": each.adjusted, "corrected": each.word, "comparisons": len(self.compared)},
                }
                for each in self.compared
            ],
        }

    # --- accuracies -------------------------------------------------------------------------------------------------

    def _rows(self, network: str) -> list[Row]:
        return [row for ipc in self.scenario.ipcs for row in self.places[network, ipc]]

    def _called(self, network: str) -> str:
        """The name of the network in the evaluations, or of the learner if the protocol trains no network."""
        evaluations = [each for row in self._rows(network) for each in _evaluations(row)]
        return evaluations[0].network if evaluations else network

    def _accuracies(self, network: str) -> Table:
        rows = self._rows(network)
        return Table(
            f"accuracy on {self._called(network)}",
            [_cells(row) for row in rows],
            units={"accuracy": "percent", "bytes": "bytes"},
            notes=[*sentences(rows, self.compared), *self._notes(rows)],
        )

    def _notes(self, rows: Sequence[Row]) -> Iterator[str]:
        scenario = self.scenario
        evaluations = [each for row in rows for each in _evaluations(row)]
        yield from _failures(rows)
        if not evaluations:
            return
        first = evaluations[0]
        nets = "one network" if scenario.nets == 1 else f"the mean of {scenario.nets} networks"
        anew = "each with a set of its own" if scenario.anew else "all with the one set of the first seed"
        spread = ", mean and standard deviation" if scenario.seeds > 1 else ""
        yield (
            f"protocol {first.protocol}, {_seeds(scenario)}, {anew}, {nets} under each{spread}, {first.epoch} epoch; "
            f"{first.data}, at which nothing is chosen"
        )
        yield (
            "bytes: pixels "
            + ("as uint8, rounded and clipped" if scenario.stored == "uint8" else "as the method made them")
            + ", soft labels and learned rates; hard labels and a whitening are counted for no row. Real images have "
            "one byte a value and hard labels; networks train on them as on the set of the method in the column "
            "'trained as'; a twin is as many random real images as the set has, drawn anew for each network"
        )
        if any(record.rates > 1 for row in rows for record in row.records):
            yield "real images are trained on by the recipe without its learned steps, twins by the recipe with them"
        for row in filter(_short, rows):
            yield f"{row.called}, {row.ipc} a class: fewer bytes, because there are no more real images of a class"
        if same := [row for row in rows if _same_set(row)]:
            names = ", ".join(dict.fromkeys(f"{row.called} ({row.ipc} a class)" for row in same))
            yield f"the same images under every seed, so that networks alone differ: {names}"
        yield from dict.fromkeys(where(evaluation) for evaluation in evaluations)
        yield from dict.fromkeys(taught(evaluation) for evaluation in evaluations if evaluation.teacher is not None)
        yield from dict.fromkeys(choice(evaluation) for evaluation in evaluations if evaluation.chosen)
        yield from dict.fromkeys(f"computed on {machine(evaluation.hardware)}" for evaluation in evaluations)

    # --- differences ------------------------------------------------------------------------------------------------

    def _differences(self) -> Table:
        rows = [
            {
                "network": self._called(each.row.network),
                "a class": each.row.ipc,
                "row": each.row.called,
                "against": each.against.called,
                "difference": _interval(each),
                "p": _rounded(each.difference.p),
                "p corrected": _rounded(each.adjusted),
                "verdict": each.word or "none",
            }
            for each in self.compared
        ]
        notes = [
            f"mean difference over {_seeds(self.scenario)} (row minus against) with its own interval at 95 %, both by "
            "Student's t on pairs of a seed; p corrected: Holm's correction for all "
            f"{several(len(rows), 'comparison')} of this table, and verdicts are by it (two-sided, 5 %)"
        ]
        if any(each.difference.new_draw for each in self.compared):
            notes.append(NEW_DRAW)
        if any(cost.artefacts != 0 for cost in self.results.costs.values()):
            notes.append(SHARED)
        return Table("differences", rows, units={"difference": "percent"}, notes=notes)

    # --- costs ------------------------------------------------------------------------------------------------------

    def _costs(self) -> Table:
        rows = [
            {
                "row": baseline or method,
                "beside": method if baseline else "",
                "a class": ipc,
                "making a set": statistics.fmean(cost.sets) if cost.sets else None,
                "artefacts": cost.artefacts,
            }
            for (method, baseline, ipc), cost in sorted(self.results.costs.items(), key=self._order)
        ]
        units: dict[str, Unit] = {"making a set": "seconds", "artefacts": "seconds"}
        return Table("costs", rows, units=units, notes=[SECONDS])

    def _order(self, item: tuple[tuple[str, str, int], Any]) -> tuple[int, int, int]:
        method, baseline, ipc = item[0]
        scenario = self.scenario
        return (
            list(scenario.methods).index(method),
            scenario.ipcs.index(ipc),
            ("", *scenario.baselines).index(baseline),
        )

    def _spread(self) -> str:
        return "bars: standard deviation over seeds" if self.scenario.seeds > 1 else "one seed: no deviation"


def _evaluations(row: Row) -> list[Evaluation]:
    return [record.evaluation for record in row.records if record.evaluation is not None]


def _cells(row: Row) -> dict[str, Any]:
    score = Score.of(list(row.accuracies.values())) if row.accuracies else None
    record = next((record for record in row.records if record.evaluation is not None), row.records[0])
    twin = row.kind == "twin" and record.evaluation is not None
    return {
        "a class": row.ipc,
        "row": row.called,
        "trained as": ", ".join(row.methods),
        "images": record.images,
        "bytes": record.evaluation.twin_bytes if twin and record.evaluation else record.bytes,
        "accuracy": None if score is None else {"mean": score.mean, "std": score.std},
    }


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        for record in row.records:
            if record.reason is not None and row.kind != "twin":
                yield f"left out: {row.called}, {row.ipc} a class, seed {record.cell.seed}: {record.reason}"


def _short(row: Row) -> bool:
    return any(record.short for record in row.records)


def _same_set(row: Row) -> bool:
    contents = {record.content for record in row.records if record.content}
    return row.kind != "twin" and len(row.records) > 1 and len(contents) == 1


def _seeds(scenario: CompareScenario) -> str:
    return f"{scenario.seeds} seeds (from {scenario.seed})" if scenario.seeds > 1 else f"one seed ({scenario.seed})"


def _rounded(p: float | None) -> float | None:
    return None if p is None else float(f"{p:.3g}")


def _interval(each: Compared) -> dict[str, float | None]:
    found = each.difference
    if found.low is None or found.high is None:
        return {"mean": found.mean, "std": None}
    return {"value": found.mean, "low": found.low, "high": found.high}
