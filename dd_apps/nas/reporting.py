"""Tables and plots of the rankings of proxies and of searches, from plain values; imports neither torch nor nni.

A benchmark uses them as the tasks do:

    proxies = [RankedProxy("synflow", "zero-cost", values, rank(values, truth), seconds=0.02, passes=64), ...]
    correlation_table(proxies, notes=["..."])
    cost_plot(proxies, ceiling=0.98)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from dd_apps.nas.ranking import Choice, Comparison, Estimate, Ranking, Values, rank, rank_average
from dd_apps.report.plots import Cloud, Course, Point, courses, estimates, scatters
from dd_apps.report.sections import Picture, Section
from dd_apps.report.tables import Table
from dd_apps.report.words import several
from dd_core.config import plain

DISTILLED, AVERAGE = "distilled set", "rank average"
GROUPS = {
    **{"distilled": DISTILLED, "random": "real images", "herding": "real images", "k-means": "real images"},
    **{"part": "real images", "early-stopping": "early stopping", "zero-cost": "zero-cost measure"},
    **{"average": AVERAGE},
}
GIVEN = "given"  # kind of a proxy whose values a user gives
FEW = 4  # up to so many proxies, every pair is compared
CHOSEN = "each proxy is compared with the reference that is best on these same architectures, which favours the latter"
_WORDS = {"ahead": "better", "behind": "worse", "no difference": "no difference"}
_REGRET = "points"  # unit of the regret: points of accuracy in percent


@dataclass(frozen=True)
class RankedProxy:
    """A proxy for tables and plots: its values, its ranking, and its mean cost of an architecture.

    kind: the kind of its config, such as `zero-cost`, or `average`. seconds, passes: None where they are not known.
    """

    name: str
    kind: str
    values: Values
    ranking: Ranking
    seconds: float | None = None
    passes: float | None = None

    @property
    def group(self) -> str:
        """The name of its kind in a legend."""
        return GROUPS.get(self.kind, self.kind)


def averaged(
    parts: Sequence[RankedProxy], truth: Mapping[str, float], *, best: Sequence[int] = (), seed: int = 0
) -> RankedProxy:
    """The mean of the ranks that several proxies give, as a proxy that costs the sum of their costs.

    best, seed: as in `ranking.rank`.
    """
    values = rank_average([part.values for part in parts])
    name = f"mean rank of {' and '.join(part.name for part in parts)}"
    costs = [[part.seconds for part in parts], [part.passes for part in parts]]
    seconds, passes = (None if None in cost else sum(filter(None, cost)) for cost in costs)
    return RankedProxy(name, "average", values, rank(values, truth, best=best, seed=seed), seconds, passes)


# --- a whole report ----------------------------------------------------------------------------------------------


def ranking_sections(
    proxies: Sequence[RankedProxy],
    truth: Mapping[str, float],
    comparisons: Sequence[Comparison],
    *,
    ceiling: Estimate | None = None,
    notes: Sequence[str] = (),
) -> list[Section]:
    """Tables and plots of a ranking, in the order of a report; `notes` go below the first table."""
    cost = cost_plot(proxies, ceiling=ceiling)
    tables = [correlation_table(proxies, notes=notes), choice_table(proxies)]
    if comparisons:
        tables.append(comparison_table(comparisons))
    return [*tables, *([] if cost is None else [cost]), scatter_plot(proxies, truth)]


def ranking_details(
    proxies: Sequence[RankedProxy], truth: Mapping[str, float], comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """All figures of a ranking, for JSON."""
    return {
        "proxies": {
            proxy.name: {
                "kind": proxy.kind,
                "seconds": proxy.seconds,
                "passes": proxy.passes,
                "ranking": plain(proxy.ranking),
                "values": dict(proxy.values),
            }
            for proxy in proxies
        },
        "truth": dict(truth),
        "comparisons": [plain(comparison) for comparison in comparisons],
    }


# --- tables ------------------------------------------------------------------------------------------------------


def correlation_table(
    proxies: Sequence[RankedProxy], *, title: str = "rank correlation with the truth", notes: Sequence[str] = ()
) -> Table:
    """Spearman and Kendall over all architectures, Spearman over the top fifth, failures and costs, by proxy."""
    rows = [_correlations(proxy) for proxy in proxies]
    known = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    first = proxies[0].ranking
    own = [_intervals(first)]
    if first.top_fifth is not None:
        own.append(f"the top fifth by truth are {first.top_fifth.architectures} of {first.architectures} architectures")
    own.append("architectures whose trials failed share the last rank; equal values have their average rank")
    shown = [{column: row[column] for column in known} for row in rows]
    return Table(title, shown, units={"time an architecture": "seconds"}, notes=[*own, *notes])


def _correlations(proxy: RankedProxy) -> dict[str, Any]:
    ranking = proxy.ranking
    return {
        "proxy": proxy.name,
        "Spearman": plain(ranking.whole.spearman),
        "Kendall": plain(ranking.whole.kendall),
        "Spearman, top fifth": None if ranking.top_fifth is None else plain(ranking.top_fifth.spearman),
        "failed": ranking.failed,
        "time an architecture": proxy.seconds,
        "image-passes": None if proxy.passes is None else round(proxy.passes),
    }


def choice_table(
    proxies: Sequence[RankedProxy], *, title: str = "the k best by proxy", notes: Sequence[str] = ()
) -> Table:
    """Overlap and regret of each proxy, at each k of its ranking."""
    own = [
        "overlap@k: share of the k best by truth that are among the k best by proxy",
        f"regret@k: accuracy of the best architecture minus that of the best among the k best by proxy, in {_REGRET} "
        "of the truth; where proxies' values tie at the k-th place, both are expectations over a random choice",
        _intervals(proxies[0].ranking),
    ]
    rows = [{"proxy": proxy.name, **_choices(proxy.ranking.choices)} for proxy in proxies]
    return Table(title, rows, notes=[*own, *notes])


def _choices(choices: Iterable[Choice]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for choice in choices:
        if choice.k > 1:
            cells[f"overlap@{choice.k}"] = plain(choice.overlap)
        cells[f"regret@{choice.k}"] = plain(choice.regret)
    return cells


def _intervals(ranking: Ranking) -> str:
    return (
        f"brackets: the middle 95 % of {ranking.resamples:,} bootstrap resamples of the {ranking.architectures} "
        f"architectures (seed {ranking.seed})"
    )


def pairs_to_compare(proxies: Sequence[RankedProxy]) -> list[tuple[str, str]]:
    """Every pair of up to `FEW` proxies; of more proxies, each of them with the best reference.

    The best reference is the proxy with the highest Spearman that uses no distilled set and is no rank average; without
    such a proxy, the one with the highest Spearman of all.
    """
    names = [proxy.name for proxy in proxies]
    if len(proxies) <= FEW:
        return [*combinations(names, 2)]
    references = [proxy for proxy in proxies if proxy.group not in (DISTILLED, AVERAGE)] or proxies
    best = max(references, key=lambda proxy: proxy.ranking.whole.spearman.value).name
    return [(name, best) for name in names if name != best]


def comparison_table(
    comparisons: Sequence[Comparison], *, title: str = "differences between proxies", notes: Sequence[str] = ()
) -> Table:
    """The difference of each pair with its interval, p, p after Holm's correction, and the verdict on the first."""
    rows = [
        {
            "proxy": comparison.first,
            "compared with": comparison.second,
            f"difference in {comparison.statistic.capitalize()}": plain(comparison.difference),
            "p": comparison.p,
            "p, Holm": comparison.adjusted,
            "verdict": _WORDS[comparison.word],
        }
        for comparison in comparisons
    ]
    own = [
        "two-sided paired bootstrap over architectures; verdicts are at 5 %, by p after Holm's correction for all "
        f"{several(len(rows), 'comparison')} of this table"
    ]
    if len(rows) > 1 and len({comparison.second for comparison in comparisons}) == 1:
        own.append(CHOSEN)
    return Table(title, rows, notes=[*own, *notes])


def best_table(
    trials: Sequence[Mapping[str, Any]], *, value: str, title: str = "best architectures", notes: Sequence[str] = ()
) -> Table:
    """The best trials of a search; `trials` are mappings with architecture, value, index (from 0) and seconds.

    value: heading of the column of values.
    """
    rows = [
        {
            "place": place,
            "architecture": trial["architecture"],
            value: trial["value"],
            "trial": trial["index"] + 1,
            "time": trial["seconds"],
        }
        for place, trial in enumerate(trials, start=1)
    ]
    return Table(title, rows, units={"time": "seconds"}, notes=notes)


# --- plots -------------------------------------------------------------------------------------------------------


def scatter_plot(proxies: Sequence[RankedProxy], truth: Mapping[str, float], *, name: str = "scatter") -> Picture:
    """A small plot for each proxy: its values against the truth, by architecture; failed trials at the left edge."""
    clouds: list[Cloud] = []
    for proxy in proxies:
        finished = {each: value for each, value in proxy.values.items() if value is not None}
        clouds.append(
            Cloud(
                f"{proxy.name}: {proxy.ranking.whole.spearman.value:.2f}",
                proxy.group,
                [*finished.values()],
                [truth[each] for each in finished],
                [truth[each] for each, value in proxy.values.items() if value is None],
            )
        )
    note = "A point is an architecture; the number is Spearman's correlation."
    if any(cloud.missing for cloud in clouds):
        note += " Crosses at the left edge are architectures whose trial failed."
    return scatters(
        name, clouds, title="proxy against truth", x="value of the proxy", y="accuracy of the truth (%)", note=note
    )


def cost_plot(
    proxies: Sequence[RankedProxy], *, ceiling: Estimate | float | None = None, name: str = "cost"
) -> Picture | None:
    """Spearman over seconds an architecture, a colour and a mark for each kind; None where no cost is known.

    ceiling: correlation of the truth with itself, trained again under another seed.
    """
    points = [
        Point(proxy.name, proxy.group, proxy.seconds, estimate.value, estimate.low, estimate.high)
        for proxy in proxies
        if proxy.seconds and (estimate := proxy.ranking.whole.spearman)
    ]
    if not points:
        return None
    level = ceiling.value if isinstance(ceiling, Estimate) else ceiling
    lines = {} if level is None else {"the truth, trained again": level}
    return estimates(
        name,
        points,
        title="correlation against seconds",
        x="seconds an architecture",
        y="Spearman's correlation with the truth",
        lines=lines,
        note="Bars hold the middle 95 % of bootstrap resamples of the architectures.",
    )


def trajectory_plot(searches: Mapping[str, Sequence[float | None]], *, y: str, name: str = "trajectory") -> Picture:
    """The best value so far over the trials of each search; None is a failed trial."""
    lines = [
        Course(search, best_so_far(values), [index for index, value in enumerate(values) if value is None])
        for search, values in searches.items()
    ]
    note = "Crosses along the lower edge are failed trials." if any(line.failed for line in lines) else ""
    return courses(name, lines, title="trajectory of the search", y=y, note=note)


def best_so_far(values: Sequence[float | None]) -> list[float | None]:
    """The largest value up to each trial, None before the first value."""
    best: float | None = None
    course: list[float | None] = []
    for value in values:
        best = best if value is None else value if best is None else max(best, value)
        course.append(best)
    return course
