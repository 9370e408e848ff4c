"""Accuracy matrices by hand, and the scenario's own checks."""

from __future__ import annotations

import pytest

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.metrics import (
    average_accuracy,
    backward_transfer,
    forgetting,
    incremental_accuracy,
    mean_matrix,
    seen_accuracy,
    spread,
)
from dd_apps.continual.standings import sentence, standings
from dd_apps.continual.summaries import half_interval
from dd_core.config import decode
from dd_core.errors import UserError

MATRIX = [[0.9, None, None], [0.7, 0.8, None], [0.75, 0.2, 1.0]]


def test_average_accuracy_is_over_the_experiences_after_the_last_one():
    assert average_accuracy(MATRIX) == pytest.approx((0.75 + 0.2 + 1.0) / 3)


def test_forgetting_leaves_out_the_last_experience_and_takes_the_best_earlier_accuracy():
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.75) + (0.8 - 0.2)) / 2)


def test_forgetting_counts_from_the_best_earlier_accuracy_which_need_not_be_the_first():
    later = [[0.5, None, None, None], [0.9, 0.3, None, None], [0.7, 0.8, 0.6, None], [0.4, 0.2, 0.5, 1.0]]
    assert forgetting(later) == pytest.approx(((0.9 - 0.4) + (0.8 - 0.2) + (0.6 - 0.5)) / 3)


def test_forgetting_is_negative_where_old_classes_improved():
    assert forgetting([[0.5, None], [0.6, 0.9]]) == pytest.approx(-0.1)


def test_seen_accuracy_weighs_experiences_by_their_images():
    assert seen_accuracy(MATRIX, [10, 30, 60]) == pytest.approx([0.9, (9 - 2 + 24) / 40, (7.5 + 6 + 60) / 100])


def test_spread_is_the_sample_standard_deviation():
    assert spread([1.0, 3.0]) == pytest.approx({"mean": 2.0, "std": 2**0.5})
    assert spread([0.5]) == {"mean": 0.5, "std": None}


def test_rows_are_compared_over_class_orders():
    finals = {
        "dm": [0.80, 0.90, 0.85],
        "average": [0.70, 0.79, 0.755],  # d = 10, 11, 9.5 points: t = 23
        "real": [0.79, 0.90, 0.87],  # d = 1, 0, -2 points: t = -0.4
        "k-means": [0.83, 0.94, 0.885],  # d = -3, -4, -3.5 points: t = -12
        "joint": [0.9, 1.0, 0.95],
    }
    found = standings(finals, ["dm", "k-means"])
    assert {other: verdict.word for other, verdict in found["dm"].items()} == {
        "average": "ahead",
        "real": "no difference",
        "k-means": "behind",
        "joint": None,
    }
    assert found["dm"]["k-means"].difference == pytest.approx(-0.035)
    assert [*found["k-means"]] == ["dm", "average", "real", "joint"]
    only = {"dm": {**found["dm"], "none": found["dm"]["average"]}}
    assert sentence(only, orders=3) == (
        "after the last experience, by paired t-tests over 3 class orders (two-sided, 5 % over all 5 comparisons by "
        "Holm's correction): dm is ahead of average and none, behind k-means, no different, within the noise, from "
        "real, without a verdict (the same difference in every order) against joint"
    )


def test_many_comparisons_are_corrected_by_holm():
    finals = {
        "dm": [0.80, 0.90, 0.85],
        "near": [0.77, 0.88, 0.81],  # d = 3, 2, 4 points: p = 0.0351
        "real": [0.79, 0.90, 0.87],  # no difference from either
    }
    alone = standings({name: finals[name] for name in ("dm", "near")}, ["dm"])["dm"]["near"]
    assert (alone.word, alone.adjusted) == ("ahead", pytest.approx(0.0351, abs=1e-4))
    found = standings(finals, ["dm", "near"])  # three comparisons: the pair of both is one
    assert found["dm"]["near"].p == pytest.approx(alone.p)
    assert found["dm"]["near"].adjusted == pytest.approx(3 * 0.0351, abs=3e-4)
    assert found["dm"]["near"].word == "no difference"
    assert found["near"]["dm"].difference == pytest.approx(-0.03)
    assert found["near"]["dm"].adjusted == found["dm"]["near"].adjusted


def test_backward_transfer_is_from_the_accuracy_just_after_learning():
    later = [[0.5, None, None], [0.9, 0.3, None], [0.4, 0.7, 1.0]]
    assert backward_transfer(later) == pytest.approx(((0.4 - 0.5) + (0.7 - 0.3)) / 2)


def test_incremental_accuracy_is_the_mean_of_the_seen_accuracies():
    assert incremental_accuracy(MATRIX, [10, 30, 60]) == pytest.approx((0.9 + 31 / 40 + 73.5 / 100) / 3)


def test_the_mean_matrix_is_taken_entry_by_entry():
    first, second = [[0.5, None], [0.2, 0.8]], [[0.7, None], [0.4, 0.6]]
    assert mean_matrix([first, second]) == [[pytest.approx(0.6), None], [pytest.approx(0.3), pytest.approx(0.7)]]


def test_half_of_an_interval_is_students():
    assert half_interval([0.1, 0.3]) == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t(0.975, 1) std / sqrt(2)
    assert half_interval([0.5]) is None


def test_one_class_order_gives_no_verdict():
    found = standings({"dm": [0.9], "real": [0.1]}, ["dm"])
    assert found["dm"]["real"].word is None
    assert sentence(found, orders=1) == (
        "one class order does not show how large the noise is: no verdict on which row is ahead; set more orders"
    )


def test_a_table_with_nothing_to_compare_has_no_verdicts():
    assert sentence(standings({"real": [0.1, 0.2], "none": [0.1, 0.2]}, []), orders=2) == ""
    assert sentence(standings({"dm": [0.1, 0.2]}, ["dm"]), orders=2) == ""


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"data": "digits", "experience": 5}, "mine.toml: experience: unknown key; did you mean 'experiences'?"),
        (
            {"data": "digits", "method": {"name": "dm", "stps": 3}},
            "mine.toml: method.stps: unknown key; did you mean 'steps'?",
        ),
        ({"data": "digits", "method": {"name": "dn"}}, "mine.toml: unknown method 'dn'; did you mean 'dm'?"),
        ({"data": "digits", "rows": ["real", "real"]}, "mine.toml: rows: each may be named once"),
        (
            {"data": "digits", "method": {"name": "average"}},
            "mine.toml: rows: 'average' is the row 'distilled' already",
        ),
        ({"data": "digits", "replay": {"share": "full"}}, "mine.toml: replay.share: "),
    ],
)
def test_a_mistake_in_a_scenario_is_named_by_its_key(table, message):
    with pytest.raises(UserError) as caught:
        decode(ContinualScenario, table, where="mine.toml")
    assert str(caught.value).startswith(message)


def test_share_decides_what_is_filled():
    fill = decode(ContinualScenario, {"data": "digits", "replay": {"batch_size_mem": 16}})
    stored = decode(ContinualScenario, {"data": "digits", "replay": {"batch_size_mem": 16, "share": "stored"}})
    assert (fill.replay.fill, stored.replay.fill) == (16, None)
