"""Verdicts against scipy's tests, tables of Student's t, and simulated draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dd_core.evaluation.verdicts import LEVEL, Verdict, holm, new_draw, paired

OURS, THEIRS = [0.926, 0.921, 0.903], [0.883, 0.893, 0.890]


def test_paired_is_the_paired_t_test():
    draws = np.random.default_rng(0)
    words: set[str | None] = set()
    for count in (2, 3, 5, 10) * 10:
        ours, theirs = draws.normal(0.8, 0.05, count), draws.normal(0.75, 0.05, count)
        expected = stats.ttest_rel(ours, theirs).pvalue
        found = paired(list(ours), list(theirs))
        assert found.p == pytest.approx(expected, rel=1e-9)
        assert found.difference == pytest.approx(ours.mean() - theirs.mean())
        assert found.pairs == count
        side = "ahead" if ours.mean() > theirs.mean() else "behind"
        assert found.word == (side if expected <= 0.05 else "no difference")
        words.add(found.word)
    assert words == {"ahead", "no difference"}


@pytest.mark.parametrize(
    ("shift", "word"),
    # d = shift +- 1 point: mean shift, std sqrt(2) points, t = shift / 1 with 1 degree of freedom, whose table says
    # 12.706 at 5 %; for a new draw t = shift / (sqrt(2) * sqrt(1.5)) = shift / 1.7321, so 22.007
    [(0.12, "no difference"), (0.13, "ahead"), (-0.12, "no difference"), (-0.13, "behind")],
)
def test_two_pairs_by_the_table_of_students_t(shift: float, word: str):
    assert paired([shift - 0.01, shift + 0.01], [0.0, 0.0]).word == word
    wider = shift * 3**0.5
    assert new_draw([wider - 0.01, wider + 0.01], [0.0, 0.0]).word == word
    assert new_draw([shift - 0.01, shift + 0.01], [0.0, 0.0]).word == "no difference"


def test_pairing_takes_out_what_both_sides_share():
    orders = [0.70, 0.80, 0.90]  # how hard each order is
    ours, theirs = [0.72, 0.825, 0.92], orders
    assert stats.ttest_ind(ours, theirs).pvalue > 0.5
    assert paired(ours, theirs).word == "ahead"
    assert paired(theirs, ours).word == "behind"


def test_a_random_set_is_called_better_as_rarely_as_is_said():
    # The set is one draw (luck 4 points) that all networks share; twins are drawn anew; networks add 1 point of noise.
    draws, trials, count = np.random.default_rng(1), 2000, 5
    plain, right = 0, 0
    for _ in range(trials):
        network = draws.normal(0.5, 0.02, count)  # a good network is good on both
        ours = draws.normal(0, 0.04) + network + draws.normal(0, 0.01, count)
        twins = draws.normal(0, 0.04, count) + network + draws.normal(0, 0.01, count)
        plain += stats.ttest_rel(ours, twins).pvalue <= LEVEL
        right += new_draw(list(ours), list(twins)).word != "no difference"
    assert plain / trials > 0.25
    assert right / trials < LEVEL + 0.01  # 5 % and two standard errors of 2000 trials


@pytest.mark.parametrize("count", [3, 10])
def test_the_level_is_exact_where_the_set_has_one_score(count: int):
    # k-nn: no networks, so all noise is in the draws, and the error is 5 %, not less
    draws, trials = np.random.default_rng(2), 4000
    wrong = 0
    for _ in range(trials):
        wrong += new_draw([draws.normal(0.5, 0.04)], list(draws.normal(0.5, 0.04, count))).word != "no difference"
    assert wrong / trials == pytest.approx(LEVEL, abs=0.011)


def test_a_set_that_is_better_by_far_is_called_so():
    draws, trials, count = np.random.default_rng(3), 300, 5
    found = [
        new_draw(list(0.8 + draws.normal(0, 0.01, count)), list(draws.normal(0.6, 0.03, count))).word
        for _ in range(trials)
    ]
    assert found.count("ahead") > 0.9 * trials
    assert "behind" not in found


def test_a_single_score_stands_in_every_pair():
    twins = [0.50, 0.52, 0.54, 0.48]
    assert new_draw([0.7], twins) == new_draw([0.7] * 4, twins)
    assert new_draw([0.7], twins).word == "ahead"
    assert new_draw([0.55], twins).word == "no difference"


def test_one_pair_has_no_verdict():
    assert paired([0.9], [0.1]) == Verdict(None, 0.8, None, 1)
    assert new_draw([0.9], [0.1]) == Verdict(None, 0.8, None, 1)
    assert paired([0.5], [0.5]) == new_draw([0.5], [0.5]) == Verdict(None, 0.0, None, 1)


def test_differences_that_do_not_vary_show_no_noise():
    # 0.9 - 0.5 and 0.8 - 0.4 are the same difference, though not to the last bit
    for test in (paired, new_draw):
        assert test([0.5, 0.7], [0.5, 0.7]) == Verdict("no difference", 0.0, 1.0, 2)
        found = test([0.9, 0.8, 0.7], [0.5, 0.4, 0.3])
        assert (found.word, found.p) == (None, None)
        assert found.difference == pytest.approx(0.4)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 100.0])
def test_the_unit_does_not_matter(unit: float):
    for test in (paired, new_draw):
        found = test([unit * score for score in OURS], [unit * score for score in THEIRS])
        assert found.p == pytest.approx(test(OURS, THEIRS).p)
        assert found.word == test(OURS, THEIRS).word
    assert paired([0.0, 0.0], [0.0, 0.0]) == Verdict("no difference", 0.0, 1.0, 2)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([0.1, 0.2], [0.1], "2 scores against 1"),
        ([0.1, 0.2], [0.1, 0.2, 0.3], "2 scores against 3"),
        ([], [], "0 scores against 0"),
        ([0.1, float("nan")], [0.1, 0.2], "not finite"),
        ([0.1, 0.2], [0.1, float("inf")], "not finite"),
    ],
)
def test_what_cannot_be_paired_is_refused(ours: list[float], theirs: list[float], message: str):
    for test in (paired, new_draw):
        with pytest.raises(ValueError, match=message):
            test(ours, theirs)


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the example of R's p.adjust and others
        ([0.01, 0.04, 0.03, 0.5], [0.04, 0.09, 0.09, 0.5]),  # never below the one before
        ([0.5, 0.6], [1, 1]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_multiplies_the_smallest_by_all_and_never_goes_down(ps: list[float], adjusted: list[float]):
    assert holm(ps) == pytest.approx(adjusted)
