"""Whether distilled rows of a table are ahead of other rows: t-tests paired over class orders, corrected together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dd_core.evaluation.verdicts import Verdict, Word, holm, paired, word

Standings = Mapping[str, Mapping[str, "Standing"]]  # [distilled row][other row], by name

_WORDS: dict[Word | None, str] = {
    "ahead": "ahead of",
    "behind": "behind",
    "no difference": "no different, within the noise, from",
    None: "without a verdict (the same difference in every order) against",
}


@dataclass(frozen=True)
class Standing:
    """One comparison of a table.

    difference: mean over class orders, as a fraction of 1; p: of the paired two-sided t-test, uncorrected; adjusted: p
    after Holm's correction for all comparisons of the table, which decides the word; pairs: number of class orders. p,
    adjusted and word are None where the differences do not show how large the noise is.
    """

    word: Word | None
    difference: float
    p: float | None
    adjusted: float | None
    pairs: int


def standings(finals: Mapping[str, Sequence[float]], distilled: Sequence[str]) -> Standings:
    """The standing of each row of `distilled` against each other row.

    `finals` are the accuracies of each row on all test images after the last experience, one for each class order, the
    same orders in every row. A pair of two distilled rows is one comparison, which appears under both rows. Raises
    ValueError where rows have different numbers of orders.
    """
    verdicts = {
        (row, other): paired(finals[row], finals[other])
        for place, row in enumerate(distilled)
        for other in finals
        if other != row and other not in distilled[:place]
    }
    pairs = {pair: verdict.p for pair, verdict in verdicts.items() if verdict.p is not None}
    adjusted = dict(zip(pairs, holm(list(pairs.values())), strict=True))

    def standing(row: str, other: str) -> Standing:
        if (row, other) in verdicts:
            return _standing(verdicts[row, other], adjusted.get((row, other)), sign=1)
        return _standing(verdicts[other, row], adjusted.get((other, row)), sign=-1)

    return {row: {other: standing(row, other) for other in finals if other != row} for row in distilled}


def _standing(verdict: Verdict, adjusted: float | None, *, sign: int) -> Standing:
    difference = sign * verdict.difference
    found = None if adjusted is None else word(difference, adjusted)
    return Standing(found, difference, verdict.p, adjusted, verdict.pairs)


def sentence(standings_by_row: Standings, *, orders: int) -> str:
    """The standings of one table in words; an empty string if no rows are compared."""
    if not any(standings_by_row.values()):
        return ""
    if orders == 1:
        return "one class order does not show how large the noise is: no verdict on which row is ahead; set more orders"
    rows = [f"{row} is {', '.join(_grouped(against))}" for row, against in standings_by_row.items()]
    pairs = {frozenset((row, other)) for row, against in standings_by_row.items() for other in against}
    many = "" if len(pairs) == 1 else f" over all {len(pairs)} comparisons by Holm's correction"
    test = f"paired t-tests over {orders} class orders (two-sided, 5 %{many})"
    return f"after the last experience, by {test}: {'; '.join(rows)}"


def _grouped(against: Mapping[str, Standing]) -> list[str]:
    """`ahead of a and b`, `behind c`, ..., each word with all of its rows."""
    groups = [(text, [row for row, each in against.items() if each.word == found]) for found, text in _WORDS.items()]
    return [f"{text} {' and '.join(rows)}" for text, rows in groups if rows]
