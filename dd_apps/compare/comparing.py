"""The rows of a comparison, and the significance of their differences: paired over seeds, with Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from dd_apps.compare.cells import Cell, CellRecord
from dd_apps.compare.config import TWIN, CompareScenario
from dd_core.evaluation.differences import Difference, difference
from dd_core.evaluation.verdicts import Word, holm, word

Kind = Literal["distilled", "twin", "real"]


@dataclass(frozen=True)
class Row:
    """One row of the table at one ipc on one kind of network.

    kind: a distilled set; its random-real twin, which has as many images; or real images of as many bytes. name: the
    method or the baseline. methods: the distilled rows that this row is compared with and trained like. accuracies:
    fractions of 1 by seed, without seeds that diverged. one_set: whether all seeds score the same set. shared: whether
    several rows at this ipc and network have this name.
    """

    kind: Kind
    name: str
    methods: tuple[str, ...]
    ipc: int
    network: str
    accuracies: Mapping[int, float]
    one_set: bool
    records: tuple[CellRecord, ...]
    shared: bool = False

    @property
    def called(self) -> str:
        """The row's name; a twin, and a row whose name several rows have, is named with its methods."""
        if self.kind == "twin":
            return f"{TWIN} of {self.methods[0]}"
        return f"{self.name} (as {' and '.join(self.methods)})" if self.shared else self.name


@dataclass(frozen=True)
class Compared:
    """The comparison of one row with another.

    adjusted: p after Holm's correction for all comparisons of the report; it decides `word`. The interval of
    `difference` is not corrected.
    """

    row: Row
    against: Row
    difference: Difference
    adjusted: float | None
    word: Word | None


def rows_at(scenario: CompareScenario, records: Mapping[Cell, CellRecord], ipc: int, network: str) -> list[Row]:
    """The rows of one ipc and network: each distilled set, its twin, and the real images of as many bytes.

    Methods share a row of real images if these have the same number and the same training under every seed.
    """

    def of(method: str, baseline: str) -> tuple[CellRecord, ...]:
        cells = [
            Cell(method=method, baseline=baseline, ipc=ipc, network=network, seed=seed) for seed in scenario.all_seeds
        ]
        return tuple(records[cell] for cell in cells)

    sharing: dict[tuple[object, ...], list[str]] = {}
    for method in scenario.methods:
        trained = tuple(record.training for baseline in scenario.baselines for record in of(method, baseline))
        alone = () if all(trained) else (method,)
        sharing.setdefault((trained, alone), []).append(method)
    rows: list[Row] = []
    for methods in sharing.values():
        for method in methods:
            own = of(method, "")
            ours, twins = _accuracies(own, "accuracy"), _accuracies(own, "random_real")
            rows.append(Row("distilled", method, (method,), ipc, network, ours, not scenario.anew, own))
            rows.append(Row("twin", TWIN, (method,), ipc, network, twins, False, own))
        for baseline in scenario.baselines:
            real = of(methods[0], baseline)
            accuracies = _accuracies(real, "accuracy")
            rows.append(Row("real", baseline, tuple(methods), ipc, network, accuracies, False, real, len(sharing) > 1))
    return rows


def _accuracies(records: Sequence[CellRecord], of: str) -> dict[int, float]:
    """The mean accuracy over the networks of each seed, by seed."""
    return {
        record.cell.seed: getattr(record.evaluation, of).mean for record in records if record.evaluation is not None
    }


def compared(places: Sequence[Sequence[Row]]) -> list[Compared]:
    """All comparisons between rows of one ipc and network, with p corrected for the number of comparisons overall.

    `places` holds the rows of each ipc and network. Distilled sets are compared with each other, with their own twins
    and with their real images, and these real images with each other. A set that is the same under every seed is
    tested as one more draw of a row that is drawn anew for each seed.
    """
    found: list[Compared] = []
    for rows in places:
        for row, against in _pairs(rows):
            seeds = [seed for seed in row.accuracies if seed in against.accuracies]
            if not seeds:
                continue
            sides = [[side.accuracies[seed] for seed in seeds] for side in (row, against)]
            tested = difference(*sides, new_draw=row.one_set != against.one_set)
            found.append(Compared(row, against, tested, None, None))
    given = [each.difference.p for each in found if each.difference.p is not None]
    adjusted = iter(holm(given))
    return [each if each.difference.p is None else _corrected(each, next(adjusted)) for each in found]


def _corrected(each: Compared, adjusted: float) -> Compared:
    return replace(each, adjusted=adjusted, word=word(each.difference.mean, adjusted))


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    for row, against in combinations(rows, 2):
        kinds = {row.kind, against.kind}
        if kinds == {"distilled"}:
            yield row, against
        elif "twin" in kinds:
            if kinds == {"distilled", "twin"} and row.methods == against.methods:
                yield row, against
        elif {*row.methods} & {*against.methods}:
            yield row, against
