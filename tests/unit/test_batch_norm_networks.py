"""ResNets for small images and the transformer with batch norms: sizes, values, names, and which norms are found."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from dd_core import networks
from dd_core.errors import UserError
from dd_core.methods.sre2l.statistics import StatisticsMatching
from dd_core.networks.bn_vit import SyncTokenBatchNorm, TokenBatchNorm
from dd_core.networks.names import available, family
from dd_core.streams import generator


def built(name: str, *, channels: int = 3, classes: int = 10, side: int = 32) -> nn.Module:
    return networks.build(name, in_channels=channels, classes=classes, image_size=(side, side), seed=0)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def resnet_parameters(n: int, w: int, channels: int, classes: int) -> int:
    """Counted from the paper's table: 3x3 convolutions without bias, each with a norm of two numbers a channel."""
    total, before = 9 * channels * w + 2 * w, w
    for stage in range(3):
        width = w * 2**stage
        for _ in range(n):
            total += 9 * before * width + 9 * width * width + 4 * width
            total += before * width + 2 * width if before != width else 0
            before = width
    return total + 4 * w * classes + classes


@pytest.mark.parametrize(("name", "n", "width"), [("resnet-8", 1, 16), ("resnet-20", 3, 16), ("resnet-14-w8", 2, 8)])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 28), (3, 32)])
def test_a_resnet_has_the_papers_layers(name: str, n: int, width: int, channels: int, side: int):
    network = built(name, channels=channels, classes=7, side=side)
    assert parameters(network) == resnet_parameters(n, width, channels, 7)
    x = torch.randn(2, channels, side, side, generator=generator(0, "x"))
    assert network(x).shape == (2, 7)
    assert networks.embed(network, x).shape == (2, 4 * width)
    convolutions = [
        module for module in network.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3
    ]
    assert len(convolutions) == 6 * n + 1
    assert len(networks.batch_norms(network)) == 6 * n + 1 + 2, "and two of shortcuts"
    std = float(convolutions[-1].weight.detach().std())
    assert std == pytest.approx((2 / (9 * 4 * width)) ** 0.5, rel=0.1), "He's initialisation"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "6n"),
        ("resnet-18", "6n"),
        ("resnet-2", "6n"),
        ("resnet-w8", "6n"),
        ("resnet-8-16", "'16' is no width; type for example resnet-8-w32"),
        ("resnet-8-w0", "'w0' is no width"),
        ("resnet-8-", "'' is no width"),
        ("resnet-8-w16-", "'' is one word too many"),
        ("resnet-8-w8-batchnorm", "'batchnorm' is one word too many"),
    ],
)
def test_a_resnet_that_there_is_not_is_refused(name: str, message: str):
    with pytest.raises(UserError, match=message):
        family(name)


def test_the_transformer_has_timms_parameters_and_those_of_the_norms():
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    assert parameters(plain) == 5_717_416
    network = built("bn-vit-tiny", classes=1000, side=224)
    assert parameters(network) == 5_717_416 + 18_432
    assert not [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    norms = networks.batch_norms(network)
    assert len(norms) == 12 * 3 + 1
    assert sum(norm.num_features == 768 for norm in norms.values()) == 12
    mlp = network.get_submodule("blocks.3.mlp")
    assert [type(module) for module in mlp.act] == [TokenBatchNorm, nn.GELU]  # type: ignore[union-attr]
    assert mlp.fc1.bias is not None  # type: ignore[union-attr]


def test_a_norm_of_tokens_is_over_images_and_tokens():
    x, norm = torch.randn(4, 5, 3, generator=generator(0, "tokens")) * 2 + 1, TokenBatchNorm(3)
    mean, variance = x.mean((0, 1)), x.var((0, 1), correction=0)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var((0, 1)))
    norm.eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm(x), (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt())


def test_small_images_train_and_their_statistics_are_matched():
    network = built("bn-vit-tiny", side=32, classes=3)
    x = torch.randn(2, 3, 32, 32, generator=generator(0, "x"), requires_grad=True)
    network.eval()
    with StatisticsMatching(network, first=1.0) as matching:
        network(x)
    seen: dict[str, torch.Tensor] = {}
    for name, norm in networks.batch_norms(network).items():
        norm.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0]}))
    network(x)
    expected = 0.0
    for name, norm in networks.batch_norms(network).items():
        tokens = seen[name].reshape(-1, norm.num_features)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        expected += float((tokens.mean(0) - norm.running_mean).norm())
        expected += float((tokens.var(0, correction=0) - norm.running_var).norm())
    distance = matching.distance()
    assert distance.item() == pytest.approx(expected, rel=1e-4)
    (gradient,) = torch.autograd.grad(distance, x)
    assert gradient.abs().sum() > 0


def test_they_are_listed():
    names = dict(available())
    assert {"resnet-8", "bn-vit-tiny"} <= names.keys()
    assert family("resnet-20-w32") == "resnet"
    assert family("bn-vit-tiny") == "bn-vit-tiny"


def test_what_has_no_batch_norm_mixes_no_images():
    assert networks.mixes_images(built("resnet-8"))
    assert networks.batch_norms(built("convnet-3-w8")) == {}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("convnet-2-w8", "such as convnet-2-w8-batchnorm"),
        ("convnet-2-groupnorm-leakyrelu-w8", "such as convnet-2-leakyrelu-w8-batchnorm"),
        ("timm:vit_tiny_patch16_224", "such as bn-vit-tiny"),
        ("lenet", "such as convnet-3-batchnorm, resnet-8 or torchvision:resnet18"),
    ],
)
def test_a_network_without_batch_norms_is_refused_and_a_similar_one_named(name: str, advice: str):
    with pytest.raises(UserError) as refusal:
        networks.require_batch_norms(built(name), name)
    assert str(refusal.value) == (
        f"network '{name}' has no batch norm, whose statistics SRe2L matches; take a network with some, {advice}"
    )
    suggestion = advice.split()[2].rstrip(",")
    networks.require_batch_norms(built(suggestion), suggestion)


def test_a_batch_norm_without_statistics_is_refused():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(UserError, match="network 'mine': its batch norm '2' keeps no mean and variance"):
        networks.require_batch_norms(network, "mine")
    assert networks.mixes_images(network)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, TokenBatchNorm])
def test_batch_norms_of_every_kind_are_met_in_their_order(norm: type[nn.Module]):
    network = nn.Sequential(nn.Sequential(norm(2), nn.GroupNorm(1, 2)), nn.InstanceNorm2d(2), nn.LayerNorm(2), norm(3))
    assert {path: module.num_features for path, module in networks.batch_norms(network).items()} == {"0.0": 2, "3": 3}
    assert list(networks.batch_norms(network)) == ["0.0", "3"]


def test_a_synchronised_transformer_normalises_channels_and_keeps_its_names():
    alone, images = built("bn-vit-tiny", classes=5), torch.randn(3, 3, 32, 32, generator=generator(0, "images"))
    network = networks.synchronised(built("bn-vit-tiny", classes=5))
    assert list(network.state_dict()) == list(alone.state_dict())
    assert parameters(network) == parameters(alone)
    norms = {name: type(norm) for name, norm in networks.batch_norms(network).items()}
    assert set(norms.values()) == {SyncTokenBatchNorm}
    assert norms.keys() == networks.batch_norms(alone).keys()
    torch.testing.assert_close(network(images), alone(images))  # without other processes it is the same
    state = alone.state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name])
    torch.testing.assert_close(network.eval()(images), alone.eval()(images))


def test_other_batch_norms_are_converted_by_torch():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), TokenBatchNorm(6)).eval()
    converted = networks.synchronised(network)
    assert isinstance(converted, nn.Sequential)
    assert [type(module) for module in converted] == [nn.Conv2d, nn.SyncBatchNorm, SyncTokenBatchNorm]
    assert not any(module.training for module in converted.modules())
    assert converted[2].weight is network[2].weight
