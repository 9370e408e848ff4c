"""The leak guard, what a finished job leaves, and Avalanche's loggers beside the results."""

from __future__ import annotations

import csv
import re

import pytest
import torch

from dd_apps.continual import ContinualScenario, keeping, learner, run
from dd_apps.continual.benchmark import build
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.guard import Guard, GuardedImages
from dd_apps.continual.job import Job
from dd_apps.continual.learner import run_job
from dd_core import datasets
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.system.parallel import Workers

TINY = {
    "data": "digits",
    "experiences": 2,
    "orders": 1,
    "network": "convnet-1-w4",
    "method": {"name": "dm", "steps": 1, "recipe": {"network": "convnet-1-w4"}},
    "row": {"reservoir": {"memory": "reservoir"}, "er-ace": {"memory": "class-balanced", "strategy": "er-ace"}},
    "rows": ["distilled", "reservoir", "er-ace"],
    "retraining": {"epochs": 1},
    "replay": {"epochs": 1, "batch_size": 128},
}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", split="train"), datasets.load("digits", split="test")


def job(name: str, folder=None, **changes) -> Job:
    return Job(decode(ContinualScenario, TINY | changes), name, 0, folder, "cpu")


# --- the leak guard ----------------------------------------------------------------------------------------------


def test_a_guarded_source_gives_what_may_be_read_and_nothing_else(digits):
    guard = Guard(len(digits[0]))
    images = GuardedImages(digits[0], guard)
    assert isinstance(images, Source)
    rows = torch.tensor([3, 5, 8])
    with pytest.raises(UserError, match=r"leak: 3 training images .* were read outside an experience"):
        images.take(rows)
    with guard.only([3, 5, 8, 13], what="in training (experience 1)"):
        assert torch.equal(images.take(rows), digits[0].take(rows))
        part = images.subset(torch.tensor([13, 5]))
        assert torch.equal(next(part.batches(2)), digits[0].take(torch.tensor([13, 5])))
        with pytest.raises(UserError, match=r"leak: 1 training images .* in training \(experience 1\) \(rows 4\)"):
            images.take(torch.tensor([3, 4]))
        for leaking in (
            lambda: images.batches(10),
            lambda: images.subset(torch.tensor([5, 4])).batches(10),
            lambda: images.without_labels().take(torch.tensor([4])),
            lambda: images.subset(torch.tensor([4, 5])).take(torch.tensor([0])),
            lambda: images.views(
                torch.tensor([4]), torch.tensor([[0, 0, 8, 8]]), flips=torch.tensor([False]), size=(8, 8)
            ),
        ):
            with pytest.raises(UserError, match="leak: "):
                leaking()
        with guard.recording() as record:
            images.take(torch.tensor([100, 3]))
        assert record == [100, 3]
    with pytest.raises(UserError, match="leak: "):
        images.take(rows)


def test_a_distiller_that_reads_another_experience_fails_the_run(monkeypatch):
    own = DistilledBuffer.post_adapt

    def leaking(self, agent, exp):
        exp.logging().benchmark.train_stream[1].dataset[0]
        own(self, agent, exp)

    monkeypatch.setattr(DistilledBuffer, "post_adapt", leaking)
    with pytest.raises(UserError, match=r"^leak: 1 training images .* by the distiller \(experience 1\)") as caught:
        run_job(job("distilled"))
    assert "\n" not in str(caught.value)


def test_statistics_of_all_images_fail_the_run(monkeypatch):
    whole = GuardedImages.subset
    monkeypatch.setattr(GuardedImages, "subset", lambda self, rows: whole(self, torch.arange(len(self))))
    with pytest.raises(UserError, match=r"^leak: \d+ training images .* for the pixels' statistics"):
        run_job(job("distilled"))


@pytest.mark.parametrize("row", ["reservoir", "er-ace"])
def test_a_strategy_may_read_what_its_memory_stored_and_no_other_old_image(row, monkeypatch):
    run_job(job(row))
    stored = learner._Learner._stored
    monkeypatch.setattr(learner._Learner, "_stored", lambda *args: {*sorted(stored(*args))[:1]})
    with pytest.raises(UserError, match=r"^leak: .* in training \(experience 2\)"):
        run_job(job(row))


def test_only_joint_training_sees_earlier_experiences(monkeypatch):
    run_job(job("joint", rows=["joint"], protocols=["replay"]))
    leaking = decode(ContinualScenario, TINY | {"rows": ["none"], "protocols": ["replay"]})
    monkeypatch.setattr("dd_apps.continual.strategies.naive.Naive", _Cumulative())
    with pytest.raises(UserError, match=r"^leak: .* in training \(experience 2\)"):
        run_job(Job(leaking, "none", 0, None, "cpu"))


class _Cumulative:
    """Training on everything so far, where training on the current experience was asked for."""

    def __call__(self, **arguments):
        from dd_apps.continual.adapter import Cumulative

        return Cumulative(**arguments)


def test_without_a_guard_a_stream_is_read_as_it_is(digits):
    stream = build(*digits, experiences=2, seed=0, order=0)
    assert stream.experiences[1].dataset[0][1] in stream.classes[1]


# --- what a finished job leaves ----------------------------------------------------------------------------------


def test_a_finished_job_is_found_again_to_the_bit_and_by_no_other(tmp_path, monkeypatch, digits):
    first = run_job(job("reservoir", tmp_path))
    monkeypatch.setattr(learner, "strategy_for", None)  # nothing is trained again
    again = run_job(job("reservoir", tmp_path))
    assert again.trials == first.trials
    assert again.counts == first.counts
    assert again.memory is not None
    assert first.memory is not None
    assert again.memory.digest() == first.memory.digest()
    assert run_job(job("reservoir", tmp_path, workers=1, rows=["reservoir"])).trials == first.trials
    for changes in ({"seed": 1}, {"images_per_class": 2}, {"networks": 2}, {"replay": {"epochs": 2}}):
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            run_job(job("reservoir", tmp_path, **changes))


def test_other_images_are_another_job(digits):
    train, test = digits
    one = keeping.identity(job("reservoir"), train, test)
    assert one != keeping.identity(job("reservoir"), train.subset(torch.arange(100)), test)
    assert one != keeping.identity(job("reservoir"), train, test.subset(torch.arange(100)))
    assert one != keeping.identity(job("er-ace"), train, test)
    other = TINY["row"] | {"reservoir": {"memory": "reservoir", "training": {"momentum": 0.5}}}
    assert one != keeping.identity(job("reservoir", row=other), train, test)


def test_rows_of_one_method_and_size_share_what_is_distilled_once(tmp_path, monkeypatch):
    rows = {"ace": {"strategy": "er-ace"}, "more": {"images_per_class": 2}}
    scenario = decode(ContinualScenario, TINY | {"row": rows, "rows": ["distilled", "ace", "more", "average"]})
    made = []
    monkeypatch.setattr(learner, "make_memory", lambda job: made.append((job.row, job.order)))
    run(scenario, folder=tmp_path, workers=Workers(count=1))
    assert made == [("distilled", 0)]
    folders = sorted(path.name.partition("-")[0] for path in (tmp_path / "order-0" / "sets").iterdir())
    assert folders == ["average", "dm", "dm"]
    assert len([*tmp_path.rglob("[0-9]*.safetensors")]) == 3 * 2, "of two experiences"


# --- loggers -----------------------------------------------------------------------------------------------------


def test_avalanches_loggers_write_beside_the_results_and_move_no_number(tmp_path):
    quiet = run_job(job("reservoir", tmp_path / "quiet"))
    loud = run_job(job("reservoir", tmp_path / "loud", loggers=["csv", "text", "tensorboard"]))
    for table, (trial,) in quiet.trials.items():
        assert loud.trials[table][0].matrix == trial.matrix
        folder = tmp_path / "loud" / "order-0" / "reservoir" / "logs" / f"{table}-0"
        assert {"eval_results.csv", "training_results.csv", "log.txt"} <= {path.name for path in folder.iterdir()}
        assert any(path.name.startswith("events.out.tfevents") for path in folder.iterdir())
        with open(folder / "eval_results.csv") as file:
            lines = [*csv.DictReader(file)]
        assert len(lines) == 2 * 2, "two experiences are measured after each of two"
        theirs = [float(line["eval_accuracy"]) for line in lines if line["training_exp"] == "1"]
        assert theirs == pytest.approx([trial.matrix[1][0], trial.matrix[1][1]], abs=1e-3)
        assert re.search("Top1_Acc", (folder / "log.txt").read_text())
