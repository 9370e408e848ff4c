"""Rankings of a user's own values in a CSV file, by true accuracies in another; imports neither torch nor nni."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd_apps.nas import ranking, reporting, values
from dd_apps.nas.reporting import GIVEN, RankedProxy
from dd_apps.report.tables import Table


@dataclass(frozen=True)
class Ranked:
    """The tables of a ranking, and all its figures for JSON."""

    tables: list[Table]
    details: dict[str, Any]


def ranked(file: Path, truth_file: Path, column: str | None, *, seed: int = 0) -> Ranked:
    """How well each column of `file` ranks its architectures, compared with the accuracies in `truth_file`.

    `truth_file` may have more architectures; `column` names its column, and is needed if it has several. Raises
    `UserError` for files that do not go together, and for what `ranking.rank` refuses.
    """
    proxies = values.read(file)
    truth = values.truth_for(proxies, truth_file, column)
    rankings = [RankedProxy(name, GIVEN, each, ranking.rank(each, truth, seed=seed)) for name, each in proxies.items()]
    pairs = reporting.pairs_to_compare(rankings)
    comparisons = ranking.compare(proxies, truth, pairs=pairs, seed=seed) if pairs else ()
    notes = [f"values: {file.name}; truth: {column or 'the only column'} of {truth_file.name}"]
    tables = [reporting.correlation_table(rankings, notes=notes), reporting.choice_table(rankings)]
    if comparisons:
        tables.append(reporting.comparison_table(comparisons))
    return Ranked(tables, reporting.ranking_details(rankings, truth, comparisons))
