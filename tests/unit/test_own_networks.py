"""A network of a program's own, wherever a network's name is taken for training and for scoring."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from own_networks import Narrow, Small
from torch import nn

from dd_apps.cli import main
from dd_core import networks, training
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import evaluate
from dd_core.images import LabelledImages
from dd_core.methods import method
from dd_core.networks import own
from dd_core.recipe import Recipe
from dd_core.runner import distill
from dd_core.streams import Streams, generator
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import estimates as training_estimates

RECIPE = {"network": "convnet-1-w4", "epochs": 4, "learning_rate": 0.05}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench() -> tuple[DistilledSet, LabelledImages, LabelledImages]:
    easy = blobs(per_class=40)
    noise = torch.randint(0, 256, easy.images.shape, generator=generator(1, "noise"))  # so that nothing scores 0 or 1
    mixed = (0.3 * easy.images + 0.7 * noise).to(torch.uint8)
    train, test = LabelledImages(mixed, easy.labels, easy.classes, easy.name).split(0.25, 0)
    return distill(method("random", recipe=RECIPE), train, Size(ipc=2), seed=3), train, test


def test_a_module_scores_as_the_named_network_with_its_weights(bench):
    """Of the set and of the twin; its own weights stay as they were."""
    ds, train, test = bench
    channels, height, width = train.image_shape
    seed, size = Streams(5).child("network", 0).seed, (height, width)
    module = networks.build("convnet-1-w4", in_channels=channels, classes=3, image_size=size, seed=seed)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    ours = evaluate(ds, train=train, test=test, network=module, nets=1, seed=5, device="cpu")
    named = evaluate(ds, train=train, test=test, nets=1, seed=5, device="cpu")
    assert (ours.accuracy, ours.random_real) == (named.accuracy, named.random_real)
    assert (ours.network, named.network) == ("FeatureNetwork", "convnet-1-w4")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("workers", [1, 2])
def test_each_network_is_made_by_the_function_and_trained_as_train_does(
    bench, workers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # a worker imports it too
    ds, train, test = bench
    result = evaluate(
        ds, train=train, test=test, network=Small, nets=2, seed=1, device="cpu", workers=Workers(count=workers)
    )
    expected: list[float] = []
    for net in range(2):
        seed = Streams(1).child("network", net).seed
        model = training.train(ds, network=Small, seed=seed, device="cpu")
        plain = training.train(ds, network=own.built(Small, train.image_shape, outputs=3, seed=seed), seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
        expected.append(training.accuracy(model, test, ds.input_form(), device=CPU))
    assert result.accuracy.per_network == tuple(expected)
    assert result.network == "Small"
    assert expected[0] != expected[1]
    assert min(expected) > 0.4


def test_scores_of_a_function_are_not_kept_as_it_may_change(bench, tmp_path: Path):
    ds, train, test = bench
    evaluate(ds, train=train, test=test, network=Small, nets=1, device="cpu", keep=tmp_path)
    assert not list(tmp_path.iterdir())
    evaluate(ds, train=train, test=test, nets=1, device="cpu", keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "of a named network they are: the set's and the twin's"


def test_what_does_not_go_with_a_network_of_ones_own(bench):
    ds, train, test = bench
    with pytest.raises(UserError, match="network 'Small' has initial weights of its own; leave out start"):
        evaluate(ds, train=train, test=test, network=Small, start="xavier", device="cpu")
    with pytest.raises(UserError, match="protocol 'knn' trains no network, and 'Small' is given"):
        evaluate(ds, train=train, test=test, network=Small, protocol="knn", device="cpu")
    with pytest.raises(UserError, match="network 'Narrow' gives 2 outputs for an image, and must give 3"):
        evaluate(ds, train=train, test=test, network=Narrow, nets=1, device="cpu")


def test_the_memory_of_an_evaluation_is_that_of_the_network_given():
    """A step has the weights four times: themselves, gradients, what an optimiser keeps, and what it makes."""
    options = {"images": 3, "tested": 3, "sets": 1, "jobs": 1, "device": CPU}
    few, many = (
        training_estimates.evaluation(Recipe(**RECIPE), (1, 8, 8), 10, own=network, **options)
        for network in (None, wide)
    )
    assert 4 * 4 * 74 * 10_000 < many.bytes - few.bytes < 8 * 4 * 74 * 10_000


def wide(channels: int, outputs: int, size: tuple[int, int]) -> nn.Module:
    """With 74 x 10,000 weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10_000, bias=False), nn.Linear(10_000, outputs, bias=False))


def test_the_command_line_imports_and_a_set_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def small(channels, outputs, size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], outputs))\n"
    )
    (tmp_path / "touched_nets.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "set.safetensors")
    assert main(["distill", "random", "--data", "digits", "--ipc", "1", "--out", out]) == 0
    capfd.readouterr()
    command = ["evaluate", out, "--protocol", "plain-300", "--nets", "1", "--workers", "1", "--json"]
    assert main([*command, "--network", "my_nets:small"]) == 0
    scores = json.loads(capfd.readouterr().out)
    assert scores["network"] == "my_nets:small"
    assert 0.3 < scores["accuracy"]["mean"] < 0.95
    assert main([*command, "--network", "my_nets:absent"]) == 2
    assert "network 'my_nets:absent' cannot be imported" in capfd.readouterr().err
    assert main([*command, "--network", "my nets:small"]) == 2
    assert "type module:Class" in capfd.readouterr().err
    with pytest.raises(UserError, match="unknown network 'touched_nets:small'"):
        Recipe(network="touched_nets:small")
