"""Paired differences of scores, with the tests of `dd_core.evaluation.verdicts` and the intervals that match them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats

from dd_core.config import Config
from dd_core.evaluation import verdicts

LEVEL = 0.95  # confidence level of intervals


class Difference(Config):
    """The mean of ours minus theirs over pairs, its interval by Student's t at 95 %, and the verdict at 5 %.

    low, high, word: None for one pair, and for pairs whose differences are all the same, which show no noise. new_draw:
    whether one side is the same set in all pairs, and the other side was drawn anew for each; the interval is then that
    of one more draw (`verdicts.new_draw`).
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    word: verdicts.Word | None
    pairs: int
    new_draw: bool


def difference(ours: Sequence[float], theirs: Sequence[float], *, new_draw: bool) -> Difference:
    """The difference of paired scores, where pair i has one seed, with the interval of Student's t.

    The test is `verdicts.paired`, or `verdicts.new_draw` where `new_draw` is true. Raises ValueError where the numbers
    of scores differ, or are 0.
    """
    verdict = (verdicts.new_draw if new_draw else verdicts.paired)(ours, theirs)
    low = high = None
    if verdict.pairs > 1 and verdict.word is not None:
        spread = statistics.stdev(a - b for a, b in zip(ours, theirs, strict=True))
        variance = 1 / verdict.pairs + new_draw
        half = float(stats.t.ppf((1 + LEVEL) / 2, verdict.pairs - 1)) * spread * math.sqrt(variance)
        low, high = verdict.difference - half, verdict.difference + half
    return Difference(
        mean=verdict.difference,
        low=low,
        high=high,
        p=verdict.p,
        word=verdict.word,
        pairs=verdict.pairs,
        new_draw=new_draw,
    )
