"""Names of networks, what is refused and how, seeds, and small-image stems."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from dd_core import networks
from dd_core.errors import UserError
from dd_core.images import LabelledImages
from dd_core.networks import names as network_names


def build(name: str, *, in_channels: int = 3, classes: int = 4, side: int = 32, seed: int = 0, step: int = 0):
    return networks.build(name, in_channels=in_channels, classes=classes, image_size=(side, side), seed=seed, step=step)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_convnets_tokens_come_in_any_order():
    spec = network_names.ConvNetSpec(depth=4, width=32, norm="batch", activation="leakyrelu", pool="max")
    assert network_names.parse_convnet("convnet-4-w32-batchnorm-leakyrelu-maxpool") == spec
    assert network_names.parse_convnet("convnet-4-maxpool-leakyrelu-w32-batchnorm") == spec
    assert network_names.parse_convnet("convnet-growing").growth == 2
    assert network_names.parse_convnet("convnet-3") == network_names.ConvNetSpec(3, 128, "instance", "relu", "avg")


@pytest.mark.parametrize("name", [name for name, _ in network_names.available() if "NAME" not in name])
def test_every_listed_name_can_be_built(name: str):
    assert build(name)(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_every_classifier_of_torchvision_is_suggested_and_timms_where_it_has_one():
    timms = {*timm.list_models()}
    for name in torchvision.models.list_models(module=torchvision.models):
        expected = [f"'torchvision:{name}'"] + [f"'timm:{name}'"] * (name in timms)
        assert network_names.of_libraries(name) == " or ".join(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnet-3-batchnrm", "unknown token 'batchnrm' in a convnet's name; did you mean 'batchnorm'?"),
        ("convnet-3-w0", "unknown token 'w0'"),
        ("convnet-3-", "unknown token ''"),
        ("convnet-3-batchnorm-nonorm", "gives its norm twice: 'nonorm' is one too many"),
        ("convnet-3-w6-groupnorm", "the width must be a multiple of groupnorm's 4"),
        ("convent-3", "unknown network 'convent-3'; did you mean 'convnet-3'?"),
        ("lenet-5", "unknown network 'lenet-5'; did you mean 'lenet'?"),
        ("resnet18", "unknown network 'resnet18'; did you mean 'torchvision:resnet18' or 'timm:resnet18'?"),
        ("ResNet50", "unknown network 'ResNet50'; did you mean 'torchvision:resnet50' or 'timm:resnet50'?"),
        ("alexnet", "unknown network 'alexnet'; did you mean 'torchvision:alexnet'?"),
        ("vit_tiny_patch16_224", "did you mean 'timm:vit_tiny_patch16_224'?"),
        ("resnet18.a1_in1k", "did you mean 'timm:resnet18.a1_in1k'?"),
        (
            "resnet-18",
            "6n + 2 layers, as in resnet-8, resnet-20 and resnet-32; ImageNet's is 'torchvision:resnet18' or",
        ),
        ("resnet-9", "6n + 2 layers, as in resnet-8, resnet-20 and resnet-32"),
        ("timm:", "names no model; type for example 'timm:resnet18'"),
        ("keras:resnet18", "unknown network 'keras:resnet18'"),
        ("torchvision:resnet81", "unknown torchvision model 'resnet81'; did you mean 'resnet18'?"),
        ("torchvision:qqq", "unknown torchvision model 'qqq' (torchvision knows"),
        ("convnet-6", "too deep for images of 32x32 pixels: the largest depth that works is 5"),
        ("torchvision:maxvit_t", "'torchvision:maxvit_t' cannot take images of 3 x 32 x 32 pixels: "),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name: str, message: str):
    with pytest.raises(UserError) as caught:
        build(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("side", "largest"), [(8, 3), (28, 5), (32, 5), (31, 4), (64, 6)])
def test_the_largest_depth_named_works_and_no_other(side: int, largest: int):
    def convnet(depth: int) -> nn.Module:
        return build(f"convnet-{depth}-w4", in_channels=1, side=side)

    assert networks.embed(convnet(largest), torch.randn(2, 1, side, side)).any()
    with pytest.raises(UserError, match=f"largest depth that works is {largest}$"):
        convnet(largest + 1)


def test_one_pixel_has_no_instance_norm():
    with pytest.raises(UserError, match="use larger images"):
        build("convnet-1-w4-nopool", side=1)
    assert networks.embed(build("convnet-1-w4-nopool-layernorm", side=1), torch.randn(2, 3, 1, 1)).any()


@pytest.mark.parametrize("side", [4, 5, 8, 16, 27, 28, 29, 32, 33, 64])
@pytest.mark.parametrize("name", ["lenet", "alexcifarnet"])
def test_wangs_networks_take_any_size_from_4_pixels(name: str, side: int):
    assert build(name, in_channels=1, side=side)(torch.randn(2, 1, side, side)).shape == (2, 4)


def test_lenet_refuses_less():
    with pytest.raises(UserError, match="at least 4x4 pixels, not 3 x 3"):
        build("lenet", side=3)


def test_oblong_images_are_taken():
    network = networks.build("convnet-2-w4", in_channels=3, classes=4, image_size=(8, 12), seed=0)
    assert network(torch.randn(2, 3, 8, 12)).shape == (2, 4)


def test_a_source_says_what_its_network_needs():
    images, labels = torch.zeros(3, 1, 8, 12, dtype=torch.uint8), torch.tensor([0, 1, 2])
    source = LabelledImages(images=images, labels=labels, classes=("a", "b", "c"), name="three")
    network = networks.for_source("convnet-2-w4", source, seed=3, step=2)
    expected = networks.build("convnet-2-w4", in_channels=1, classes=3, image_size=(8, 12), seed=3, step=2)
    assert same_weights(network, expected)


@pytest.mark.parametrize("name", ["convnet-2-w8", "lenet", "torchvision:resnet18"])
def test_weights_follow_seed_stream_and_step_alone(name: str):
    before = torch.get_rng_state()
    first = build(name)
    torch.rand(3)
    assert same_weights(first, build(name))
    torch.set_rng_state(before)
    build(name)
    assert torch.equal(before, torch.get_rng_state())
    other_stream = networks.build(name, in_channels=3, classes=4, image_size=(32, 32), seed=0, stream="student")
    for other in (build(name, seed=1), build(name, step=1), other_stream):
        assert not same_weights(first, other)


def test_a_new_network_is_in_training_mode_with_untouched_statistics():
    network = build("torchvision:resnet18")
    assert all(module.training for module in network.modules())
    assert not network.bn1.running_mean.any()
    assert network.bn1.num_batches_tracked == 0


def test_small_images_get_a_small_stem():
    small, large = build("torchvision:resnet18", side=64), build("torchvision:resnet18", side=65)
    assert (small.conv1.kernel_size, small.conv1.stride, small.conv1.bias) == ((3, 3), (1, 1), None)
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(large.maxpool, nn.MaxPool2d)


def test_a_stem_that_does_not_stride_is_left_alone():
    assert [type(layer) for layer in build("torchvision:vgg11").features[:3]] == [
        nn.Conv2d,
        nn.ReLU,
        nn.MaxPool2d,
    ]


def test_torchvision_takes_grey_images_and_shrinks_vit():
    network = build("torchvision:vit_b_32", in_channels=1)
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert network.conv_proj.kernel_size == (32, 32)


def test_a_network_without_a_linear_layer_has_no_features():
    with pytest.raises(UserError, match="SqueezeNet has no linear layer"):
        networks.embed(build("torchvision:squeezenet1_1"), torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["convnet-2-w8", "torchvision:resnet18"])
def test_features_carry_gradients_to_the_images(name: str):
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    networks.embed(build(name), x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()


@pytest.mark.parametrize(
    ("name", "side", "width"),
    [
        ("timm:resnet18", 32, 512),
        ("timm:convnext_atto", 28, 320),
        ("timm:vit_tiny_patch16_224", 8, 192),
        ("timm:vit_tiny_patch16_224", 28, 192),
        ("timm:mixer_s16_224", 32, 512),
    ],
)
def test_timm_models_take_small_grey_images(name: str, side: int, width: int):
    pytest.importorskip("timm")
    network, x = build(name, in_channels=1, side=side), torch.randn(2, 1, side, side)
    assert network(x).shape == (2, 4)
    assert networks.embed(network, x).shape == (2, width)


def test_a_vision_transformer_gets_smaller_patches():
    pytest.importorskip("timm")
    assert build("timm:vit_tiny_patch16_224", side=28).patch_embed.grid_size == (7, 7)
    assert build("timm:vit_tiny_patch16_224", side=64).patch_embed.grid_size == (8, 8)
    assert build("timm:vit_tiny_patch16_224", side=96).patch_embed.patch_size == (16, 16)


def test_equal_seeds_give_equal_timm_models():
    pytest.importorskip("timm")
    name = "timm:vit_tiny_patch16_224"
    assert same_weights(build(name), build(name))
    assert not same_weights(build(name), build(name, seed=1))


@pytest.mark.parametrize("model", ["resnet81", "hf-hub:somebody/resnet18"])
def test_an_unknown_timm_model_is_refused_before_anything_is_fetched(model: str):
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=f"unknown timm model '{model}'"):
        build(f"timm:{model}")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm: pip install 'dd-apps\[timm\]'"):
        build("timm:resnet18")


@pytest.mark.parametrize(
    ("module", "absent"),
    [("networks.names", ["torch", "torchvision", "timm"]), ("networks", ["torchvision", "timm"])],
)
def test_importing_the_names_loads_no_library(module: str, absent: list[str]):
    code = f"import sys, dd_core.{module}; print([name for name in {absent} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(network_names.__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("side", "depth"), [(8, 2), (28, 3), (32, 3), (64, 4), (96, 5), (128, 5), (224, 6)])
def test_a_convnet_without_a_depth_gets_the_literatures(side: int, depth: int):
    assert network_names.usual_depth((side, side)) == depth


def test_a_growing_convnet_doubles_its_width_in_each_block():
    """KRR-ST's: 128, 256 and 512 channels; weights, biases, batch norms and a last layer of 512 x 4 x 4 features."""
    network = networks.build("convnet-3-growing-batchnorm", in_channels=3, classes=10, image_size=(32, 32), seed=0)
    convolutions = (3 * 128 + 128 * 256 + 256 * 512) * 9 + (128 + 256 + 512)
    assert sum(parameter.numel() for parameter in network.parameters()) == (
        convolutions + 2 * (128 + 256 + 512) + (512 * 4 * 4 + 1) * 10
    )
    assert networks.embed(network.eval(), torch.zeros(2, 3, 32, 32)).shape == (2, 512 * 4 * 4)
    with pytest.raises(UserError, match="gives its growth twice: 'growing' is one too many"):
        network_names.parse_convnet("convnet-growing-growing")
