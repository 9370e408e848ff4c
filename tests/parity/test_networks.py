"""The networks against their layers written out, and against the published parameter counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dd_core import networks, streams


def build(name: str, *, in_channels: int = 3, classes: int = 10, side: int = 32, seed: int = 0):
    return networks.build(name, in_channels=in_channels, classes=classes, image_size=(side, side), seed=seed)


def images(*, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(2, channels, side, side, generator=streams.generator(0, "images"))


@pytest.mark.parametrize(
    ("name", "side", "classes", "count"),
    [
        ("convnet-3", 32, 10, 320_010),
        ("convnet-3", 32, 100, 504_420),
        ("convnet-4", 64, 200, 857_160),
        ("convnet-3", 64, 200, 1_938_120),
    ],
)
def test_convnet_has_the_published_number_of_parameters(name: str, side: int, classes: int, count: int):
    assert sum(one.numel() for one in build(name, side=side, classes=classes).parameters()) == count


def normalised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def in_groups(x: Tensor) -> Tensor:
    grouped = x.view(len(x), 4, -1)
    return normalised(grouped, (2,)).view_as(x)


NORMS = {
    "instancenorm": lambda x: normalised(x, (2, 3)),
    "layernorm": lambda x: normalised(x, (1, 2, 3)),
    "groupnorm": in_groups,
    "batchnorm": lambda x: normalised(x, (0, 2, 3)),
    "nonorm": lambda x: x,
}
ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "leakyrelu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
}


def quarters(x: Tensor) -> Tensor:
    return torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])


POOLS = {
    "avgpool": lambda x: quarters(x).mean(0),
    "maxpool": lambda x: quarters(x).amax(0),
    "nopool": lambda x: x,
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("activation", "pool"), [("relu", "avgpool"), ("sigmoid", "maxpool"), ("leakyrelu", "nopool")])
@pytest.mark.parametrize(("channels", "side", "padding"), [(3, 16, 1), (1, 28, 3), (1, 8, 1)])
def test_convnet_is_convolution_norm_activation_pool(
    norm: str, activation: str, pool: str, channels: int, side: int, padding: int
):
    network = build(f"convnet-2-w8-{norm}-{activation}-{pool}", in_channels=channels, side=side)
    weights, x = dict(network.named_parameters()), images(channels=channels, side=side)
    convolutions = [name for name, weight in weights.items() if name.endswith("weight") and weight.shape[2:] == (3, 3)]
    expected = x
    for index, name in enumerate(convolutions[:2]):
        bias = weights[name.replace("weight", "bias")]
        expected = F.conv2d(expected, weights[name], bias, padding=1 if index else padding)
        expected = POOLS[pool](ACTIVATIONS[activation](NORMS[norm](expected)))
    expected = expected.flatten(1)
    torch.testing.assert_close(networks.embed(network, x), expected, rtol=1e-4, atol=1e-5)
    logits = expected @ weights["classifier.weight"].T + weights["classifier.bias"]
    torch.testing.assert_close(network(x), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "paddings", "flat"), [(28, (2, 0), 400), (32, (0, 0), 400), (8, (2, 2), 64)])
def test_lenet_is_wangs_lenet(side: int, paddings: tuple[int, int], flat: int):
    network, x = build("lenet", in_channels=1, side=side), images(channels=1, side=side)
    (w1, b1), (w2, b2), (w3, b3), (w4, b4), (w5, b5) = weight_pairs(network)
    assert [tuple(w.shape) for w in (w1, w2, w3, w4, w5)] == [
        (6, 1, 5, 5), (16, 6, 5, 5), (120, flat), (84, 120), (10, 84)
    ]  # fmt: skip
    hidden = quarters(F.conv2d(x, w1, b1, padding=paddings[0]).relu()).amax(0)
    hidden = quarters(F.conv2d(hidden, w2, b2, padding=paddings[1]).relu()).amax(0).flatten(1)
    features = ((hidden @ w3.T + b3).relu() @ w4.T + b4).relu()
    torch.testing.assert_close(networks.embed(network, x), features)
    torch.testing.assert_close(network(x), features @ w5.T + b5)


def weight_pairs(network: torch.nn.Module) -> list[tuple[Tensor, Tensor]]:
    weights = list(network.parameters())
    return list(zip(weights[::2], weights[1::2], strict=True))


def response_normalised(x: Tensor) -> Tensor:
    """Over 4 neighbouring channels: 2 before and 1 after (PyTorch's reading of an even size)."""
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 1))
    mean = sum(squares[:, k : k + 64] for k in range(4)) / 4
    return x / (1 + 0.001 / 9 * mean) ** 0.75


def test_alexcifarnet_is_wangs():
    network, x = build("alexcifarnet"), 20 * images()  # large enough for the response norm to matter
    (w1, b1), (w2, b2), (w3, b3), (w4, b4), (w5, b5) = weight_pairs(network)
    assert w3.shape == (384, 4096)
    assert w4.shape == (192, 384)
    assert w5.shape == (10, 192)
    hidden = F.max_pool2d(F.conv2d(x, w1, b1, padding=2).relu(), 3, 2, padding=1)
    hidden = F.conv2d(response_normalised(hidden), w2, b2, padding=2).relu()
    hidden = F.max_pool2d(response_normalised(hidden), 3, 2, padding=1).flatten(1)
    features = ((hidden @ w3.T + b3).relu() @ w4.T + b4).relu()
    torch.testing.assert_close(networks.embed(network, x), features)
    torch.testing.assert_close(network(x), features @ w5.T + b5)


def test_xavier_has_its_variance_zero_biases_and_unit_norms():
    network = build("convnet-3")
    networks.initialise_xavier(network, generator=streams.generator(0, "xavier"))
    fans = {"features.0": (27, 1152), "features.4": (1152, 1152), "classifier": (2048, 10)}
    for path, (fan_in, fan_out) in fans.items():
        layer = network.get_submodule(path)
        expected = (2 / (fan_in + fan_out)) ** 0.5
        assert abs(layer.weight.std().item() / expected - 1) < 0.05, path
        assert layer.weight.abs().max() > 2.5 * expected, path  # normal: a uniform one ends at 1.73
        assert not layer.bias.any(), path
    assert network.get_submodule("features.1").weight.eq(1).all()
    assert not network.get_submodule("features.1").bias.any()


def test_xavier_depends_on_its_generator_alone():
    first, second, third = build("lenet", seed=1), build("lenet", seed=2), build("lenet", seed=1)
    before = torch.get_rng_state()
    for network, seed in ((first, 5), (second, 5), (third, 6)):
        networks.initialise_xavier(network, generator=streams.generator(seed, "xavier"))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.features[0].weight, second.features[0].weight)
    assert not torch.equal(first.features[0].weight, third.features[0].weight)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:shufflenet_v2_x0_5", "timm:resnet18"])
def test_a_librarys_features_are_what_its_last_layer_reads(name: str):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network, x = build(name).eval(), images()
    linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.testing.assert_close(linear(networks.embed(network, x)), network(x))
