"""How well a proxy ranks architectures against a truth, with intervals and the significance of differences.

Proxies and truths are mappings from the name of an architecture to a number, where more is better. A proxy's value is
None where its trial failed; an architecture without a value ranks below all others, and all of those alike.

**Ties.** Spearman's correlation gives equal values their average rank, Kendall's tau-b leaves equal pairs out. Where
equal values stand on both sides of the k-th place, overlap and regret are expectations over a random choice among them.
Nothing depends on the order of the architectures. A proxy whose values are all equal ranks nothing: its correlations
are 0.

**Intervals** hold the middle 95 % of bootstrap resamples, each of n out of the n architectures drawn with replacement
(Efron 1979, the percentile interval). All proxies get the same resamples of a seed, so that their differences are
paired. A resample is a row of counts, and `weighted` computes a statistic of all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray
from scipy import stats

from dd_apps.nas import weighted
from dd_core import streams
from dd_core.config import Config
from dd_core.errors import Option, UserError, unknown_name
from dd_core.evaluation import verdicts
from dd_core.system import surroundings

K = TypeVar("K", bound=Hashable)
Values = Mapping[str, float | None]  # a proxy's values by architecture; None where its trial failed

FEWEST = 3  # architectures that have a correlation
KS = (1, 5, 10)
RESAMPLES, FEWEST_RESAMPLES = 10_000, 100
_PERCENTILES = (2.5, 97.5)
_NUMBERS = 2**16  # counts of resamples that are in memory at a time; more are slower, too
_CORRELATIONS: Mapping[str, tuple[Any, Any]] = {
    "spearman": (stats.spearmanr, weighted.spearman),
    "kendall": (stats.kendalltau, weighted.kendall),
}
_CHOICES = {"overlap": weighted.overlap, "regret": weighted.regret}


class Estimate(Config):
    """A statistic of all architectures, and the interval of its bootstrap resamples."""

    value: float
    low: float
    high: float


class Correlation(Config):
    """Rank correlations over the `best` architectures by truth, or over all architectures where `best` is None.

    Architectures whose truth equals that of the last of the best count too; `architectures` is the number with them.
    """

    best: int | None
    architectures: int
    spearman: Estimate
    kendall: Estimate


class Choice(Config):
    """The quality of the k best architectures by proxy.

    `overlap` is the share of the truth's k best that are among the proxy's k best. `regret` is the truth of the best
    architecture of all minus that of the best among the proxy's k best, in the truth's unit.
    """

    k: int
    overlap: Estimate
    regret: Estimate


class Ranking(Config):
    """How well a proxy ranks architectures.

    `failed` counts the architectures without a value, which rank last; `distinct` counts the different values of the
    other architectures: a proxy with one value ranks nothing. `top_fifth` (by truth, rounded up) is None where it would
    hold fewer than 3 architectures.
    """

    architectures: int
    failed: int
    distinct: int
    whole: Correlation
    top_fifth: Correlation | None
    best: tuple[Correlation, ...]
    choices: tuple[Choice, ...]
    resamples: int
    seed: int


class Comparison(Config):
    """A statistic of one proxy minus that of another on the same architectures.

    `p` is the two-sided p-value of the paired bootstrap; `adjusted` is p after Holm's correction for all comparisons of
    the call, and `word` the verdict on it: "ahead" where the first proxy is better. The interval is not corrected.
    """

    first: str
    second: str
    statistic: str
    difference: Estimate
    p: float
    adjusted: float
    word: verdicts.Word


@dataclass(frozen=True)
class _Statistic:
    """A statistic by name: `spearman` and `kendall`, also `@k` over the k best by truth; `overlap@k`, `regret@k`."""

    kind: str
    k: int | None = None

    @property
    def name(self) -> str:
        """The statistic's name as a user types it."""
        return self.kind if self.k is None else f"{self.kind}@{self.k}"

    def value(self, proxy: ndarray, truth: ndarray) -> float:
        """The statistic of all architectures."""
        every = np.ones((1, len(truth)))
        if self.kind in _CHOICES:
            return float(self.values(proxy, truth, every)[0])
        among = every[0] > 0 if self.k is None else weighted.among_best(truth, every, self.k)[0] > 0
        sides = [stats.rankdata(side[among]) for side in (proxy, truth)]
        if any(np.ptp(side) == 0 for side in sides):
            return 0.0
        return float(_CORRELATIONS[self.kind][0](*sides).statistic)

    def values(self, proxy: ndarray, truth: ndarray, weights: ndarray) -> ndarray:
        """The statistic of each resample."""
        if self.kind in _CHOICES:
            return _CHOICES[self.kind](proxy, truth, weights, self.k or 1)
        among = weights if self.k is None else weighted.among_best(truth, weights, self.k)
        return _CORRELATIONS[self.kind][1](proxy, truth, among)


@surroundings.own()
def rank(
    proxy: Values,
    truth: Mapping[str, float],
    *,
    ks: Sequence[int] | None = None,
    best: Sequence[int] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """How well `proxy` ranks the architectures of `truth`: all, the top fifth, and the k best for each k of `best`.

    ks: values of k for overlap and regret; by default 1, 5 and 10, as far as there are as many architectures.
    Raises `UserError` for fewer than 3 architectures, for a proxy of other architectures than the truth's, for values
    that are not finite, for a truth that is everywhere the same, and where every trial failed.
    """
    names, truths = _truth(truth)
    values = _values("the proxy", proxy, names)
    count, fifth = len(names), -(-len(names) // 5)
    ks = [k for k in KS if k <= count] if ks is None else [_within(k, "ks", least=1, most=count) for k in ks]
    tops = [fifth] * (fifth >= FEWEST) + [_within(k, "best", least=FEWEST, most=count) for k in best]
    statistics = [_Statistic(kind, k) for k in (None, *tops) for kind in _CORRELATIONS]
    statistics += [_Statistic(kind, k) for k in ks for kind in _CHOICES]
    spreads = _spreads({each: (each, values) for each in statistics}, truths, resamples=resamples, seed=seed)
    estimates = {each: _estimate(each.value(values, truths), spread) for each, spread in spreads.items()}
    whole, *parts = (_correlation(estimates, truths, k) for k in (None, *tops))
    return Ranking(
        architectures=count,
        failed=int(np.isinf(values).sum()),
        distinct=len(np.unique(values[np.isfinite(values)])),
        whole=whole,
        top_fifth=parts.pop(0) if fifth >= FEWEST else None,
        best=tuple(parts),
        choices=tuple(Choice(k=k, **{kind: estimates[_Statistic(kind, k)] for kind in _CHOICES}) for k in ks),
        resamples=resamples,
        seed=seed,
    )


@surroundings.own()
def compare(
    proxies: Mapping[str, Values],
    truth: Mapping[str, float],
    *,
    statistic: str = "spearman",
    pairs: Iterable[tuple[str, str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Whether proxies rank the architectures of `truth` differently: each pair of proxies, or the given `pairs`.

    `statistic` is `spearman` or `kendall`, `spearman@20` over the 20 best by truth, `overlap@5`, or `regret@5`, where
    less is better. The test is the paired bootstrap: of B resamples, b is the smaller of the number with a difference
    <= 0 and the number with a difference >= 0, and p = min(1, 2 (b + 1) / (B + 1)). Holm's step-down correction (1979)
    holds the chance of any false verdict to 5 %. Raises `UserError` for what `rank` refuses, and for too few resamples
    for the number of pairs.
    """
    names, truths = _truth(truth)
    measure = _parsed(statistic, len(names))
    sides = {name: (measure, _values(f"proxy '{name}'", proxy, names)) for name, proxy in proxies.items()}
    chosen = _checked([*combinations(sides, 2)] if pairs is None else [*pairs], sides, resamples)
    points = {name: measure.value(values, truths) for name, (_, values) in sides.items()}
    spreads = _spreads(sides, truths, resamples=resamples, seed=seed)
    differences = [(points[a] - points[b], spreads[a] - spreads[b]) for a, b in chosen]
    ps = [_two_sided(spread) for _, spread in differences]
    adjusted = verdicts.holm(ps)
    better = -1 if measure.kind == "regret" else 1
    return tuple(
        Comparison(
            first=first,
            second=second,
            statistic=measure.name,
            difference=_estimate(difference, spread),
            p=ps[index],
            adjusted=adjusted[index],
            word=verdicts.word(better * difference, adjusted[index]),
        )
        for index, ((first, second), (difference, spread)) in enumerate(zip(chosen, differences, strict=True))
    )


def rank_average(proxies: Iterable[Values]) -> dict[str, float | None]:
    """The mean rank of each architecture over several proxies, as a proxy: of n architectures, 1 is worst, n is best.

    Equal values have their average rank. An architecture ranks last for a proxy whose trial of it failed, and has None
    if its trial failed for every proxy. Raises `UserError` where the proxies do not have the same architectures.
    """
    every = [*proxies]
    if not every:
        raise UserError("a rank average needs at least one proxy")
    names = sorted(every[0])
    if not names:
        raise UserError("a rank average needs at least one architecture")
    sides = [_values(f"proxy {number} of {len(every)}", proxy, names) for number, proxy in enumerate(every, 1)]
    means = np.mean([stats.rankdata(side) for side in sides], axis=0)
    failed = np.all(np.isinf(sides), axis=0)
    return {name: None if failed[index] else float(means[index]) for index, name in enumerate(names)}


# --- checks ------------------------------------------------------------------------------------------------------


def _truth(truth: Mapping[str, float]) -> tuple[list[str], ndarray]:
    """The architectures in order of their names, and their truth."""
    names = sorted(truth)
    if len(names) < FEWEST:
        raise UserError(f"{len(names)} architectures; a ranking needs at least {FEWEST}")
    values = np.array([truth[name] for name in names], dtype=float)
    _require_finite("the truth", names, values)
    if np.ptp(values) == 0:
        raise UserError(f"the truth of all {len(names)} architectures is {values[0]:g}; there is nothing to rank")
    return names, values


def _values(what: str, proxy: Values, names: Sequence[str]) -> ndarray:
    """The proxy's values in the order of `names`, -inf where a trial failed."""
    missing, extra = [name for name in names if name not in proxy], proxy.keys() - {*names}
    if missing:
        advice = "give None where a trial failed"
        raise UserError(f"{what} lacks {len(missing)} of {len(names)} architectures ({advice}), first: {missing[0]}")
    if extra:
        raise UserError(f"{what} has {len(extra)} architectures that the truth lacks, first: {min(extra)}")
    finished = [name for name in names if proxy[name] is not None]
    if not finished:
        raise UserError(f"{what} has no value: all {len(names)} trials failed")
    _require_finite(what, finished, np.array([proxy[name] for name in finished], dtype=float))
    return np.array([-np.inf if proxy[name] is None else proxy[name] for name in names], dtype=float)


def _require_finite(what: str, names: Sequence[str], values: ndarray) -> None:
    for name, value in zip(names, values, strict=True):
        if not np.isfinite(value):
            raise UserError(f"{what} of {name} is {value:g}; expected a finite number, or None where a trial failed")


def _within(k: int, option: str, *, least: int, most: int) -> int:
    if not least <= k <= most:
        raise UserError(f"{Option(option, k)}: expected {least} to {most}, the number of architectures")
    return k


def _parsed(statistic: str, count: int) -> _Statistic:
    kind, at, number = statistic.partition("@")
    takes = at == "@" if kind in _CHOICES else kind in _CORRELATIONS
    if not takes or (at and not (number.isascii() and number.isdigit())):
        known = "spearman, kendall, spearman@20, kendall@20, overlap@5, regret@5"
        raise UserError(f"unknown statistic '{statistic}' (known: {known}, with any number)")
    least = 1 if kind in _CHOICES else FEWEST
    return _Statistic(kind, _within(int(number), "statistic", least=least, most=count) if at else None)


def _checked(pairs: list[tuple[str, str]], known: Iterable[str], resamples: int) -> list[tuple[str, str]]:
    if not pairs:
        raise UserError("a comparison needs at least two proxies")
    for name in {name for pair in pairs for name in pair}:
        if name not in known:
            raise unknown_name("proxy", name, known)
    needed = math.ceil(2 * len(pairs) / verdicts.LEVEL)
    if resamples < needed:
        advice = f"give {Option('resamples', needed)} or fewer pairs"
        raise UserError(f"{resamples} resamples cannot tell {len(pairs)} pairs apart at 5 %: {advice}")
    return pairs


# --- resamples ---------------------------------------------------------------------------------------------------


def _spreads(
    sides: Mapping[K, tuple[_Statistic, ndarray]], truth: ndarray, *, resamples: int, seed: int
) -> dict[K, ndarray]:
    """Each statistic of a proxy over the same resamples, computed a few at a time to bound the memory."""
    if resamples < FEWEST_RESAMPLES:
        raise UserError(f"{Option('resamples', resamples)}: an interval needs at least {FEWEST_RESAMPLES}")
    generator = np.random.default_rng(streams.counter(seed, "bootstrap", 0))
    count, rows = len(truth), max(1, _NUMBERS // len(truth))
    parts: dict[K, list[ndarray]] = {key: [] for key in sides}
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=size).astype(float)
        for key, (statistic, values) in sides.items():
            parts[key].append(statistic.values(values, truth, weights))
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def _estimate(value: float, spread: ndarray) -> Estimate:
    low, high = np.percentile(spread, _PERCENTILES)
    return Estimate(value=float(value), low=float(low), high=float(high))


def _two_sided(spread: ndarray) -> float:
    beyond = min(int((spread <= 0).sum()), int((spread >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(spread) + 1))


def _correlation(estimates: Mapping[_Statistic, Estimate], truth: ndarray, k: int | None) -> Correlation:
    every = np.ones((1, len(truth)))
    among = every if k is None else weighted.among_best(truth, every, k)
    spearman, kendall = (estimates[_Statistic(kind, k)] for kind in _CORRELATIONS)
    return Correlation(best=k, architectures=int(among.sum()), spearman=spearman, kendall=kendall)
