"""The table "retraining" against loops written plainly: a fresh network on the memory alone, by its own settings.

With whole batches no draw is left, and the weights must agree. Avalanche's GDumbPlugin drives the bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dd_apps.continual import ContinualScenario
from dd_apps.continual.adapter import contained, contents
from dd_apps.continual.benchmark import Stream, build
from dd_apps.continual.strategies import Where, memory_for, strategy_for
from dd_core import datasets, networks
from dd_core.config import decode
from dd_core.images import LabelledImages, normalise

RETRAINING = {"epochs": 5, "learning_rate": 0.03, "momentum": 0.8, "weight_decay": 0.05, "batch_size": 12}
REPLAY = {"epochs": 2, "learning_rate": 0.05, "momentum": 0.5, "weight_decay": 0.02, "batch_size": 2000}
SCENARIO = {"data": "digits", "network": "convnet-2-w8", "images_per_class": 2, "rows": ["average", "none", "joint"]}
SEED = 3


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", split="train"), datasets.load("digits", split="test")


@pytest.fixture(scope="module")
def stream(digits) -> Stream:
    return build(*digits, experiences=5, seed=0, order=0)


def bridge(row: str, stream: Stream, test: LabelledImages, folder) -> tuple[list[Tensor], list[Any]]:
    """The flat weights after each experience, by Avalanche, and what the memory held."""
    scenario = decode(ContinualScenario, SCENARIO | {"retraining": RETRAINING, "replay": REPLAY})
    memory = memory_for(scenario, row, "retraining", Where("digits", classes=10, seed=SEED, folder=folder))
    network = networks.for_source(scenario.network, test, seed=SEED)
    cpu = torch.device("cpu")
    strategy = strategy_for(scenario, row, "retraining", network=network, memory=memory, device=cpu)
    weights, held = [], []
    with contained(SEED, "bridge"):
        for experience in stream.experiences[:3]:
            strategy.train(experience)
            weights.append(nn.utils.parameters_to_vector(strategy.model.parameters()).detach())
            held.append(None if memory is None else contents(memory))
    return weights, held


def plain(images: Tensor, labels: Tensor, test: LabelledImages, how: dict[str, Any]) -> Tensor:
    """The flat weights of the first network after SGD on all images at once: v <- mu v + g + lambda w, w <- w - a v."""
    network = networks.for_source(str(SCENARIO["network"]), test, seed=SEED)
    weights = list(network.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    for _ in range(how["epochs"]):
        gradients = torch.autograd.grad(cross_entropy(network(images), labels), weights)
        with torch.no_grad():
            for weight, gradient, v in zip(weights, gradients, velocity, strict=True):
                v.mul_(how["momentum"]).add_(gradient + how["weight_decay"] * weight)
                weight -= how["learning_rate"] * v
    return nn.utils.parameters_to_vector(weights).detach()


def inputs(stream: Stream, images) -> Tensor:
    return normalise(torch.as_tensor(images), stream.mean, stream.std)


def of_classes(stream: Stream, train: LabelledImages, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    chosen = torch.isin(train.labels, torch.tensor(classes))
    return inputs(stream, train.images[chosen]), train.labels[chosen]


def require_close(theirs: list[Tensor], ours: list[Tensor]) -> None:
    for bridged, expected in zip(theirs, ours, strict=True):
        torch.testing.assert_close(bridged, expected, rtol=1e-3, atol=1e-4)
    moved = (ours[0] - ours[1]).abs().max()
    assert moved > 0.01, "experiences differ, so a network that does not start again would too"


def test_a_memory_is_retrained_on_from_the_first_weights_by_the_settings_of_retraining(digits, stream, tmp_path):
    weights, held = bridge("average", stream, digits[1], tmp_path)
    assert [len(labels) for _, labels in held] == [4, 8, 12]
    expected = [
        plain(inputs(stream, images), torch.as_tensor(labels), digits[1], RETRAINING) for images, labels in held
    ]
    require_close(weights, expected)


@pytest.mark.parametrize("row", ["none", "joint"])
def test_rows_without_a_memory_start_again_too_and_keep_the_settings_of_replay(row: str, digits, stream, tmp_path):
    train, test = digits
    weights, _ = bridge(row, stream, test, tmp_path)
    seen = [stream.classes[number] if row == "none" else sum(stream.classes[: number + 1], ()) for number in range(3)]
    require_close(weights, [plain(*of_classes(stream, train, classes), test, REPLAY) for classes in seen])
