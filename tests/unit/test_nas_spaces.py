"""Search spaces: what they hold, the networks of their samples, and NNI's own strategies on them."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from ambient_states import ALONE, inside
from torch import nn

from dd_apps.nas import cells, spaces
from dd_core import networks
from dd_core.errors import UserError
from dd_core.networks.names import parse_convnet

import nni  # isort: skip (spaces imports it without its warnings)
from nni.nas.evaluator import FunctionalEvaluator  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, MutableLinear, Repeat  # isort: skip
from nni.nas.space import RawFormatModelSpace, SimplifiedModelSpace  # isort: skip
from nni.nas.strategy import GridSearch, Random, RegularizedEvolution  # isort: skip

IMAGES: dict[str, Any] = {"in_channels": 3, "classes": 5, "image_size": (16, 16)}
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


class OwnSpace(ModelSpace):
    """A user's space, of 3 x 2 x 3 networks."""

    def __init__(self, inputs: int, classes: int = 5) -> None:
        super().__init__()
        width = nni.choice("width", [2, 4, 8])
        self.body = nn.Sequential(
            nn.Flatten(),
            MutableLinear(inputs, width),
            LayerChoice([nn.ReLU(), nn.Tanh()], label="activation"),
            Repeat(lambda index: LayerChoice([nn.Identity()], label=f"block {index}"), nni.choice("depth", [1, 2, 3])),
            MutableLinear(width, classes),
        )

    def forward(self, images):
        return self.body(images)


class OddSpace(OwnSpace):
    """A user's space with a choice of inputs and one of numbers."""

    def __init__(self, *, numbers: bool = False, function=None) -> None:
        super().__init__(4)
        self.inputs = InputChoice(3, n_chosen=2, label="inputs")
        if numbers:
            self.add_mutable(nni.uniform("rate", 0.0, 1.0))


@pytest.fixture(scope="module")
def convnets() -> spaces.ConvNetSpace:
    return spaces.ConvNetSpace(**IMAGES, max_width=32)


@pytest.fixture(scope="module")
def cell_space() -> spaces.CellSpace:
    return spaces.CellSpace(**IMAGES, channels=4, modules=1)


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return [*one] == [*two] and all(torch.equal(one[name], two[name]) for name in one)


# --- what the spaces hold ----------------------------------------------------------------------------------------


def test_there_are_720_convnets():
    space = spaces.ConvNetSpace(in_channels=3, classes=10, image_size=(32, 32))
    assert spaces.count(space) == 720
    every = [*spaces.samples(space)]
    assert len({spaces.architecture_of(space, sample) for sample in every}) == 720
    axes = {
        "depth": [1, 2, 3, 4],
        "width": [32, 64, 128, 256],
        "activation": ["sigmoid", "relu", "leakyrelu"],
        "norm": ["none", "batch", "layer", "instance", "group"],
        "pooling": ["none", "max", "avg"],
    }
    assert every == [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


@pytest.mark.parametrize(
    ("channels", "image_size", "max_width", "count"),
    [
        (1, (8, 8), 256, 540),
        (1, (28, 28), 64, 360),
        (3, (28, 2), 32, 45),
        (3, (16, 40), 100, 360),
        (2, (7, 9), 128, 270),
    ],
)
def test_images_and_widths_limit_the_convnets(channels: int, image_size, max_width: int, count: int):
    space = spaces.ConvNetSpace(in_channels=channels, classes=4, image_size=image_size, max_width=max_width)
    assert spaces.count(space) == count
    deepest = [*spaces.samples(space)][-1]
    network = spaces.build(space, deepest, seed=0).eval()
    assert network(torch.zeros(2, channels, *image_size)).shape == (2, 4)


def test_there_are_15625_cells(cell_space):
    assert spaces.count(cell_space) == 15_625
    names = {spaces.architecture_of(cell_space, sample) for sample in spaces.samples(cell_space)}
    assert names == {cells.architecture(chosen) for chosen in product(cells.OPERATIONS, repeat=6)}


def test_an_own_space_is_counted_and_named():
    space = OwnSpace(inputs=4)
    assert spaces.count(space) == 18
    every = [*spaces.samples(space)]
    assert len({spaces.architecture_of(space, sample) for sample in every}) == 18
    assert all(space.contains(sample) for sample in every)
    name = spaces.architecture_of(space, every[-1])
    assert name == "activation=1,block 0=0,block 1=0,block 2=0,depth=3,width=8"
    assert spaces.sample_of(space, name) == every[-1]
    with pytest.raises(UserError, match=r"^'width=8' is none of the 18 architectures of OwnSpace$"):
        spaces.sample_of(space, "width=8")


def test_several_inputs_are_counted_and_numbers_are_not():
    assert spaces.count(OddSpace()) == 54
    assert Counter(tuple(sample["inputs"]) for sample in spaces.samples(OddSpace())) == {
        (0, 1): 18,
        (0, 2): 18,
        (1, 2): 18,
    }
    with pytest.raises(UserError, match=r"^the architectures of OddSpace cannot be counted: 'rate' is a Numerical$"):
        spaces.count(OddSpace(numbers=True))


# --- names -------------------------------------------------------------------------------------------------------


def test_a_convnet_is_named_as_everywhere(convnets):
    sample = {"depth": 3, "width": 32, "activation": "sigmoid", "norm": "none", "pooling": "max"}
    assert spaces.architecture_of(convnets, sample) == "convnet-3-w32-nonorm-sigmoid-maxpool"
    assert spaces.sample_of(convnets, "convnet-3-maxpool-w32-sigmoid-nonorm") == sample
    for each in spaces.samples(convnets):
        name = spaces.architecture_of(convnets, each)
        assert spaces.sample_of(convnets, name) == each
        spec = parse_convnet(name)
        assert [spec.depth, spec.width, spec.activation, spec.norm, spec.pool] == [*each.values()]


@pytest.mark.parametrize(
    "name", ["convnet", "convnet-3", "convnet-5-w32", "convnet-3-w48", "convnet-3-w64", "net-3-w32"]
)
def test_a_convnet_of_another_space_is_refused(convnets, name: str):
    with pytest.raises(UserError, match=r"^no (sample|ConvNet) of [^\n]*$"):
        spaces.sample_of(convnets, name)


def test_a_cell_is_named_as_in_the_table(cell_space):
    sample = spaces.sample_of(cell_space, CELL)
    assert sample == {
        "cell/0_1": "conv_3x3",
        "cell/0_2": "none",
        "cell/1_2": "skip_connect",
        "cell/0_3": "avg_pool_3x3",
        "cell/1_3": "none",
        "cell/2_3": "conv_1x1",
    }
    assert spaces.architecture_of(cell_space, sample) == CELL
    assert cell_space.contains(sample)
    with pytest.raises(UserError, match=r"^no sample of CellSpace: cell/0_2 is 'conv_5x5'$"):
        spaces.architecture_of(cell_space, {**sample, "cell/0_2": "conv_5x5"})


# --- networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(0, 180, 19))
def test_a_convnet_is_the_network_of_its_name(convnets, number: int):
    sample = [*spaces.samples(convnets)][number]
    network = spaces.build(convnets, sample, seed=3, stream="trial", step=2)
    name = spaces.architecture_of(convnets, sample)
    assert same(network, networks.build(name, **IMAGES, seed=3, stream="trial", step=2))
    assert isinstance(network, networks.FeatureNetwork)


def output(network: nn.Module, images: torch.Tensor, chosen: tuple[str, ...]) -> torch.Tensor:
    """The logits of a network with one cell a stack, computed from its weights by the drawing of NAS-Bench-201."""

    def norm(x, module):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = (weight[:, None, None] for weight in (module.weight, module.bias))
        return (x - mean) / (variance + module.eps).sqrt() * scale + shift

    def conv(x, block, stride=1):
        _, convolution, batch_norm = block.op
        border = convolution.weight.shape[-1] // 2
        x = nn.functional.conv2d(x.relu(), convolution.weight, stride=stride, padding=border)
        return norm(x, batch_norm)

    def operate(operation, x, module):
        if operation == "none":
            return 0 * x
        if operation == "avg_pool_3x3":
            ones = nn.functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
            return nn.functional.avg_pool2d(x, 3, 1, 1) / ones
        return x if operation == "skip_connect" else conv(x, module)

    x = norm(nn.functional.conv2d(images, network.stem[0].weight, padding=1), network.stem[1])
    for block in network.cells:
        if hasattr(block, "conv_a"):
            convolution = block.downsample[1]
            shortcut = nn.functional.conv2d(nn.functional.avg_pool2d(x, 2), convolution.weight)
            x = shortcut + conv(conv(x, block.conv_a, stride=2), block.conv_b)
            continue
        nodes, operations = [x], iter(chosen)
        for layer in block.layers:
            nodes.append(
                sum(operate(next(operations), node, module) for node, module in zip(nodes, layer, strict=True))
            )
        x = nodes[-1]
    return network.classifier(norm(x, network.lastact[0]).relu().mean((2, 3)))


@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_cell_is_the_network_of_its_string(in_channels: int):
    space = spaces.CellSpace(in_channels=in_channels, classes=5, image_size=(8, 12), channels=4, modules=1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, in_channels, 8, 12, generator=generator)
    for name in (
        CELL,
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|",
    ):
        network = spaces.build(space, spaces.sample_of(space, name), seed=1)
        assert network.training
        torch.testing.assert_close(network(images), output(network, images, cells.operations(name)))


def test_channels_and_modules_make_the_size(cell_space):
    sample = spaces.sample_of(cell_space, CELL)
    large = spaces.CellSpace(**IMAGES, channels=8, modules=2)
    small, network = (spaces.build(space, sample, seed=0) for space in (cell_space, large))
    assert [module.stem[0].out_channels for module in (small, network)] == [4, 8]
    assert [module.classifier.in_features for module in (small, network)] == [16, 32]
    assert [len(module.cells) for module in (small, network)] == [5, 8]
    # of the largest cell of the benchmark: 1.531546 million, as it is published
    whole = spaces.CellSpace(in_channels=3, classes=10, image_size=(32, 32))
    convs = spaces.sample_of(whole, cells.architecture(["nor_conv_3x3"] * 6))
    assert sum(weight.numel() for weight in spaces.build(whole, convs, seed=0).parameters()) == 1_531_546


@pytest.mark.parametrize("kind", ["convnets", "cell_space", "own"])
def test_equal_arguments_give_equal_weights_whatever_surrounds_them(kind: str, request: pytest.FixtureRequest):
    space = OwnSpace(inputs=4) if kind == "own" else request.getfixturevalue(kind)
    sample = [*spaces.samples(space)][-1]
    before = torch.get_rng_state()
    network = spaces.build(space, sample, seed=1)
    for state in ALONE:
        with inside(state):
            assert same(spaces.build(space, sample, seed=1), network), state
    assert torch.equal(torch.get_rng_state(), before)
    for options in ({"seed": 2}, {"seed": 1, "step": 1}, {"seed": 1, "stream": "other"}):
        assert not same(spaces.build(space, sample, **options), network)
    assert same(copy.deepcopy(network), network)
    assert same(pickle.loads(pickle.dumps(network)), network)


def test_making_a_space_draws_nothing():
    before = torch.get_rng_state()
    spaces.CellSpace(in_channels=1, classes=5, image_size=(8, 8), channels=4, modules=1)
    spaces.ConvNetSpace(**IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_own_space_is_built_with_its_choices():
    space = OwnSpace(inputs=4)
    sample = {"width": 8, "activation": 1, "depth": 2, "block 0": 0, "block 1": 0, "block 2": 0}
    network = spaces.build(space, sample, seed=0)
    assert [type(module).__name__ for module in network.body] == ["Flatten", "Linear", "Tanh", "Sequential", "Linear"]
    assert (network.body[1].out_features, len(network.body[3])) == (8, 2)
    with pytest.raises(UserError, match=r"^no sample of OwnSpace: [^\n]*width[^\n]*$"):
        spaces.build(space, {**sample, "width": 3}, seed=0)
    with pytest.raises(UserError, match=r"^no sample of OwnSpace: [^\n]*width[^\n]*$"):
        spaces.build(space, {}, seed=0)


# --- code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["convnets", "cell_space", "own"])
def test_code_gives_the_network(kind: str, request: pytest.FixtureRequest):
    space = OwnSpace(inputs=4, classes=3) if kind == "own" else request.getfixturevalue(kind)
    sample = [*spaces.samples(space)][7]
    names: dict[str, Any] = {}
    exec(spaces.code_of(space, sample, seed=4), names)
    assert same(names["network"], spaces.build(space, sample, seed=4))


def test_code_is_short(convnets):
    sample = {"depth": 3, "width": 32, "activation": "relu", "norm": "batch", "pooling": "avg"}
    assert spaces.code_of(convnets, sample) == (
        "from dd_core import networks\n\n"
        'network = networks.build("convnet-3-w32-batchnorm-relu-avgpool", '
        "in_channels=3, classes=5, image_size=(16, 16), seed=0)\n"
    )


def test_a_space_that_code_cannot_make_is_refused():
    class Local(OwnSpace):
        """Not at the top of a module."""

    sample = next(spaces.samples(OwnSpace(inputs=4)))
    with pytest.raises(UserError, match=r"Local cannot be imported by code; define it at the top of a module$"):
        spaces.code_of(Local(inputs=4), sample)
    for value in (len, math.inf, np.float64(0.5), {1, 2}, [{"a": (len,)}], {len: 1}):
        with pytest.raises(UserError, match=f"^{re.escape(repr(value)[:60])} cannot be written as code; "):
            spaces.code_of(OddSpace(function=value), {**sample, "inputs": [0, 1]})


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        ("ConvNetSpace", {"image_size": (1, 9)}, "images of 1 x 9 pixels cannot be pooled, as ConvNets do"),
        ("ConvNetSpace", {"max_width": 31}, "max_width=31: expected at least 32, the smallest width"),
        ("CellSpace", {"image_size": (30, 32)}, "the cells take images of 4, 8, 12, ... pixels a side, not 30 x 32"),
        ("CellSpace", {"image_size": (32, 0)}, "the cells take images of 4, 8, 12, ... pixels a side, not 32 x 0"),
        ("CellSpace", {"channels": 0}, "channels=0: expected at least 1"),
        ("CellSpace", {"modules": 0}, "modules=0: expected at least 1"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(kind: str, options: dict[str, Any], line: str):
    with pytest.raises(UserError) as error:
        getattr(spaces, kind)(**{**IMAGES, **options})
    assert str(error.value) == line


# --- NNI's own strategies ----------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> None:
    nni.report_final_result(float(sum(weight.numel() for weight in model.parameters())))


@pytest.mark.parametrize("kind", ["convnets", "cell_space"])
@pytest.mark.parametrize(
    "strategy",
    [
        lambda: GridSearch(seed=0),
        lambda: Random(seed=0),
        lambda: RegularizedEvolution(population_size=3, sample_size=2, seed=0),
    ],
    ids=["grid", "random", "evolution"],
)
def test_a_strategy_of_nni_searches_the_space(kind: str, strategy, request: pytest.FixtureRequest):
    space, search = request.getfixturevalue(kind), strategy()
    engine = SequentialExecutionEngine(max_model_count=6)
    search(SimplifiedModelSpace.from_model(space, FunctionalEvaluator(parameters)), engine)
    models = [*engine.list_models()]
    assert len(models) == 6
    for model in models:
        network = spaces.build(space, model.sample, seed=0)
        assert model.metric == sum(weight.numel() for weight in network.parameters())
        assert spaces.sample_of(space, spaces.architecture_of(space, model.sample)) == model.sample
    best = next(iter(search.list_models(limit=1)))
    assert best.metric == max(model.metric for model in models)


@pytest.mark.parametrize("kind", ["convnets", "cell_space"])
@pytest.mark.parametrize("form", [SimplifiedModelSpace, RawFormatModelSpace])
def test_a_space_of_nni_gives_a_network_that_follows_the_global_generator(kind: str, form, request):
    space = request.getfixturevalue(kind)
    frozen = form.from_model(space).freeze([*spaces.samples(space)][-1])
    made = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made.append(copy.deepcopy(frozen.executable_model()).eval())
    assert made[0](torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert same(made[0], made[1])
    if form is SimplifiedModelSpace:
        assert not same(made[0], made[2])
