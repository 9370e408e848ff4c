"""Statistics of rankings over many weighted samples at once; a bootstrap resample is a row of counts.

There are B samples of n architectures. `weights[b, i]` is how often sample b holds architecture i: a row of ones is the
sample that holds each architecture once. For row b every function gives the value of its textbook formula on sample b
with its repetitions. More is better in `proxy` and in `truth`; both are finite or -inf.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray
from scipy.special import gammaln

Each = Float[ndarray, " n"]
Weights = Float[ndarray, "B n"]
Results = Float[ndarray, " B"]
_PAIRS = 1 << 16  # pairs of architectures that are compared at a time: their signs take 8 bytes each


def spearman(proxy: Each, truth: Each, weights: Weights) -> Results:
    """Spearman's rank correlation; equal values have their average rank; 0 where all values of a side are equal.

    Of N architectures, one with u better than it and m equal to it (itself counted) has the average rank
    N - u - (m - 1) / 2, which is (N - m) / 2 - u above the mean rank.
    """
    total = weights.sum(1, keepdims=True)
    a, b = ((total - equal) / 2 - better for better, equal in (_standing(proxy, weights), _standing(truth, weights)))
    return _ratio((weights * a * b).sum(1), (weights * a * a).sum(1) * (weights * b * b).sum(1))


def kendall(proxy: Each, truth: Each, weights: Weights) -> Results:
    """Kendall's tau-b: concordant minus discordant pairs, over the geometric mean of each side's unequal pairs.

    0 where all values of a side are equal.
    """
    agreement = np.zeros(len(weights))
    count = max(1, _PAIRS // len(proxy))
    for start in range(0, len(proxy), count):
        rows = slice(start, start + count)
        signs = (_signs(proxy, rows) * _signs(truth, rows)).astype(float)
        agreement += (weights[:, rows] * (weights @ signs.T)).sum(1)
    pairs = weights.sum(1) ** 2
    unequal = (pairs - (weights * _standing(side, weights)[1]).sum(1) for side in (proxy, truth))
    return _ratio(agreement, np.prod([*unequal], axis=0))


def among_best(truth: Each, weights: Weights, k: int) -> Weights:
    """The weights of the k best by truth and of those that tie with the k-th; 0 for all other architectures."""
    return weights * (_standing(truth, weights)[0] < k)


def overlap(proxy: Each, truth: Each, weights: Weights, k: int) -> Results:
    """The share of the truth's k best among the proxy's k best, expected over random choices among ties on both sides.

    Of each architecture, the smaller of its numbers of copies in the two selections is shared. The expectation of that
    number is the sum over c >= 1 of the chance that the proxy's k best hold at least c copies, times the chance that
    the truth's k best do.
    """
    sides = [_standing(side, weights) for side in (proxy, truth)]
    copies = range(1, min(k, int(weights.max())) + 1)
    both = (np.prod([_at_least(c, better, equal, weights, k) for better, equal in sides], axis=0) for c in copies)
    return np.sum([part.sum(1) for part in both], axis=0) / k


def regret(proxy: Each, truth: Each, weights: Weights, k: int) -> Results:
    """The best truth minus the expected best truth among the proxy's k best, over random choices among ties.

    With architectures in order of truth, best first, S_j is the chance that none of the first j is among the proxy's k
    best. S_j is 0 if one of them certainly is. Otherwise m architectures tie for r places, and the c of them among the
    first j get none with the chance S_j = C(m - c, r) / C(m, r).
    """
    order = np.argsort(-truth, kind="stable")
    truths, counts = truth[order], weights[:, order]
    better, equal = (part[:, order] for part in _standing(proxy, weights))
    certain, tied = counts * (better + equal <= k), counts * ((better < k) & (better + equal > k))
    m, r = tied.sum(1, keepdims=True), k - certain.sum(1, keepdims=True)
    missed = _none_of(np.cumsum(tied, axis=1), m, r) * (np.cumsum(certain, axis=1) == 0)
    first = -np.diff(missed, axis=1, prepend=1.0)
    best = truths[(counts > 0).argmax(1)]
    return (first * (best[:, None] - truths)).sum(1)


def _none_of(c: ndarray, m: ndarray, r: ndarray) -> ndarray:
    """C(m - c, r) / C(m, r): the chance that r of m items, drawn at random, are none of c given items."""
    return np.where(m - c >= r, np.exp(_log_choose(m - c, r) - _log_choose(m, r)), 0)


def _at_least(c: int, better: Weights, equal: Weights, weights: Weights, k: int) -> Weights:
    """The chance that at least c copies of an architecture are among the k best.

    If m copies of tied architectures compete for r places, and w of them are copies of this one, a of these get a place
    with the chance C(w, a) C(m - w, r - a) / C(m, r): the hypergeometric distribution.
    """
    chance = ((weights >= c) & (better + equal <= k)).astype(float)
    tied = (weights >= c) & (better < k) & (better + equal > k)
    w, m, r = weights[tied], equal[tied], k - better[tied]
    for a in range(c, int(w.max(initial=0)) + 1):
        possible = (a <= w) & (a <= r) & (r - a <= m - w)
        logs = _log_choose(w, a) + _log_choose(m - w, r - a) - _log_choose(m, r)
        chance[tied] += np.where(possible, np.exp(logs), 0)
    return chance


def _log_choose(n: ndarray, k: ndarray | int) -> ndarray:
    """log C(n, k); an arbitrary number where C(n, k) is not defined."""
    k = np.clip(k, 0, np.maximum(n, 0))
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _standing(side: Each, weights: Weights) -> tuple[Weights, Weights]:
    """For each architecture, the numbers of better and of equal architectures in each sample, itself counted."""
    order = np.argsort(-side, kind="stable")
    starts = np.flatnonzero(np.r_[True, side[order][1:] != side[order][:-1]])
    level = np.empty(len(side), int)
    level[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(side)]))
    equal = np.add.reduceat(weights[:, order], starts, axis=1)
    better = np.cumsum(equal, axis=1) - equal
    return better[:, level], equal[:, level]


def _signs(side: Each, rows: slice) -> Int8[ndarray, "r n"]:
    """The signs of the differences of some architectures to all."""
    return (side[rows, None] > side).view(np.int8) - (side[rows, None] < side).view(np.int8)


def _ratio(part: Results, square: Results) -> Results:
    """part / sqrt(square), 0 where square is 0."""
    return np.divide(part, np.sqrt(square), out=np.zeros_like(part), where=square > 0)
