"""What the benchmarks of architecture search say of proxies: how each ranks, what it costs, who is ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dd_apps.nas import ranking
from dd_apps.nas.reporting import RankedProxy, cost_plot
from dd_apps.nas.scores import Score
from dd_core import store
from dd_core.config import plain

Scores = Mapping[str, Score]  # by architecture
Proxies = Mapping[str, Sequence[Scores]]  # by name; several scores of each architecture are averaged by rank
Record = dict[str, Any]
_KINDS = {
    **dict.fromkeys(("dm", "mtt", "ftd"), "distilled"),
    **{kind: kind for kind in ("random", "herding", "k-means")},
    **{"random quarter": "part", "early stopping": "early-stopping"},
}


def values_of(parts: Sequence[Scores], names: Iterable[str]) -> ranking.Values:
    """The values of the architectures."""
    values = [{name: part[name].value for name in names} for part in parts]
    return values[0] if len(values) == 1 else ranking.rank_average(values)


def ranked(proxies: Proxies, truths: Mapping[str, float], *, best: Sequence[int] = ()) -> list[RankedProxy]:
    """Each proxy with its ranking; an average costs what its parts cost together. Seconds are those of one core."""
    return [_ranked(name, parts, truths, best) for name, parts in proxies.items()]


def _ranked(name: str, parts: Sequence[Scores], truths: Mapping[str, float], best: Sequence[int]) -> RankedProxy:
    scores = [part[architecture] for part in parts for architecture in truths]
    values = values_of(parts, truths)
    seconds = sum(score.core_seconds for score in scores) / len(truths)
    passes = sum(score.passes for score in scores) / len(truths)
    return RankedProxy(name, _kind(name), values, ranking.rank(values, truths, best=best), seconds, passes)


def _kind(name: str) -> str:
    """`dm-10, loss` is a distilled set's, and a name with a plus an average's."""
    if " + " in name or "seeds" in name:
        return "average"
    return _KINDS.get(name.partition(",")[0].partition("-1")[0], "zero-cost")


def records(proxies: Proxies, truths: Mapping[str, float], *, best: Sequence[int] = ()) -> Iterator[Record]:
    """A record for each proxy."""
    for proxy in ranked(proxies, truths, best=best):
        reasons = {part[name].reason for part in proxies[proxy.name] for name in truths} - {None}
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
    proxies: Proxies, truths: Mapping[str, float], *, pairs: Sequence[tuple[str, str]], statistics: Sequence[str]
) -> Iterator[Record]:
    """A record for each statistic and pair of proxies."""
    values = {name: values_of(parts, truths) for name, parts in proxies.items()}
    for statistic in statistics if pairs else ():
        for line in ranking.compare(values, truths, statistic=statistic, pairs=pairs):
            yield {"what": "comparison", **plain(line)}


def draw(path: Path, proxies: Proxies, truths: Mapping[str, float], *, ceiling: float | None = None) -> None:
    """Correlation against seconds, as PNG and as SVG."""
    picture = cost_plot(ranked(proxies, truths), ceiling=ceiling)
    assert picture is not None
    store.write_bytes(path, picture.png)


def gist(record: Mapping[str, Any]) -> Record:
    """What is printed of a record."""
    if record["what"] != "proxy":
        names = ("what", "part", "variant", "name", "minutes", "first", "second", "statistic", "adjusted", "word")
        return {name: record[name] for name in names if name in record}
    whole, top = record["ranking"]["whole"], record["ranking"]["top_fifth"]
    figures = {"spearman": [round(value, 2) for value in whole["spearman"].values()]}
    top_fifth = {} if top is None else {"top fifth": round(top["spearman"]["value"], 2)}
    more = {name: record[name] for name in ("part", "variant", "name", "core_seconds") if name in record}
    return {**more, **figures, **top_fifth, "failed": record["ranking"]["failed"]}
