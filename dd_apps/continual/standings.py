"""Which rows of a table the distilled rows are ahead of, by a paired t-test over class orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dd_core.evaluation.verdicts import Verdict, Word, paired

Standings = Mapping[str, Mapping[str, Verdict]]  # of a distilled row against each other row, by their names

_WORDS: dict[Word | None, str] = {
    "ahead": "ahead of",
    "behind": "behind",
    "no difference": "no different, within the noise, from",
    None: "without a verdict (the same difference in every order) against",
}


def standings(finals: Mapping[str, Sequence[float]], distilled: Sequence[str]) -> Standings:
    """The verdict of each row of `distilled` against each other row.

    `finals` are the accuracies of each row on all test images after the last experience, one for each class order, the
    same orders in every row. Raises ValueError where rows have different numbers of orders.
    """
    return {
        row: {other: paired(finals[row], scores) for other, scores in finals.items() if other != row}
        for row in distilled
    }


def sentence(verdicts_by_row: Standings, *, orders: int) -> str:
    """The verdicts of one table in words; an empty string where nothing is compared."""
    if not any(verdicts_by_row.values()):
        return ""
    if orders == 1:
        return "one class order does not show how large the noise is: no verdict on which row is ahead; set more orders"
    rows = [f"{row} is {', '.join(_grouped(verdicts))}" for row, verdicts in verdicts_by_row.items()]
    test = f"paired t-tests over {orders} class orders (two-sided, each at 5 %)"
    return f"after the last experience, by {test}: {'; '.join(rows)}"


def _grouped(verdicts: Mapping[str, Verdict]) -> list[str]:
    """`ahead of a and b`, `behind c`, ..., each word with all of its rows."""
    groups = [
        (text, [row for row, verdict in verdicts.items() if verdict.word == word]) for word, text in _WORDS.items()
    ]
    return [f"{text} {' and '.join(rows)}" for text, rows in groups if rows]
