"""Rankings of architectures, against formulas written out: loops over pairs, and every order of ties."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from scipy import stats

from dd_apps.nas import ranking, weighted
from dd_core import streams
from dd_core.config import canonical, decode
from dd_core.errors import UserError
from dd_core.evaluation.verdicts import holm

# --- the formulas ------------------------------------------------------------------------------------------------


def plain_ranks(values) -> list[float]:
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


def plain_spearman(proxy, truth) -> float:
    a, b = (np.array(plain_ranks(side)) for side in (proxy, truth))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())) if a.any() and b.any() else 0.0


def plain_kendall(proxy, truth) -> float:
    pairs = [
        (np.sign(proxy[i] - proxy[j]), np.sign(truth[i] - truth[j])) for i, j in combinations(range(len(truth)), 2)
    ]
    unequal = math.prod(sum(pair[side] != 0 for pair in pairs) for side in (0, 1))
    return float(sum(a * b for a, b in pairs) / math.sqrt(unequal)) if unequal else 0.0


@cache
def tops(values: tuple[float, ...], k: int) -> list[tuple[int, ...]]:
    """The k best of every order from the best to the worst, equal values being in every order."""
    every = permutations(range(len(values)))
    return [order[:k] for order in every if all(values[a] >= values[b] for a, b in pairwise(order))]


def plain_overlap(proxy, truth, k: int, names) -> float:
    """With `names` of the architectures, of which a sample may hold several copies."""
    sides = [Counter(tuple(sorted(names[i] for i in top)) for top in tops(tuple(side), k)) for side in (proxy, truth)]
    shares = [
        many * times * (Counter(a) & Counter(b)).total() / k
        for a, many in sides[0].items()
        for b, times in sides[1].items()
    ]
    return sum(shares) / (sides[0].total() * sides[1].total())


def plain_regret(proxy, truth, k: int) -> float:
    return float(np.mean([max(truth) - max(truth[i] for i in top) for top in tops(tuple(proxy), k)]))


def drawn(seed: int, count: int, levels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return tuple(generator.integers(0, levels, (2, count)).astype(float))


def written_out(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.repeat(values, weights.astype(int))


SAMPLES = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 2, 0], [0, 0, 0, 0, 5], [3, 2, 0, 0, 0], [1, 0, 3, 0, 1]], float)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("statistic", "plain"), [(weighted.spearman, plain_spearman), (weighted.kendall, plain_kendall)]
)
def test_a_correlation_of_counts_is_that_of_the_sample_written_out(statistic, plain, seed: int):
    proxy, truth = drawn(seed, 5, levels=2 + seed)
    expected = [plain(written_out(proxy, row), written_out(truth, row)) for row in SAMPLES]
    np.testing.assert_allclose(statistic(proxy, truth, SAMPLES), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_overlap_and_regret_are_the_mean_over_every_order_of_ties(k: int, seed: int):
    proxy, truth = drawn(seed, 5, levels=1 + seed)
    sides = [(written_out(proxy, row), written_out(truth, row)) for row in SAMPLES]
    names = [written_out(np.arange(5), row) for row in SAMPLES]
    overlaps = [plain_overlap(*pair, k, tuple(name)) for pair, name in zip(sides, names, strict=True)]
    np.testing.assert_allclose(weighted.overlap(proxy, truth, SAMPLES, k), overlaps, atol=1e-12)
    np.testing.assert_allclose(
        weighted.regret(proxy, truth, SAMPLES, k), [plain_regret(*pair, k) for pair in sides], atol=1e-12
    )


def test_many_architectures_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weighted, "_PAIRS", 7 * 40 + 39)  # seven rows of pairs
    proxy, truth = drawn(0, 40, levels=9)
    assert weighted.kendall(proxy, truth, np.ones((1, 40)))[0] == pytest.approx(plain_kendall(proxy, truth))


def test_the_best_are_all_that_tie_with_the_last_of_them():
    truth = np.array([3.0, 1, 2, 2, 0, 2])
    counts = np.array([[1.0, 1, 1, 1, 1, 1], [0, 2, 1, 0, 1, 0]])
    assert weighted.among_best(truth, counts, 2).tolist() == [[1, 0, 1, 1, 0, 1], [0, 2, 1, 0, 0, 0]]


# --- rankings ----------------------------------------------------------------------------------------------------


def named(values) -> dict[str, float]:
    return {f"cell {index:03}": None if value is None else float(value) for index, value in enumerate(values)}


def noisy(count: int, *, noise: float = 1.0, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """A proxy, and the one truth of so many architectures."""
    truth, error = (np.random.default_rng(number).normal(size=count) for number in (1000, seed))
    return named(truth + noise * error), named(truth)


def test_a_ranking_has_the_statistics_of_all_architectures():
    proxy, truth = (np.round(np.array([*side.values()]), 1) for side in noisy(50))
    result = ranking.rank(named(proxy), named(truth), ks=[2, 5], best=[20, 3], resamples=100)
    assert (result.architectures, result.failed, result.distinct) == (50, 0, len({*proxy}))
    for part, k in ((result.whole, 50), (result.top_fifth, 10), (result.best[0], 20), (result.best[1], 3)):
        among = truth >= sorted(truth)[-k]
        assert part.best == (None if k == 50 else k)
        assert part.architectures == among.sum()
        assert part.spearman.value == pytest.approx(plain_spearman(proxy[among], truth[among]))
        assert part.kendall.value == pytest.approx(plain_kendall(proxy[among], truth[among]))
    for choice, k in zip(result.choices, (2, 5), strict=True):
        every = np.ones((1, 50))
        assert choice.k == k
        assert choice.overlap.value == weighted.overlap(proxy, truth, every, k)[0]
        assert choice.regret.value == weighted.regret(proxy, truth, every, k)[0]


def test_the_choice_of_a_proxy_without_ties():
    proxy, truth = named([9, 8, 7, 6, 5, 4]), named([60, 90, 80, 50, 70, 91.5])
    one, three = ranking.rank(proxy, truth, ks=[1, 3], resamples=100).choices
    assert (one.overlap.value, one.regret.value) == (0.0, 31.5)
    assert (three.overlap.value, three.regret.value) == (pytest.approx(2 / 3), 1.5)


def test_the_top_fifth_takes_three_architectures():
    proxy, truth = noisy(10)
    assert ranking.rank(proxy, truth, resamples=100).top_fifth is None
    proxy, truth = noisy(11)
    top = ranking.rank(proxy, truth, resamples=100).top_fifth
    assert top is not None
    assert (top.best, top.architectures) == (3, 3)


def test_a_failed_trial_ranks_last_with_all_others_that_failed():
    truth = named([5, 4, 3, 2, 1, 0])
    result = ranking.rank(named([0.5, None, 0.3, None, -9, 0.1]), truth, resamples=100)
    low = ranking.rank(named([0.5, -10, 0.3, -10, -9, 0.1]), truth, resamples=100)
    assert (result.failed, result.distinct, low.failed, low.distinct) == (2, 4, 0, 5)
    assert (result.whole, result.choices) == (low.whole, low.choices)


def test_a_constant_proxy_ranks_nothing():
    truth = named(range(10))
    result = ranking.rank(named([7] * 10), truth, ks=[2], resamples=100)
    assert result.distinct == 1
    for part in (result.whole.spearman, result.whole.kendall):
        assert (part.value, part.low, part.high) == (0, 0, 0)
    assert result.choices[0].overlap.value == pytest.approx(0.2)  # of two at random
    assert result.choices[0].regret.value == pytest.approx(9 - 19 / 3)  # the mean best of two of 0 to 9 is 19 / 3


def test_no_number_depends_on_the_order_of_the_architectures():
    proxy, truth = (named(np.round([*side.values()], 1)) for side in noisy(30))
    mixed = {name: proxy[name] for name in sorted(proxy, key=lambda name: name[::-1])}
    reverse = dict(reversed(truth.items()))
    assert [*mixed] != [*proxy]
    first, second = (ranking.rank(*pair, best=[10], resamples=200) for pair in ((mixed, reverse), (proxy, truth)))
    assert first == second


def test_more_is_better_and_a_monotone_proxy_is_perfect():
    _, truth = noisy(20)
    perfect = ranking.rank(named(np.exp([*truth.values()])), truth, ks=[3], resamples=100)
    reverse = ranking.rank(named(-np.array([*truth.values()])), truth, ks=[3], resamples=100)
    assert (perfect.whole.spearman.value, perfect.whole.kendall.low) == (pytest.approx(1), pytest.approx(1))
    assert (perfect.choices[0].overlap.low, perfect.choices[0].regret.high) == (1, 0)
    assert (reverse.whole.spearman.value, reverse.whole.kendall.high) == (pytest.approx(-1), pytest.approx(-1))
    assert reverse.choices[0].overlap.value == 0


def test_the_default_ks_are_those_that_there_are():
    proxy, truth = noisy(6)
    assert [choice.k for choice in ranking.rank(proxy, truth, resamples=100).choices] == [1, 5]


def test_a_result_is_json():
    proxy, truth = noisy(20)
    result = ranking.rank(proxy, truth, resamples=100)
    assert decode(ranking.Ranking, result.model_dump(mode="json")) == result
    assert '"top_fifth":{"architectures":4,' in canonical(result)


# --- intervals ---------------------------------------------------------------------------------------------------


def test_an_interval_holds_the_middle_of_the_resamples(monkeypatch: pytest.MonkeyPatch):
    proxy, truth = noisy(12)
    x, y = (np.array([*side.values()]) for side in (proxy, truth))
    generator = np.random.default_rng(streams.counter(5, "bootstrap", 0))
    samples = generator.multinomial(12, [1 / 12] * 12, size=150)
    assert samples.sum(1).tolist() == [12] * 150
    whole = [plain_spearman(written_out(x, row), written_out(y, row)) for row in samples]
    top = []
    for row in samples:
        a, b = written_out(x, row), written_out(y, row)
        among = b >= sorted(b)[-3]
        top.append(plain_kendall(a[among], b[among]))
    monkeypatch.setattr(ranking, "_NUMBERS", 12 * 40)  # 40 resamples at a time
    result = ranking.rank(proxy, truth, resamples=150, seed=5)
    for estimate, spread in ((result.whole.spearman, whole), (result.top_fifth.kendall, top)):
        assert [estimate.low, estimate.high] == pytest.approx(np.percentile(spread, [2.5, 97.5]).tolist())


def test_a_seed_has_one_interval_and_other_seeds_have_others():
    proxy, truth = noisy(30)
    first = ranking.rank(proxy, truth, resamples=200)
    assert ranking.rank(proxy, truth, resamples=200, seed=0) == first
    assert ranking.rank(proxy, truth, resamples=200, seed=1).whole.spearman.low != first.whole.spearman.low


# --- comparisons -------------------------------------------------------------------------------------------------


def test_a_difference_is_that_of_paired_resamples():
    good, truth = noisy(40, noise=0.3)
    poor, _ = noisy(40, noise=3.0)
    result, mirror = ranking.compare({"good": good, "poor": poor}, truth, pairs=[("good", "poor"), ("poor", "good")])
    x, y, z = (np.array([*side.values()]) for side in (good, poor, truth))
    generator = np.random.default_rng(streams.counter(0, "bootstrap", 0))
    weights = generator.multinomial(40, [1 / 40] * 40, size=ranking.RESAMPLES).astype(float)
    spread = weighted.spearman(x, z, weights) - weighted.spearman(y, z, weights)
    assert result.difference.value == pytest.approx(plain_spearman(x, z) - plain_spearman(y, z))
    assert [result.difference.low, result.difference.high] == pytest.approx(np.percentile(spread, [2.5, 97.5]).tolist())
    assert result.p == 2 * ((spread <= 0).sum() + 1) / 10_001 < 0.05
    assert result.adjusted == 2 * result.p
    assert (result.first, result.second, result.word, mirror.word) == ("good", "poor", "ahead", "behind")
    assert mirror.difference.value == -result.difference.value
    assert mirror.p == result.p


def test_two_sides_of_noise_have_no_difference():
    first, truth = noisy(40)
    second, _ = noisy(40, seed=1)
    (result,) = ranking.compare({"a": first, "b": second}, truth, statistic="kendall", resamples=500)
    assert result.p > 0.05
    assert result.word == "no difference"


def test_a_proxy_is_no_different_from_itself():
    proxy, truth = noisy(20)
    (result,) = ranking.compare({"a": proxy, "b": named(np.exp([*proxy.values()]))}, truth, resamples=100)
    assert (result.difference.value, result.difference.low, result.difference.high) == (0, 0, 0)
    assert (result.p, result.adjusted, result.word) == (1, 1, "no difference")


def test_less_regret_is_better():
    truth = named(range(40))
    proxies = {"best": named(range(40)), "worst": named(range(40)[::-1])}
    for statistic, sign in (("regret@3", -1), ("overlap@3", 1), ("spearman@10", 1), ("kendall@10", 1)):
        (result,) = ranking.compare(proxies, truth, statistic=statistic, resamples=200)
        assert (result.statistic, result.word) == (statistic, "ahead")
        assert sign * result.difference.value > 0


def test_every_pair_is_compared_and_corrected():
    _, truth = noisy(60)
    proxies = {str(seed): noisy(60, noise=2.0, seed=seed)[0] for seed in range(4)}
    results = ranking.compare(proxies, truth, resamples=400)
    assert [(result.first, result.second) for result in results] == [*combinations("0123", 2)]
    assert [result.adjusted for result in results] == holm([result.p for result in results])


def test_a_small_p_has_a_verdict_only_after_the_correction():
    _, truth = noisy(40)
    proxies = {"good": noisy(40, noise=0.8)[0], "poor": noisy(40, noise=1.6, seed=1)[0]}
    (alone,) = ranking.compare(proxies, truth, resamples=1000)
    many = ranking.compare(proxies, truth, resamples=1000, pairs=[("good", "poor")] * 20)
    assert alone.p == many[0].p < 0.05 < many[0].adjusted
    assert (alone.word, many[0].word) == ("ahead", "no difference")


# --- averages ----------------------------------------------------------------------------------------------------


def test_a_rank_average_is_the_mean_of_the_ranks():
    first, second = named([0.1, 0.5, None, 0.5, None]), named([900, 700, 800, None, None])
    ranks = [stats.rankdata([0.1, 0.5, -1, 0.5, -1]), stats.rankdata([900, 700, 800, -1, -1])]
    expected = named(np.mean(ranks, axis=0)) | {"cell 004": None}
    assert ranking.rank_average([first, second]) == expected
    assert ranking.rank_average([first]) == named([3, 4.5, None, 4.5, None])


# --- refusals ----------------------------------------------------------------------------------------------------

PROXY, TRUTH = named([1, 2, 3, 4]), named([10, 20, 30, 40])
NAN, INFINITE, FINITE = float("nan"), float("inf"), "expected a finite number, or None where a trial failed"


@pytest.mark.parametrize(
    ("proxy", "truth", "options", "line"),
    [
        (named([1, 2]), named([1, 2]), {}, "2 architectures; a ranking needs at least 3"),
        (PROXY, named([5, 5, 5, 5]), {}, "the truth of all 4 architectures is 5; there is nothing to rank"),
        (
            PROXY,
            named([5, NAN, 5, 5]),
            {},
            f"the truth of cell 001 is nan; {FINITE}",
        ),
        (
            PROXY,
            named([5, None, 5, 5]),
            {},
            f"the truth of cell 001 is nan; {FINITE}",
        ),
        (
            named([1, 2, INFINITE, 4]),
            TRUTH,
            {},
            f"the proxy of cell 002 is inf; {FINITE}",
        ),
        (named([None] * 4), TRUTH, {}, "the proxy has no value: all 4 trials failed"),
        (
            named([1, 2]),
            TRUTH,
            {},
            "the proxy lacks 2 of 4 architectures (give None where a trial failed), first: cell 002",
        ),
        (named(range(6)), TRUTH, {}, "the proxy has 2 architectures that the truth lacks, first: cell 004"),
        (PROXY, TRUTH, {"ks": [5]}, "ks=5: expected 1 to 4, the number of architectures"),
        (PROXY, TRUTH, {"ks": [0]}, "ks=0: expected 1 to 4, the number of architectures"),
        (PROXY, TRUTH, {"best": [2]}, "best=2: expected 3 to 4, the number of architectures"),
        (PROXY, TRUTH, {"resamples": 99}, "resamples=99: an interval needs at least 100"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_line(proxy, truth, options, line: str):
    with pytest.raises(UserError) as error:
        ranking.rank(proxy, truth, **options)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pairs": [("a", "c")]}, "unknown proxy 'c' (known: a, b)"),
        ({"pairs": []}, "a comparison needs at least two proxies"),
        ({"statistic": "pearson"}, "unknown statistic 'pearson' (known: spearman, kendall, spearman@20, "),
        ({"statistic": "regret"}, "unknown statistic 'regret'"),
        ({"statistic": "spearman@"}, "unknown statistic 'spearman@'"),
        ({"statistic": "spearman@²"}, "unknown statistic 'spearman@²'"),
        ({"statistic": "spearman@2"}, "statistic=2: expected 3 to 4, the number of architectures"),
        (
            {"resamples": 100, "pairs": [("a", "b")] * 3},
            "100 resamples cannot tell 3 pairs apart at 5 %: give resamples=120 or fewer pairs",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(options, line: str):
    with pytest.raises(UserError) as error:
        ranking.compare({"a": PROXY, "b": PROXY}, TRUTH, **options)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_what_cannot_be_averaged_is_refused_in_one_line():
    for proxies, line in (
        ([], "a rank average needs at least one proxy"),
        ([{}], "a rank average needs at least one architecture"),
        ([PROXY, named([1, 2, 3])], "proxy 2 of 2 lacks 1 of 4 architectures"),
    ):
        with pytest.raises(UserError, match=f"^{line}"):
            ranking.rank_average(proxies)
