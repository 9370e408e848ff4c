"""What the benchmarks of architecture search say of proxies: how each ranks, what it costs, who is ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dd_apps.nas import ranking
from dd_apps.nas.scores import Score
from dd_core.config import plain

Scores = Mapping[str, Score]  # by architecture
Record = dict[str, Any]


def values_of(parts: Sequence[Scores], names: Iterable[str]) -> ranking.Values:
    """The values of the architectures; several scores of each are averaged by rank."""
    values = [{name: part[name].value for name in names} for part in parts]
    return values[0] if len(values) == 1 else ranking.rank_average(values)


def ranked(
    proxies: Mapping[str, Sequence[Scores]], truths: Mapping[str, float], *, best: Sequence[int] = ()
) -> Iterator[Record]:
    """A record for each proxy."""
    for name, parts in proxies.items():
        scores = [part[architecture] for part in parts for architecture in truths]
        line = ranking.rank(values_of(parts, truths), truths, best=best)
        yield {"what": "proxy", "name": name, "ranking": plain(line), **_cost(scores, len(truths))}


def compared(
    proxies: Mapping[str, Sequence[Scores]],
    truths: Mapping[str, float],
    *,
    pairs: Sequence[tuple[str, str]],
    statistics: Sequence[str],
) -> Iterator[Record]:
    """A record for each statistic and pair of proxies."""
    values = {name: values_of(parts, truths) for name, parts in proxies.items()}
    for statistic in statistics if pairs else ():
        for line in ranking.compare(values, truths, statistic=statistic, pairs=pairs):
            yield {"what": "comparison", **plain(line)}


def _cost(scores: Sequence[Score], architectures: int) -> Record:
    """The mean cost of an architecture: an average of proxies costs what they cost together."""
    return {
        "core_seconds": round(sum(score.core_seconds for score in scores) / architectures, 4),
        "passes": round(sum(score.passes for score in scores) / architectures, 1),
        "reasons": sorted({score.reason for score in scores if score.reason}),
    }


def gist(record: Mapping[str, Any]) -> Record:
    """What is printed of a record."""
    if record["what"] != "proxy":
        names = ("what", "part", "variant", "first", "second", "statistic", "adjusted", "word")
        return {name: record[name] for name in names if name in record}
    whole, top = record["ranking"]["whole"], record["ranking"]["top_fifth"]
    figures = {"spearman": [round(value, 2) for value in whole["spearman"].values()]}
    top_fifth = {} if top is None else {"top fifth": round(top["spearman"]["value"], 2)}
    more = {name: record[name] for name in ("part", "variant", "name", "core_seconds") if name in record}
    return {**more, **figures, **top_fifth, "failed": record["ranking"]["failed"]}
