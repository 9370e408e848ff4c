"""The bridge against interleaved replay written plainly: equal shares of current and memory images, losses added.

Avalanche's ReplayPlugin builds the mini-batches of the bridge; nothing of Avalanche takes part in the plain loop.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from dd_apps.continual import ContinualScenario
from dd_apps.continual.adapter import ReplayPlugin, contained, contents
from dd_apps.continual.benchmark import Stream, build
from dd_apps.continual.learner import rightly_labelled
from dd_apps.continual.strategies import Where, memory_for, strategy_for
from dd_core import datasets, networks
from dd_core.config import decode
from dd_core.images import normalise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", split="train"), datasets.load("digits", split="test")


def scenario(**replay) -> ContinualScenario:
    return decode(ContinualScenario, {"data": "digits", "network": "convnet-2-w32", "replay": replay})


def bridge(setting: ContinualScenario, row, stream: Stream, test, folder, *, seed: int):
    """The network after the last experience, by Avalanche, and what the memory held after each experience."""
    memory = memory_for(setting, row, "replay", Where("digits", classes=10, seed=seed, folder=folder))
    network = networks.for_source(setting.network, test, seed=seed)
    strategy = strategy_for(setting, row, "replay", network=network, memory=memory, device=CPU)
    held = []
    with contained(seed, "bridge"):
        for experience in stream.experiences:
            strategy.train(experience)
            held.append(contents(memory))
    return strategy.model, held


def to_tensors(stream: Stream, images, labels):
    return normalise(torch.as_tensor(images), stream.mean, stream.std), torch.as_tensor(labels)


def current(stream: Stream, train, classes):
    chosen = torch.isin(train.labels, torch.tensor(classes)).nonzero().flatten()
    return to_tensors(stream, train.take(chosen), train.labels[chosen])


def plain_loop(setting: ContinualScenario, stream: Stream, train, held, *, seed: int):
    """The network after SGD on loss(32 current images) + loss(32 memory images)."""
    network = networks.for_source(setting.network, train, seed=seed)
    settings, random = setting.replay, torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    for number, classes in enumerate(stream.classes):
        images, labels = current(stream, train, classes)
        for _ in range(settings.epochs):
            for batch in torch.randperm(len(images), generator=random).split(settings.batch_size):
                loss = cross_entropy(network(images[batch]), labels[batch])
                if number > 0:
                    old, old_labels = to_tensors(stream, *held[number - 1])
                    repeated = torch.randperm(len(old), generator=random).repeat(settings.batch_size_mem)
                    some = repeated[: settings.batch_size_mem]
                    loss = loss + cross_entropy(network(old[some]), old_labels[some])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return network


def test_with_whole_batches_the_bridge_takes_the_plain_loops_steps(digits, tmp_path):
    """No draw is left then: loss = (n_c loss_c + n_m loss_m) / (n_c + n_m), and the weights must agree."""
    train, test = digits
    setting = scenario(batch_size=500, batch_size_mem=24, epochs=3, learning_rate=0.02)
    stream = build(train, test, experiences=5, seed=0, order=0)
    model, held = bridge(setting, "average", stream, test, tmp_path, seed=3)

    network = networks.for_source(setting.network, test, seed=3)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for number, classes in enumerate(stream.classes):
        images, labels = current(stream, train, classes)
        for _ in range(3):
            loss = cross_entropy(network(images), labels)
            if number > 0:
                old, old_labels = to_tensors(stream, *held[number - 1])
                share = 24 / (24 + len(images))
                loss = (1 - share) * loss + share * cross_entropy(network(old), old_labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for theirs, ours in zip(model.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2e-3, atol=2e-4)


def test_equal_shares_agree_with_the_plain_loop_and_put_class_averages_before_real_images(digits, tmp_path):
    train, test = digits
    setting = scenario(epochs=5)
    found: dict[tuple[str, str], list[float]] = {}
    for order in range(2):
        stream = build(train, test, experiences=5, seed=0, order=order)
        for row in ("average", "real"):
            model, held = bridge(setting, row, stream, test, tmp_path / f"{row}{order}", seed=order)
            loop = plain_loop(setting, stream, train, held, seed=order)
            for name, network in (("bridge", model), ("loop", loop)):
                right = rightly_labelled(network, test, stream, device=CPU)
                found.setdefault((name, row), []).append(float(right.mean()))
    mean = {key: sum(values) / 2 for key, values in found.items()}
    assert mean["bridge", "average"] > mean["bridge", "real"] + 0.03
    assert mean["loop", "average"] > mean["loop", "real"] + 0.03
    for row in ("average", "real"):
        assert mean["bridge", row] == pytest.approx(mean["loop", row], abs=0.12)


def test_the_plugin_replays_as_many_images_as_the_scenario_says(digits, tmp_path):
    setting = scenario(batch_size=20, batch_size_mem=12)
    memory = memory_for(setting, "average", "replay", Where("digits", classes=10, seed=0, folder=tmp_path))
    network = networks.for_source(setting.network, digits[0], seed=0)
    strategy = strategy_for(setting, "average", "replay", network=network, memory=memory, device=CPU)
    (plugin,) = [each for each in strategy.plugins if isinstance(each, ReplayPlugin)]
    assert (strategy.train_mb_size, plugin.batch_size, plugin.batch_size_mem, plugin.mem_size) == (20, 20, 12, 10)
