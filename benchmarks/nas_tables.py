"""Records of proxies for the benchmarks of architecture search: rankings, costs and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dd_apps.nas import ranking
from dd_apps.nas.reporting import RankedProxy, cost_plot
from dd_apps.nas.scores import Score
from dd_core import store
from dd_core.config import plain

Scores = Mapping[str, Mapping[str, Score]]  # by proxy, then by architecture
Record = dict[str, Any]


def records(proxies: Sequence[RankedProxy], scores: Scores) -> Iterator[Record]:
    """A record for each proxy; seconds are those of one core."""
    for proxy in proxies:
        reasons = {score.reason for score in scores.get(proxy.name, {}).values()} - {None}
        yield {
            "what": "proxy",
            "name": proxy.name,
            "kind": proxy.kind,
            "ranking": plain(proxy.ranking),
            "core_seconds": round(proxy.seconds or 0.0, 4),
            "passes": proxy.passes,
            "reasons": sorted(map(str, reasons)),
        }


def compared(
    proxies: Sequence[RankedProxy],
    truths: Mapping[str, float],
    *,
    pairs: Sequence[tuple[str, str]],
    statistics: Sequence[str],
) -> Iterator[Record]:
    """A record for each statistic and pair of proxies."""
    values = {proxy.name: proxy.values for proxy in proxies}
    for statistic in statistics if pairs else ():
        for line in ranking.compare(values, truths, statistic=statistic, pairs=pairs):
            yield {"what": "comparison", **plain(line)}


def draw(path: Path, proxies: Sequence[RankedProxy], *, ceiling: float | None = None) -> None:
    """Correlation against seconds, as a PNG file."""
    picture = cost_plot(proxies, ceiling=ceiling)
    assert picture is not None
    store.write_bytes(path, picture.png)


def gist(record: Mapping[str, Any]) -> Record:
    """The fields of a record that are printed."""
    if record["what"] != "proxy":
        names = ("what", "part", "variant", "name", "minutes", "first", "second", "statistic", "adjusted", "word")
        return {name: record[name] for name in names if name in record}
    whole, top = record["ranking"]["whole"], record["ranking"]["top_fifth"]
    figures = {"spearman": [round(value, 2) for value in whole["spearman"].values()]}
    top_fifth = {} if top is None else {"top fifth": round(top["spearman"]["value"], 2)}
    more = {name: record[name] for name in ("part", "variant", "name", "core_seconds") if name in record}
    return {**more, **figures, **top_fifth, "failed": record["ranking"]["failed"]}
