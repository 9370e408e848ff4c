"""A continual run that is stopped goes on after the last experience that a network learned, to the same figures."""

from __future__ import annotations

import pytest

from dd_apps.continual import ContinualScenario, learner
from dd_apps.continual.job import Job
from dd_apps.continual.learner import run_job
from dd_apps.continual.resuming import RESUMED
from dd_core.config import decode

ROWS = {
    "reservoir": {"memory": "reservoir"},
    "herded": {"memory": "herding"},
    "shared": {"memory": "class-balanced", "adaptive": True, "strategy": "er-ace"},
    "der": {"memory": "class-balanced", "strategy": "der"},
}
SCENARIO = {
    "data": "digits",
    "images": 200,
    "experiences": 4,
    "orders": 1,
    "networks": 2,
    "images_per_class": 3,
    "network": "convnet-1-w4-batchnorm",
    "method": {"name": "dm", "steps": 1, "recipe": {"network": "convnet-1-w4"}},
    "row": ROWS,
    "rows": ["distilled", "real", *ROWS, "none", "joint"],
    "retraining": {"epochs": 4, "augmentation": "crop_rotate", "schedule": "step"},
    "replay": {"epochs": 2, "batch_size": 16, "batch_size_mem": 8, "augmentation": "crop_rotate"},
}


class Killed(Exception):
    """The end of a process."""


def killed_after(experience: int, monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    """Run a job whose process ends while the second network learns what comes after `experience`."""
    own, calls = learner._Learner._row, []

    def row(self, network, position, device):
        calls.append(position)
        if calls.count(position) == 2 and position > experience:
            raise Killed
        return own(self, network, position, device)

    with monkeypatch.context() as patched:
        patched.setattr(learner._Learner, "_row", row)
        with pytest.raises(Killed):
            run_job(job)


@pytest.mark.parametrize("row", SCENARIO["rows"])
def test_a_stopped_job_goes_on_to_the_same_figures(row, tmp_path, monkeypatch):
    scenario = decode(ContinualScenario, SCENARIO)
    whole = run_job(Job(scenario, row, 0, tmp_path / "whole", "cpu"))
    stopped, trained = Job(scenario, row, 0, tmp_path / "stopped", "cpu"), []
    killed_after(1, monkeypatch, stopped)
    states = sorted(path.name.split(".")[1] for path in (tmp_path / "stopped").rglob("*.state"))
    table = scenario.tables_of(row)[0]
    resumed = scenario.row_of(row).strategy_in(table).name in RESUMED
    assert states == ([f"{table}-0", f"{table}-1"] if resumed else [])
    own = learner.strategy_for

    def counted(*arguments, **ways):
        strategy = own(*arguments, **ways)
        train = strategy.train
        strategy.train = lambda experience: (trained.append(arguments[2]), train(experience))
        return strategy

    monkeypatch.setattr(learner, "strategy_for", counted)
    again = run_job(stopped)
    assert trained.count(table) == (2 if resumed else 8), "the second network's last two experiences"
    for name, trials in whole.trials.items():
        for ours, theirs in zip(again.trials[name], trials, strict=True):
            assert ours.matrix == theirs.matrix
            assert ours.known == theirs.known
            assert ours.ledger.nbytes == theirs.ledger.nbytes
    if whole.memory is not None:
        assert again.memory is not None
        assert again.memory.digest() == whole.memory.digest()
    assert [*(tmp_path / "stopped").rglob("*.state")] == [], "a finished job keeps its outcome alone"


def test_times_of_all_processes_are_added_up(tmp_path, monkeypatch):
    stopped = Job(decode(ContinualScenario, SCENARIO | {"networks": 1}), "real", 0, tmp_path, "cpu")
    own, stops = learner._Learner._row, iter([False, False, True])

    def row(self, network, position, device):
        if next(stops, False):
            raise Killed
        return own(self, network, position, device)

    monkeypatch.setattr(learner._Learner, "_row", row)
    with pytest.raises(Killed):
        run_job(stopped)
    (path,) = tmp_path.rglob("*.state")
    state, body = learner.Progress(path).read(), {}
    assert state is not None
    state["seconds"] = [1000.0, 400.0]
    learner.Progress(path).write(state | body)
    ledger = run_job(stopped).trials["retraining"][0].ledger
    assert 400 < ledger.storing < 500
    assert 600 < ledger.training < 700
