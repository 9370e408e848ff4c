"""Accuracy matrices and the figures read off them.

`matrix[t][i]` is the accuracy on experience i's test images after training on experience t; entries with
i > t are None.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

Matrix = Sequence[Sequence[float | None]]


def average_accuracy(matrix: Matrix) -> float:
    """Mean over all experiences of the accuracy after the last one (Lopez-Paz and Ranzato 2017, ACC)."""
    final = [value for value in matrix[-1] if value is not None]
    return sum(final) / len(final)


def forgetting(matrix: Matrix) -> float:
    """Mean over the old experiences of the best earlier accuracy minus the final one (Chaudhry et al. 2018)."""
    losses: list[float] = []
    for experience in range(len(matrix) - 1):
        earlier = [row[experience] for row in matrix[:-1]]
        final = matrix[-1][experience]
        assert final is not None
        losses.append(max(value for value in earlier if value is not None) - final)
    return sum(losses) / len(losses)


def backward_transfer(matrix: Matrix) -> float:
    """Mean over old experiences of final accuracy minus accuracy just after learning (Lopez-Paz, Ranzato 2017, BWT)."""
    gains: list[float] = []
    for old in range(len(matrix) - 1):
        first, final = matrix[old][old], matrix[-1][old]
        assert first is not None
        assert final is not None
        gains.append(final - first)
    return sum(gains) / len(gains)


def incremental_accuracy(matrix: Matrix, counts: Sequence[int]) -> float:
    """Mean over the experiences of the accuracy on all classes seen so far (Rebuffi et al. 2017)."""
    seen = seen_accuracy(matrix, counts)
    return sum(seen) / len(seen)


def seen_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float]:
    """After each experience, the accuracy on the test images of all classes seen so far.

    counts: number of test images of each experience.
    """
    seen: list[float] = []
    for row in matrix:
        pairs = [(value, count) for value, count in zip(row, counts, strict=True) if value is not None]
        seen.append(sum(value * count for value, count in pairs) / sum(count for _, count in pairs))
    return seen


def mean_matrix(matrices: Sequence[Matrix]) -> list[list[float | None]]:
    """Entry by entry, the mean of matrices of one shape."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    rows = zip(*matrices, strict=True)
    return [[mean(values) for values in zip(*entries, strict=True)] for entries in rows]


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation of `values`; std is None for a single value, which shows no spread."""
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return {"mean": mean, "std": sqrt(squares / (len(values) - 1)) if len(values) > 1 else None}
