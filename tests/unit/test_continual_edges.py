"""Streams at the edge: a class of one image, experiences of one class, uneven steps of many classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dd_apps.continual import ContinualScenario, learner
from dd_apps.continual.benchmark import build
from dd_apps.continual.checks import check_scenario
from dd_apps.continual.job import Job
from dd_apps.continual.orders import experience_sizes
from dd_core import datasets
from dd_core.config import decode
from dd_core.errors import Diverged, UserError
from dd_core.images import LabelledImages

ROWS = {
    "reservoir": {"memory": "reservoir"},
    "herded": {"memory": "herding"},
    "er-ace": {"strategy": "er-ace"},
    "der": {"memory": "class-balanced", "strategy": "der"},
    "icarl": {"memory": "herding", "strategy": "icarl"},
    "lwf": {"memory": "none", "strategy": "lwf"},
    "ewc": {"memory": "none", "strategy": "ewc"},
}
SCENARIO = {
    "data": "digits",
    "experiences": 4,
    "orders": 1,
    "images_per_class": 3,
    "network": "convnet-1-w4",
    "method": {"name": "dm", "steps": 1, "recipe": {"network": "convnet-1-w4"}},
    "row": ROWS,
    "rows": ["distilled", "real", *ROWS, "none", "joint"],
    "retraining": {"epochs": 2},
    "replay": {"epochs": 1, "batch_size": 8, "batch_size_mem": 8},
}


@pytest.fixture
def rare(monkeypatch):
    """Four classes of digits, an experience each; the third has one training image, the others six."""
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    members = [(train.labels == label).nonzero().flatten()[: 1 if label == 2 else 6] for label in range(4)]
    part = train.subset(torch.cat(members))
    few = LabelledImages(part.images, part.labels, part.classes[:4], "digits")
    keep = (test.labels < 4).nonzero().flatten()[:40]
    seen = LabelledImages(test.images[keep], test.labels[keep], test.classes[:4], "digits")
    monkeypatch.setattr(learner, "_loaded", lambda scenario: (few, seen))
    return few, seen


@pytest.mark.parametrize("row", SCENARIO["rows"])
def test_experiences_of_one_class_and_a_class_of_one_image_are_learned_by_every_row(rare, row):
    scenario = decode(ContinualScenario, SCENARIO)
    outcome = learner.run_job(Job(scenario, row, 0, None, "cpu"))
    for table, (trial,) in outcome.trials.items():
        assert [sum(value is not None for value in line) for line in trial.matrix] == [1, 2, 3, 4]
        assert all(value == 1.0 for line in trial.known for value in line if value is not None), "one class to choose"
        held = {"none": 0, "lwf": 0, "ewc": 0, "joint": 19, "reservoir": 12}.get(row, 10)
        if row == "der":  # 192 bytes a class, images of 64 bytes with four logits: two of each class, eight in all
            held = 2 + 2 + 1 + 2
        assert trial.ledger.images == held, table


def test_a_class_of_one_image_is_told_of_before_training(rare):
    (remark,) = check_scenario(decode(ContinualScenario, SCENARIO), *rare)
    assert remark.startswith("1 class has fewer training images than images_per_class (3)")


def test_two_hundred_classes_come_in_seven_uneven_steps():
    assert experience_sizes(200, 7) == (29,) * 4 + (28,) * 3
    pixels = torch.randint(0, 256, (400, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(400) % 200
    images = LabelledImages(pixels, labels, tuple(map(str, range(200))), "many")
    stream = build(images, images, experiences=7, seed=0, order=2)
    assert [len(classes) for classes in stream.classes] == [29] * 4 + [28] * 3
    assert sorted(np.concatenate(stream.classes).tolist()) == list(range(200))
    assert [len(experience.dataset) for experience in stream.experiences] == [58] * 4 + [56] * 3


def test_test_images_of_no_class_of_an_experience_are_refused_before_training(rare):
    few, seen = rare
    partial = seen.subset((seen.labels != 1).nonzero().flatten())
    with pytest.raises(UserError, match="digits: class '1' has no test images, so its accuracy cannot be measured"):
        check_scenario(decode(ContinualScenario, SCENARIO), few, partial)
    assert check_scenario(decode(ContinualScenario, SCENARIO), few, replace(seen))


@pytest.mark.parametrize("protocol", ["retraining", "replay"])
def test_a_network_whose_training_diverged_has_no_accuracy(protocol: str):
    wild = {**SCENARIO, "experiences": 2, "rows": ["real"], "row": {}, "protocols": [protocol]}
    values = decode(ContinualScenario, {**wild, protocol: {**wild[protocol], "learning_rate": 1e30}})
    with pytest.raises(Diverged, match="row 'real', class order 1: the network's outputs are not finite") as caught:
        learner.run_job(Job(values, "real", 0, None, "cpu"))
    assert caught.value.exit_code == 3


def test_what_a_row_is_called_in_the_second_class_order():
    values = decode(
        ContinualScenario, {**SCENARIO, "experiences": 2, "rows": ["none"], "row": {}, "protocols": ["replay"]}
    )
    values = values.model_copy(update={"replay": values.replay.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(Diverged, match="row 'none', class order 2: "):
        learner.run_job(Job(values, "none", 1, None, "cpu"))
