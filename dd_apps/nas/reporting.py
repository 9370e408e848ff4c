"""Tables and plots of how proxies rank, and of what a search found, from plain values; imports neither torch nor nni.

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
from dd_core.config import plain

DISTILLED, AVERAGE = "distilled set", "rank average"
GROUPS = {
    **{"distilled": DISTILLED, "random": "real images", "herding": "real images", "k-means": "real images"},
    **{"part": "real images", "early-stopping": "early stopping", "zero-cost": "zero-cost measure"},
    **{"average": AVERAGE},
}
GIVEN = "given"  # the kind of values that a user gives
FEW = 4  # proxies that are compared each with each
CHOSEN = "all are compared with the best reference on these very architectures, which favours it"
_WORDS = {"ahead": "better", "behind": "worse", "no difference": "no difference"}
_REGRET = "points"  # of accuracy in percent


@dataclass(frozen=True)
class RankedProxy:
    """A proxy as tables and plots have it: its values, how they rank, and the mean cost of an architecture.

    kind: that of a proxy's config, such as `zero-cost`, or `average`. seconds, passes: None where they are not known.
    """

    name: str
    kind: str
    values: Values
    ranking: Ranking
    seconds: float | None = None
    passes: float | None = None

    @property
    def group(self) -> str:
        """What a legend calls its kind."""
        return GROUPS.get(self.kind, self.kind)


def averaged(
    parts: Sequence[RankedProxy], truth: Mapping[str, float], *, best: Sequence[int] = (), seed: int = 0
) -> RankedProxy:
    """The mean of the ranks that several proxies give, as a proxy that costs what all of them do.

    best, seed: those of `ranking.rank`.
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
    """Tables and plots of how proxies rank, in the order of a report; `notes` go below the first table."""
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
    """Spearman and Kendall over all architectures, Spearman over the top fifth, failures, and what a proxy costs."""
    rows = [_correlations(proxy) for proxy in proxies]
    known = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    first = proxies[0].ranking
    own = [_intervals(first)]
    if first.top_fifth is not None:
        own.append(f"the top fifth by truth are {first.top_fifth.architectures} of {first.architectures} architectures")
    own.append(
        "an architecture whose trial failed ranks below all others, all of those alike; equal values have their "
        "average rank"
    )
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
    """Overlap and regret at each k that the rankings have."""
    own = [
        "overlap@k: share of the k best by truth that are among the k best by proxy",
        f"regret@k: accuracy of the best architecture minus that of the best among the k best by proxy, in {_REGRET} "
        "of the truth; where the k-th place is shared, chance decides, and both are the expected ones",
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
    """Each pair of few proxies; of more, each proxy with the best reference, which is none of a distilled set.

    The best reference has the highest Spearman of all proxies that are no distilled set and no rank average; where
    there is none, of all.
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
            f"difference in {comparison.statistic}": plain(comparison.difference),
            "p": comparison.p,
            "p, Holm": comparison.adjusted,
            "verdict": _WORDS[comparison.word],
        }
        for comparison in comparisons
    ]
    own = [
        "paired bootstrap over architectures, two-sided; the verdict is that of p after Holm's correction for all "
        f"{len(rows)} comparisons of this table, at 5 %"
    ]
    if len(rows) > 1 and len({comparison.second for comparison in comparisons}) == 1:
        own.append(CHOSEN)
    return Table(title, rows, notes=[*own, *notes])


def best_table(
    trials: Sequence[Mapping[str, Any]], *, value: str, title: str = "best architectures", notes: Sequence[str] = ()
) -> Table:
    """The best trials of a search, as mappings with architecture, value, index (from 0) and seconds.

    value: what the values are, in words.
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
    """Small axes for each proxy: its value of each architecture against the truth; failed ones at the left edge."""
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

    ceiling: the correlation of the truth with itself, trained from other seeds.
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
    """The best value so far over the trials of each search; a trial without a value failed."""
    lines = [
        Course(search, best_so_far(values), [index for index, value in enumerate(values) if value is None])
        for search, values in searches.items()
    ]
    note = "Crosses along the lower edge are failed trials." if any(line.failed for line in lines) else ""
    return courses(name, lines, title="trajectory of the search", y=y, note=note)


def best_so_far(values: Sequence[float | None]) -> list[float | None]:
    """The largest value up to each trial, None before the first."""
    best: float | None = None
    course: list[float | None] = []
    for value in values:
        best = best if value is None else value if best is None else max(best, value)
        course.append(best)
    return course
