"""Tuning on the memory at the end of an experience: which images are learned, how often, and which weights come out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_scenarios import CONTINUAL

from dd_apps.continual import ContinualScenario
from dd_apps.continual.adapter import contained, contents
from dd_apps.continual.benchmark import build
from dd_apps.continual.strategies import Where, memory_for, strategy_for
from dd_apps.continual.strategies.stepping import Augmentation
from dd_core import datasets, networks
from dd_core.augment import dsa
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.images import normalise
from dd_core.streams import Streams, generator

TINY = {
    **CONTINUAL,
    "protocols": ["replay"],
    "replay": {"epochs": 1, "batch_size": 64, "batch_size_mem": 8},
}
ROWS = {
    "dm": {"strategy": "replay"},
    "dm-er-ace": {"strategy": "er-ace"},
    "herded": {"memory": "herding", "strategy": "replay"},
    "reservoir": {"memory": "reservoir", "strategy": "replay"},
    "icarl": {"memory": "herding", "strategy": "icarl"},
    "soft": {"labels": "network"},
}
TUNED = ("dm", "dm-er-ace", "herded", "reservoir")


def scenario(row: str, **replay: Any) -> ContinualScenario:
    return decode(
        ContinualScenario, TINY | {"row": {row: ROWS[row]}, "rows": [row], "replay": {**TINY["replay"], **replay}}
    )


def learned(row: str, folder, *, experiences: int = 1, **replay: Any):
    """(memory, strategy, stream) after the first experiences."""
    values = scenario(row, **replay)
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    stream = build(train, test, experiences=2, seed=0, order=0)
    where = Where("digits", classes=10, seed=0, folder=folder, image_shape=(1, 8, 8))
    memory = memory_for(values, row, "replay", where)
    network = networks.for_source(values.network, test, seed=0)
    with contained(0, "test"):
        strategy = strategy_for(
            values, row, "replay", network=network, memory=memory, device=torch.device("cpu"), seed=4, where=where
        )
        for experience in stream.experiences[:experiences]:
            strategy.train(experience)
    return memory, strategy, stream


def tuned(network, images, labels, *, epochs: int, rate: float, batch: int, kinds: str = "none", step: int = 0) -> None:
    """The reference: plain SGD over the images in the drawn orders, in parts of one size as nearly as can be."""
    velocity = [torch.zeros_like(weight) for weight in network.parameters()]
    streams = Streams(4).child("tuning", 0)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=streams.generator("order", epoch))
        count = -(-len(images) // batch)
        sizes = [len(images) // count + (part < len(images) % count) for part in range(count)]
        for rows in order.split(sizes):
            shown = images[rows]
            if kinds != "none":
                shown = dsa(shown, kinds, generator=generator(4, "augmentation", step))
                step += 1
            gradients = torch.autograd.grad(F.cross_entropy(network(shown), labels[rows]), list(network.parameters()))
            with torch.no_grad():
                for weight, speed, gradient in zip(network.parameters(), velocity, gradients, strict=True):
                    speed.mul_(0.9).add_(gradient)
                    weight -= rate * speed


@pytest.mark.parametrize("row", TUNED)
def test_the_network_takes_the_steps_of_sgd_on_each_stored_image(row: str, tmp_path):
    _, plain, _ = learned(row, tmp_path)
    memory, strategy, stream = learned(row, tmp_path, tuning_epochs=3)
    network = copy.deepcopy(plain.model)
    images, labels = map(torch.from_numpy, contents(memory))
    if row == "reservoir":  # classes in ascending order, as `contents` has them
        assert sum(len(group.buffer) for group in memory.buffer_groups.values()) == len(images) == 30
    else:
        assert len(images) == 15, "each once, though 8 are filled by repetition"
    tuned(network, normalise(images, stream.mean, stream.std), labels, epochs=3, rate=0.005, batch=8)
    for found, expected in zip(strategy.model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    moved = zip(plain.model.parameters(), strategy.model.parameters(), strict=True)
    assert any(not torch.equal(before, after) for before, after in moved)


def test_the_rate_and_the_augmentation_are_those_of_the_settings(tmp_path):
    _, plain, _ = learned("dm", tmp_path, augmentation="scale_rotate")
    memory, strategy, stream = learned("dm", tmp_path, augmentation="scale_rotate", tuning_epochs=1, tuning_rate=0.1)
    (augmentation,) = (each for each in plain.plugins if isinstance(each, Augmentation))
    network = copy.deepcopy(plain.model)
    images, labels = map(torch.from_numpy, contents(memory))
    tuned(
        network,
        normalise(images, stream.mean, stream.std),
        labels,
        epochs=1,
        rate=0.1,
        batch=8,
        kinds="scale_rotate",
        step=augmentation.step,
    )
    for found, expected in zip(strategy.model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_without_tuning_there_is_no_plugin_and_a_file_is_what_it_was(tmp_path):
    _, strategy, _ = learned("dm", tmp_path, experiences=0)
    assert not [plugin for plugin in strategy.plugins if type(plugin).__name__ == "Tuning"]
    assert "tuning_epochs" not in scenario("dm").replay.model_dump()
    assert "tuning_rate" not in scenario("dm").replay.model_dump()


@pytest.mark.parametrize(
    ("row", "what"), [("icarl", "strategy 'icarl' is not tuned"), ("soft", "labels = 'network' is not tuned")]
)
def test_a_row_that_would_not_be_tuned_is_refused(row: str, what: str):
    with pytest.raises(UserError, match=rf"row\.{row}: {what} on the memory, only replay and er-ace with hard labels"):
        scenario(row, tuning_epochs=1)
    values = decode(
        ContinualScenario,
        TINY
        | {
            "row": {row: {**ROWS[row], "training": {"tuning_epochs": 0}}},
            "rows": [row],
            "replay": {"tuning_epochs": 5},
        },
    )
    assert values.settings(row, "replay").tuning_epochs == 0  # pyright: ignore[reportAttributeAccessIssue]
