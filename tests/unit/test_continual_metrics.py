"""Accuracy matrices by hand, and the scenario's own checks."""

from __future__ import annotations

import pytest

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.metrics import average_accuracy, forgetting, seen_accuracy, spread
from dd_core.config import decode
from dd_core.errors import UserError

MATRIX = [[0.9, None, None], [0.7, 0.8, None], [0.75, 0.2, 1.0]]


def test_average_accuracy_is_over_the_experiences_after_the_last_one():
    assert average_accuracy(MATRIX) == pytest.approx((0.75 + 0.2 + 1.0) / 3)


def test_forgetting_leaves_out_the_last_experience_and_takes_the_best_earlier_accuracy():
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.75) + (0.8 - 0.2)) / 2)


def test_forgetting_is_negative_where_old_classes_improved():
    assert forgetting([[0.5, None], [0.6, 0.9]]) == pytest.approx(-0.1)


def test_seen_accuracy_weighs_experiences_by_their_images():
    assert seen_accuracy(MATRIX, [10, 30, 60]) == pytest.approx([0.9, (9 - 2 + 24) / 40, (7.5 + 6 + 60) / 100])


def test_spread_is_the_sample_standard_deviation():
    assert spread([1.0, 3.0]) == pytest.approx({"mean": 2.0, "std": 2**0.5})
    assert spread([0.5]) == {"mean": 0.5, "std": 0.0}


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
