"""What the zero-cost measures refuse, and that they leave everything as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_apps.nas import measures
from dd_apps.nas.measures.measuring import FORMULAS
from dd_core import networks, streams
from dd_core.errors import UserError

LABELS = torch.arange(8) % 3
OF_LABELS = ("snip", "grad_norm")
OF_IMAGES = ("jacob_cov", "naswot", *OF_LABELS)
OF_WEIGHTS = ("synflow", *OF_LABELS)


def pixels(count: int = 8, step: int = 0) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=streams.generator(0, "images", step))


class Shifted(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.ones(3, dtype=inputs.dtype)


def network() -> nn.Sequential:
    """With all that training changes: running statistics, dropout, steps in place, a tensor made on the way."""
    with streams.seeded(0, "network"):
        return nn.Sequential(
            nn.LeakyReLU(0.5, inplace=True), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2),
            nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3), Shifted(),
        )  # fmt: skip


def refused(name: str, of: nn.Module, images: Tensor | None = None, labels: Tensor | None = LABELS) -> str:
    with pytest.raises(UserError) as caught:
        measures.measure(name, of, pixels() if images is None else images, labels)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no {name}: ")
    return message


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_says_what_each_measure_needs():
    assert measures.names() == ("parameters", "flops", "synflow", "jacob_cov", "naswot", "snip", "grad_norm")
    assert set(measures.names()) == set(FORMULAS)
    specs = [measures.by_name(name) for name in measures.names()]
    assert tuple(spec.name for spec in specs if spec.needs_images) == OF_IMAGES
    assert tuple(spec.name for spec in specs if spec.needs_labels) == OF_LABELS
    with pytest.raises(UserError, match="unknown zero-cost measure 'synflw'; did you mean 'synflow'"):
        measures.measure("synflw", network(), pixels())


@pytest.mark.parametrize("name", measures.names())
def test_the_value_depends_on_what_the_measure_needs_and_on_nothing_else(name: str):
    spec, plain = measures.by_name(name), network()
    value = measures.measure(name, plain, pixels(), LABELS)
    assert (measures.measure(name, plain, pixels(step=1), LABELS) != value) is spec.needs_images
    assert (measures.measure(name, plain, pixels(), LABELS.flip(0)) != value) is spec.needs_labels
    if not spec.needs_labels:
        assert measures.measure(name, plain, pixels()) == value
    if not spec.needs_images:
        assert measures.measure(name, plain, torch.zeros(0, 2, 6, 6, dtype=torch.uint8)) == value


# --- leaving alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", measures.names())
def test_the_network_the_batch_and_torchs_generator_are_left_as_they_were(name: str):
    plain, images, labels, calls = network(), pixels(), LABELS.clone(), []
    plain[2].eval()
    plain[1].weight.requires_grad_(False)
    plain[1].bias.grad = torch.ones(4)
    plain[6].register_forward_pre_hook(lambda *given: calls.append(given))
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    pointers = [each.data_ptr() for each in plain.parameters()]
    drawn = torch.get_rng_state()

    measures.measure(name, plain, images, labels)

    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(images, pixels())
    assert not images.requires_grad
    assert torch.equal(labels, LABELS)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert [each.data_ptr() for each in plain.parameters()] == pointers
    assert [module.training for module in plain] == [True, True, False, True, True, True, True, True]
    assert [each.requires_grad for each in plain.parameters()] == [False, True, True, True, True, True]
    assert [each.grad is None for each in plain.parameters()] == [True, False, True, True, True, True]
    assert len(plain[6]._forward_pre_hooks) == 1
    assert [len(module._forward_hooks) for module in plain] == [0] * 8


@pytest.mark.parametrize("name", measures.names())
def test_equal_arguments_give_equal_values_whatever_surrounds_the_call(name: str):
    """Evaluation mode, frozen weights, draws of dropout, and torch's modes and settings change nothing."""
    value = measures.measure(name, network(), pixels(), LABELS)
    torch.rand(3)
    other, images = network().eval().requires_grad_(False), pixels()
    with torch.inference_mode():
        unrecorded, same = network(), pixels()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device("meta"):
            assert measures.measure(name, other, images, LABELS) == value
    finally:
        torch.set_default_dtype(default)
    assert measures.measure(name, unrecorded, same, LABELS) == value
    with torch.inference_mode():
        assert measures.measure(name, unrecorded, same, LABELS) == value


# --- refusals --------------------------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit_are_refused():
    plain = network()
    for name in OF_IMAGES:
        assert "the images are torch.uint8" in refused(name, plain, pixels().byte())
        assert "there are no images" in refused(name, plain, pixels(0), LABELS[:0])
        assert "pixels of the images are not finite" in refused(name, plain, pixels().log())
    for name in OF_LABELS:
        assert "give the labels" in refused(name, plain, labels=None)
        assert "give the labels" in refused(name, plain, labels=LABELS.float())
        assert "7 labels for 8 images" in refused(name, plain, labels=LABELS[:7])
        assert "labels are 0 to 3; expected 0 to 2" in refused(name, plain, labels=torch.arange(8) % 4)
        assert "labels are -1 to 1" in refused(name, plain, labels=LABELS - 1)
    for name in ("jacob_cov", "naswot"):
        assert "there is only one" in refused(name, nn.Sequential(nn.Flatten(), nn.ReLU()), pixels(1))


def test_networks_that_give_no_logits_are_refused():
    pixelwise = nn.Sequential(nn.Conv2d(2, 3, 3))
    for name in ("synflow", *OF_IMAGES):
        count = 1 if name == "synflow" else 8
        assert f"returns ({count}, 3, 4, 4) for {count} images, not ({count}, classes)" in refused(name, pixelwise)
    assert "returns (1, 576) for 8 images" in refused("snip", nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(0), Row()))
    assert "returns a tuple" in refused("snip", nn.Sequential(nn.Flatten(), nn.Linear(72, 3), Pair()))


class Row(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[None]


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> Any:
        return inputs, inputs


class WithLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.last = nn.LSTM(6, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.rnn(images[:, 0].transpose(0, 1))[0][-1])


def weight_normed() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(72, 3)))


def test_networks_whose_weights_would_be_left_out_are_refused():
    for name in OF_WEIGHTS:
        assert "has a LSTM, whose weights are in no convolution" in refused(name, WithLSTM())
        assert "no parameter but computed" in refused(name, weight_normed())
        assert "no convolution and no linear layer" in refused(name, nn.Sequential(nn.Flatten(), nn.PReLU()))
        assert "has no gradient" in refused(name, nn.Sequential(nn.Flatten(), nn.Linear(72, 3), Detached()))


class Detached(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.detach()


class Function(nn.Module):
    """A function of the flattened images and two parameters, a matrix and a vector."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.matrix, self.vector = (
            function,
            nn.Parameter(torch.ones(72, 3)),
            nn.Parameter(torch.ones(72)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.flatten(1), self.matrix, self.vector)


@torch.library.custom_op("dd_apps_tests::times", mutates_args=())
def times(inputs: Tensor, matrix: Tensor) -> Tensor:
    return inputs @ matrix


def test_flops_refuses_what_it_would_count_as_nothing():
    assert "no convolution and no matrix product" in refused("flops", nn.Sequential(nn.ReLU()))
    assert "no formula for aten::mv" in refused("flops", Function(lambda x, a, b: (x @ b)[:, None] + x @ a))
    assert "aten::_trilinear" in refused("flops", Function(lambda x, a, b: F.bilinear(x, x, torch.ones(3, 72, 72))))
    assert "aten::_fft_r2c" in refused("flops", Function(lambda x, a, b: torch.fft.rfft(x).real))
    assert "dd_apps_tests::times" in refused("flops", Function(lambda x, a, b: times(x.detach(), a.detach())))
    assert measures.measure("flops", Function(lambda x, a, b: x @ a), pixels()) == 72 * 3


def test_jacob_cov_refuses_a_saturated_and_a_dead_network():
    convnet = networks.build("convnet-2-w4-sigmoid-nonorm", in_channels=2, classes=3, image_size=(6, 6), seed=0)
    assert math.isfinite(measures.measure("jacob_cov", convnet, pixels()))
    with torch.no_grad():
        convnet.features[0].weight.abs_()
        convnet.features[0].bias.fill_(1e4)
    assert "the gradient of 8 of 8 images is the same at every pixel" in refused("jacob_cov", convnet)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.ReLU())
    with torch.no_grad():
        dead[1].bias.fill_(-1e3)
    assert "8 of 8 images" in refused("jacob_cov", dead)
    # linear, and alike at every pixel but for rounding
    with streams.seeded(2, "network"):
        layers = [nn.Conv2d(channels, 64, 3, padding=1, padding_mode="circular") for channels in (1, 64, 64)]
        alike = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
    assert "8 of 8 images" in refused("jacob_cov", alike, pixels()[:, :1])


def test_naswot_refuses_networks_without_relus_and_images_that_no_relu_tells_apart():
    sigmoid = networks.build("convnet-1-w4-sigmoid", in_channels=2, classes=3, image_size=(6, 6), seed=0)
    assert "has no ReLU" in refused("naswot", sigmoid)
    few = nn.Sequential(nn.Flatten(), nn.Linear(72, 2), nn.ReLU())
    assert "2 ReLU units do not tell 8 images apart" in refused("naswot", few)
    assert "72 ReLU units do not tell 8 images apart" in refused(
        "naswot", nn.Sequential(nn.ReLU(), nn.Flatten()), pixels(4).repeat(2, 1, 1, 1)
    )
    mixing = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Unflatten(1, (2, 3)), Rows(), nn.ReLU(), Merged())
    assert "a ReLU of the network is given 16 rows for 8 images" in refused("naswot", mixing)


class Rows(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(0, 1)


class Merged(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(-1, 6)


def test_values_that_are_not_finite_are_refused():
    overflowing = network()
    with torch.no_grad():
        overflowing[1].bias[0] = torch.inf
    for name in ("jacob_cov", "naswot", "snip", "grad_norm"):
        assert "its value is nan" in refused(name, overflowing)
    deep = nn.Sequential(nn.Flatten(), *[nn.Linear(72, 72, bias=False) for _ in range(3)])
    for layer in deep[1:]:
        nn.init.constant_(layer.weight, 1e38)
    deep.append(nn.Sequential(*deep[1:], *deep[1:]))
    assert "no synflow: its value is inf" in refused("synflow", deep)


def test_networks_that_cannot_be_copied_are_refused():
    computed = network()
    computed.register_buffer("product", computed[6].weight * 2)
    assert "is measured on a copy and cannot be copied: " in refused("parameters", computed)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    assert "lazy layers" in refused("parameters", lazy)


def test_a_network_that_no_input_passes_has_measures_of_zero():
    class Zero(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * 0

    dead = nn.Sequential(nn.Conv2d(2, 4, 3), Zero(), nn.Flatten(), nn.Linear(64, 3))
    for name in OF_WEIGHTS:
        assert measures.measure(name, dead, pixels(), LABELS) == 0
