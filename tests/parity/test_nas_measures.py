"""Each zero-cost measure against its formula written out, without the shortcuts of the code."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from dd_apps.nas import measures
from dd_core import streams
from dd_core.networks.kernels import InstanceNorm


def pixels(*, count: int = 6, channels: int = 2, side: int = 6) -> Tensor:
    return torch.randn(count, channels, side, side, generator=streams.generator(0, "images"))


LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def seeded(make: Any, seed: int = 0) -> nn.Sequential:
    with streams.seeded(seed, "network"):
        return make()


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def normed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def of(name: str, network: nn.Module, images: Tensor | None = None, labels: Tensor | None = LABELS) -> float:
    return measures.measure(name, network, pixels() if images is None else images, labels)


# --- size ------------------------------------------------------------------------------------------------------------


def test_parameters_are_all_that_there_are_and_shared_ones_count_once():
    network = seeded(normed)
    network[0].weight.requires_grad_(False)
    count = (3 * 2 * 9 + 3) + 2 * 3 + (4 * 3 * 9 + 4) + (3 * 4 + 3)
    assert of("parameters", network) == count
    network.append(network[7])
    assert of("parameters", network) == count


def test_flops_are_the_multiply_accumulates_of_one_image():
    network = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, groups=4),
        nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip
    macs = (8 * 36) * (2 * 9) + (12 * 2 * 2) * (2 * 9) + 48 * 3
    assert of("flops", network) == macs
    assert of("flops", network, pixels(count=1)) == macs


def test_flops_of_attention_are_counted():
    """Torch has a path for evaluation whose products its counter does not see."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, images: Tensor) -> Tensor:
            tokens = images.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)

    tokens, width = 16, 8
    macs = 4 * tokens * width * width + 2 * tokens * tokens * width
    assert of("flops", Attention(), pixels(channels=8, side=4)) == macs


# --- synflow ---------------------------------------------------------------------------------------------------------


def test_synflow_of_two_linear_layers_is_the_sum_over_paths():
    """|w dR/dw| of the matrices a and b: every path of |b_ki a_ij|, and the bias of a on the way of b."""
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 3)))
    a, of_a, b = (np.abs(each.detach().double().numpy()) for each in list(network.parameters())[:3])
    expected = 0.0
    for k, i in itertools.product(range(3), range(5)):
        expected += b[k, i] * of_a[i]
        for j in range(72):
            expected += 2 * b[k, i] * a[i, j]
    assert of("synflow", network) == pytest.approx(expected, rel=1e-12)


def convolve(images: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding)))
    side = padded.shape[1] - 2
    out = np.zeros((len(weight), side, side))
    for k, row, column in itertools.product(range(len(weight)), range(side), range(side)):
        out[k, row, column] = (padded[:, row : row + 3, column : column + 3] * weight[k]).sum() + bias[k]
    return out


def flow(parameters: list[np.ndarray]) -> float:
    """R of `plain` for an image of ones: all is positive, so that ReLUs do nothing."""
    first, first_bias, second, second_bias, last, last_bias = parameters
    hidden = convolve(np.ones((2, 6, 6)), first, first_bias, 1)
    hidden = (hidden[:, ::2, ::2] + hidden[:, 1::2, ::2] + hidden[:, ::2, 1::2] + hidden[:, 1::2, 1::2]) / 4
    return float((last @ convolve(hidden, second, second_bias, 0).ravel() + last_bias).sum())


def flow_through(network: nn.Sequential) -> float:
    """Sum of what R loses by each weight that is set to 0: w dR/dw, since R is linear in each weight alone."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    parameters = [
        np.abs(parameter.detach().double().numpy()) for layer in layers for parameter in (layer.weight, layer.bias)
    ]
    whole, total = flow(parameters), 0.0
    for weight in parameters[::2]:
        for index in np.ndindex(weight.shape):
            value, weight[index] = weight[index], 0.0
            total += whole - flow(parameters)
            weight[index] = value
    return total


class Doubled(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * input


class NormAndMore(nn.BatchNorm2d):
    """As timm has them: a norm with an activation, which is no norm and stays."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class FunctionalNorm(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        images = F.layer_norm(images, images.shape[1:])
        return torch.group_norm(torch.instance_norm(images, None, None, None, None, True, 0.1, 1e-5, False), 1)


NORMS = {
    "batch": lambda: nn.BatchNorm2d(3),
    "instance": lambda: nn.InstanceNorm2d(3, affine=True),
    "group": lambda: nn.GroupNorm(3, 3),
    "the ConvNet's instance": lambda: InstanceNorm(3),
    "layer": lambda: nn.LayerNorm([3, 6, 6]),
    "root mean square": lambda: nn.RMSNorm([3, 6, 6]),
    "local response": lambda: nn.LocalResponseNorm(2),
    "functions": FunctionalNorm,
    "and more": lambda: NormAndMore(3),
}


def test_synflow_of_a_convolutional_network_is_what_each_weight_carries():
    network = seeded(plain)
    assert of("synflow", network) == pytest.approx(flow_through(network), rel=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_synflow_leaves_every_norm_out(norm: str):
    network = seeded(plain)
    left = Doubled() if norm == "and more" else nn.Identity()
    without = of("synflow", nn.Sequential(network[0], left, *network[1:]))
    layers = [network[0], NORMS[norm](), *network[1:4], nn.Dropout(0.5), *network[4:]]
    assert of("synflow", nn.Sequential(*layers)) == pytest.approx(without, rel=1e-12)


def test_synflow_does_not_overflow_in_float32():
    """A hundred layers that double: R = 2^100 * 2, and each of the layers carries all of it."""
    layers = [nn.Linear(2, 2, bias=False) for _ in range(199)]
    for layer in layers:
        nn.init.constant_(layer.weight, -1.0)
    network = nn.Sequential(nn.Flatten(), *layers)
    assert of("synflow", network, torch.zeros(1, 2, 1, 1), None) == pytest.approx(199 * 2.0**200, rel=1e-12)


# --- gradients of the weights ----------------------------------------------------------------------------------------


def loss_of(network: nn.Module, values: dict[str, Tensor]) -> Tensor:
    logits = functional_call(network.train(), values, (pixels(),))
    return -torch.stack([row[label] - row.exp().sum().log() for row, label in zip(logits, LABELS, strict=True)]).mean()


def test_snip_is_the_gradient_by_a_mask_on_the_weights():
    network = seeded(normed)
    values = {name: value.detach().clone() for name, value in network.named_parameters()}
    weights = ["0.weight", "4.weight", "7.weight"]
    masks = {name: torch.ones_like(values[name], requires_grad=True) for name in weights}
    loss_of(network, values | {name: values[name] * mask for name, mask in masks.items()}).backward()
    expected = sum(abs(value) for mask in masks.values() for value in mask.grad.flatten().tolist())
    assert of("snip", seeded(normed)) == pytest.approx(expected, rel=1e-5)


def test_grad_norm_adds_the_norms_of_the_layers():
    network = seeded(normed)
    loss_of(network, dict(network.named_parameters())).backward()
    expected = 0.0
    for layer in (network[0], network[4], network[7]):
        expected += math.sqrt(sum(value * value for value in layer.weight.grad.flatten().tolist()))
    assert of("grad_norm", seeded(normed)) == pytest.approx(expected, rel=1e-5)


# --- what differs between images -------------------------------------------------------------------------------------


def of_correlations(rows: np.ndarray) -> float:
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(rows))
    return -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)


def test_jacob_cov_compares_the_jacobians_of_single_images():
    network, images = seeded(plain).double(), pixels().double()
    rows = [jacrev(lambda image: network(image[None]).sum())(image).flatten().detach().numpy() for image in images]
    assert of("jacob_cov", network, images) == pytest.approx(of_correlations(np.stack(rows)), rel=1e-9)
    assert of("jacob_cov", seeded(plain)) == pytest.approx(of_correlations(np.stack(rows)), rel=1e-4)


def test_jacob_cov_keeps_the_batch_norm_which_mixes_images():
    """The gradient by an image of the outputs of all images, of their statistics: not those of evaluation."""
    network, images = seeded(normed).double(), pixels().double().requires_grad_()
    rows = torch.zeros(6, 72, dtype=torch.float64)
    for output in network(images).flatten():
        rows += torch.autograd.grad(output, images, retain_graph=True)[0].flatten(1)
    assert of("jacob_cov", seeded(normed).double(), images.detach()) == pytest.approx(
        of_correlations(rows.numpy()), rel=1e-9
    )


def test_jacob_cov_of_a_linear_network_is_the_least_there_is():
    """One gradient for all six images: the eigenvalues are 6 and five times 0."""
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3)))
    expected = -(5 * (math.log(1e-5) + 1e5) + math.log(6 + 1e-5) + 1 / (6 + 1e-5))
    assert of("jacob_cov", network) == pytest.approx(expected, rel=1e-6)


def log_determinant(codes: np.ndarray) -> float:
    """log |det K| of codes of 0 and 1 (images, units): K_ij is the number of units less the Hamming distance."""
    count, units = codes.shape
    kernel = [[units - sum(a != b for a, b in zip(codes[i], codes[j], strict=True)) for j in range(count)]
              for i in range(count)]  # fmt: skip
    return float(np.linalg.slogdet(np.array(kernel, dtype=float))[1])


def test_naswot_counts_the_units_on_which_images_agree():
    network, images = seeded(normed), pixels()
    first = network[1](network[0](images))
    second = network[4](network[3](first.relu()))
    codes = torch.cat([(first > 0).flatten(1), (second > 0).flatten(1)], dim=1).numpy()
    assert of("naswot", seeded(normed)) == pytest.approx(log_determinant(codes), rel=1e-9)


RELUS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "leaky": nn.LeakyReLU(0.2),
    "leaky in place": nn.LeakyReLU(0.2, inplace=True),
    "parametric": nn.PReLU(),
    "randomised": nn.RReLU(),
    "randomised in place": nn.RReLU(inplace=True),
    "bounded": nn.ReLU6(),
    "bounded in place": nn.ReLU6(inplace=True),
    "threshold": nn.Threshold(0, 0),
    "function": F.relu,
    "method": lambda inputs: inputs.clone().relu_(),
    "clamp": lambda inputs: inputs.clamp(min=0),
    "clamp in place": lambda inputs: inputs.clone().clamp_(min=0),
    "least": lambda inputs: inputs.clamp_min(0),
    "least in place": lambda inputs: inputs.clone().clamp_min_(0),
}


class Bent(nn.Module):
    """One convolution, one ReLU of some kind, and clamps that are none."""

    def __init__(self, relu: Any) -> None:
        super().__init__()
        self.convolution, self.relu = nn.Conv2d(2, 3, 3), relu

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.convolution(images)).clamp(min=-9).clamp(max=9).clamp_min(-9).flatten(1)


@pytest.mark.parametrize("kind", RELUS)
def test_naswot_sees_every_relu(kind: str):
    network = seeded(lambda: Bent(RELUS[kind]))
    codes = (network.convolution(pixels()) > 0).flatten(1).numpy()
    assert of("naswot", network) == pytest.approx(log_determinant(codes), rel=1e-9)
