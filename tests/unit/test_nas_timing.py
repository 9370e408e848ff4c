"""Budgets of a search in seconds, which become trials once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from search_trials import BEST, Backwards, Counted, value_of

from dd_apps.nas import spaces, timing
from dd_apps.nas.search import search
from dd_apps.nas.strategies import SearchConfig
from dd_core.errors import UserError

import nni  # isort: skip (spaces imports it without its warnings)
from nni.nas.nn.pytorch import ModelSpace  # isort: skip

assert spaces


class TinySpace(ModelSpace):
    """A space of 1,000 samples."""

    def __init__(self) -> None:
        super().__init__()
        for label in BEST:
            self.add_mutable(nni.choice(label, [*range(10)]))


class Clock:
    """The seconds of a clock that only trials move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.pace = 0.0, 0.5
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def trial(self, sample: dict[str, Any]) -> float:
        self.now += self.pace
        return value_of(sample)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(trial: Any, seconds: float, folder: Path | None = None, **options: Any) -> list[Any]:
    config = SearchConfig(max_seconds=seconds, batch=options.pop("batch", 4))
    return search(TinySpace(), trial, config, journal=folder, identity={"proxy": "distance"}, **options)


def test_seconds_become_trials_by_the_pace_that_is_measured(clock: Clock, tmp_path: Path):
    trial = Counted(clock.trial)
    assert len(run(trial, 10.4, tmp_path)) == 20
    assert json.loads((tmp_path / "pace.json").read_text()) == {"seconds_a_trial": 0.5, "trials": 4, "workers": 1}
    assert trial.calls.total() == 1 + 4 + 20, "one loads what trials need and four are measured"
    assert len(run(clock.trial, 0.4)) == 1


def test_what_a_worker_loads_first_is_not_measured(clock: Clock):
    clock.pace = 100.0

    def trial(sample: dict[str, Any]) -> float:
        value = clock.trial(sample)
        clock.pace = 0.5
        return value

    assert len(run(trial, 10)) == 20


def test_a_search_that_goes_on_keeps_its_number_of_trials(clock: Clock, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(Counted(clock.trial, stop=12), 10, tmp_path)
    kept = len((tmp_path / "records.jsonl").read_text().splitlines())
    assert 0 < kept < 20
    clock.pace = 7  # a busier machine
    trial = Counted(clock.trial)
    assert len(run(trial, 10, tmp_path)) == 20
    assert trial.calls.total() == 20 - kept, "nothing is measured again"
    assert len(run(clock.trial, 15, tmp_path)) == 30, "a larger budget is the same search, at the same pace"


def test_a_search_that_starts_over_measures_again(clock: Clock, tmp_path: Path):
    run(clock.trial, 10, tmp_path)
    clock.pace = 1.0
    assert len(run(clock.trial, 10, tmp_path)) == 20
    assert len(run(clock.trial, 10, tmp_path, fresh=True)) == 10


def test_only_as_many_samples_are_under_way_as_in_the_search(clock: Clock, tmp_path: Path):
    run(clock.trial, 10, tmp_path, batch=2, workers=Backwards(3))
    assert json.loads((tmp_path / "pace.json").read_text()) == {"seconds_a_trial": 0.5, "trials": 4, "workers": 3}
    run(clock.trial, 10, tmp_path / "many", batch=8, workers=Backwards(3))
    assert json.loads((tmp_path / "many" / "pace.json").read_text())["trials"] == 6


def test_trials_that_all_fail_have_no_pace(clock: Clock):
    def fails(sample: dict[str, Any]) -> float:
        raise ValueError("no such layer")

    with pytest.raises(UserError, match=r"max_seconds: all 5 trials .* failed, the first: ValueError: no such lay"):
        run(fails, 10)


def test_a_damaged_pace_is_refused(clock: Clock, tmp_path: Path):
    run(clock.trial, 1, tmp_path)
    (tmp_path / "pace.json").write_text('{"seconds_a_trial": 0, "trials": 1, "workers": 1}')
    with pytest.raises(UserError, match=r"pace.json: seconds_a_trial: "):
        run(clock.trial, 1, tmp_path)


@pytest.mark.parametrize("budget", [{}, {"max_trials": 3, "max_seconds": 1.0}])
def test_a_search_has_one_budget(budget: dict[str, Any]):
    with pytest.raises(UserError, match="give either max_trials or max_seconds"):
        SearchConfig(**budget)


def test_measured_samples_follow_from_the_seed():
    draws = [timing._samples(TinySpace(), 5, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
