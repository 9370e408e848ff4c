"""Whether scores differ by more than their noise: "ahead", "behind" or "no difference" at 5 %.

Two questions need two tests. `paired` compares two methods over repetitions that do all of the work again (seeds, class
orders). `new_draw` compares one distilled set with random sets, a new one for each network: there all networks share
the distilled set, so more networks cannot tell whether that set is a lucky draw. Both tests are by Student's t. `word`
gives the verdict for the p-value of another test, and `holm` corrects several p-values for their number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Word = Literal["ahead", "behind", "no difference"]
LEVEL = 0.05  # two-sided: how often noise alone is called a difference
_SAME = 1e-9  # part of the largest score by which differences may differ and are equal, as subtraction rounds


@dataclass(frozen=True)
class Verdict:
    """The result of a test of `ours` against `theirs`.

    word: None where there is no verdict: for one pair of scores, and for several pairs whose differences are all the
    same and not 0, because neither shows how large the noise is. difference: the mean of ours minus theirs, in the unit
    of the scores; p: the two-sided p-value, None without a verdict; pairs: the number of differences.
    """

    word: Word | None
    difference: float
    p: float | None
    pairs: int


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Verdict:
    """Student's paired t-test: pair i is of one seed or class order, in which both sides did all their work anew.

    With the differences d_i = ours_i - theirs_i, t = mean(d) / (std(d) / sqrt(n)) has n - 1 degrees of freedom where
    both sides are equally good. All scores have the same unit, whichever. Raises ValueError where the numbers of scores
    differ or are 0, and for a score that is not finite.
    """
    _require_pairs(ours, theirs)
    return _verdict(ours, theirs, variance=1 / len(ours))


def new_draw(ours: Sequence[float], twins: Sequence[float]) -> Verdict:
    """Student's t for one more draw: is one set better than random sets, of which each network has its own?

    `ours` are the scores of one set by network, `twins` those of random sets, a new one for each of the same networks.
    With the differences d_i = ours_i - twins_i, t = mean(d) / (std(d) * sqrt(1 + 1 / n)) has n - 1 degrees of freedom
    where the set is a random one too: the luck of that set is the same in every d_i and does not average out (hence
    1 + 1 / n, where a paired t-test has 1 / n). Where networks add noise of their own, the test errs towards
    "no difference".

    A set with one score (of one particular network, or of k-nn) has that score in every pair. All scores have the same
    unit, whichever. Raises ValueError where `ours` has neither one score nor as many as `twins`, where `twins` is
    empty, and for a score that is not finite.
    """
    every = [*ours] * len(twins) if len(ours) == 1 else ours
    _require_pairs(every, twins)
    return _verdict(every, twins, variance=1 + 1 / len(twins))


def word(difference: float, p: float) -> Word:
    """The verdict of a two-sided p-value on a difference, which is positive where ours is better."""
    if p > LEVEL:
        return "no difference"
    return "ahead" if difference > 0 else "behind"


def holm(p: Sequence[float]) -> list[float]:
    """p-values, in the given order, adjusted to bound the chance of any false verdict among all (Holm 1979).

    The i-th smallest of m is max over j <= i of (m - j + 1) p_j, at most 1.
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, largest = [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = largest
    return adjusted


def _require_pairs(ours: Sequence[float], theirs: Sequence[float]) -> None:
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} scores against {len(theirs)}; a verdict takes one pair or more")
    if not all(map(math.isfinite, (*ours, *theirs))):
        raise ValueError(f"scores that are not finite: {[*ours]} against {[*theirs]}")


def _verdict(ours: Sequence[float], theirs: Sequence[float], *, variance: float) -> Verdict:
    """The verdict where the mean difference has `variance` times the variance of one difference."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, count = statistics.fmean(differences), len(differences)
    rounding = _SAME * max(map(abs, (*ours, *theirs)))
    if count == 1:
        return Verdict(None, mean, None, count)
    if max(differences) - min(differences) <= rounding:
        return Verdict("no difference", mean, 1.0, count) if abs(mean) <= rounding else Verdict(None, mean, None, count)
    p = _two_sided(mean / (statistics.stdev(differences) * math.sqrt(variance)), freedom=count - 1)
    return Verdict(word(mean, p), mean, p, count)


def _two_sided(t: float, *, freedom: int) -> float:
    """The chance of a larger |t| under Student's distribution."""
    from scipy import stats  # late: it takes a second to import, and few programs ask for a verdict

    return float(2 * stats.t.sf(abs(t), freedom))
