"""The layers with derivatives by hand, beside PyTorch's own: values and three derivatives, and whole inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from dd_core import networks, unroll
from dd_core.networks import kernels
from dd_core.networks.kernels import AveragePool, Convolution, InstanceNorm
from dd_core.unroll import Mode, Tensors, Unrolled

EXACT = 1e-12
ALWAYS, NEVER = 0, 2**62  # numbers of an image from which on our functions are used

Layer = Callable[..., Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in double precision, that gradients are asked of."""
    numbers = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return numbers.requires_grad_()


def derivatives(layer: Layer, *inputs: Tensor, sought: tuple[int, ...]) -> list[Tensor]:
    """The value, and gradients of gradients of gradients in the inputs of these positions and in the cotangent."""
    value = layer(*inputs)
    cotangent = drawn(*value.shape, seed=9)
    asked = [*(inputs[index] for index in sought), cotangent]
    found, order = [value], value
    result: list[Tensor] = [value]
    for seed in range(3):
        scalar = (value * cotangent).sum() if seed == 0 else weighted(found, seed)
        if not scalar.requires_grad:
            break
        order = torch.autograd.grad(scalar, asked, create_graph=True, allow_unused=True)
        found = [torch.zeros_like(one) if part is None else part for one, part in zip(asked, order, strict=True)]
        result += found
    return [one.detach() for one in result]


def weighted(parts: list[Tensor], seed: int) -> Tensor:
    """A sum of all numbers and of their squares, each by a weight of its own and none of them by zero."""
    weights = [drawn(*part.shape, seed=20 + seed).detach() for part in parts]
    return torch.stack(
        [((part + part.square() / 2) * one).sum() for part, one in zip(parts, weights, strict=True)]
    ).sum()


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """All within 1e-12 of the largest number, and of one."""
    assert len(ours) == len(theirs) >= 4
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert (one - other).abs().max().item() <= EXACT * scale


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 2, 7, 6), (1, 1, 2, 5), (2, 4, 1, 3)])
@pytest.mark.parametrize("sought", [(0, 1, 2), (0,), (1, 2)])
def test_instance_norm_and_its_derivatives_are_pytorchs(shape: tuple[int, ...], sought: tuple[int, ...]) -> None:
    inputs = drawn(*shape), drawn(shape[1], seed=1), drawn(shape[1], seed=2)
    assert_same(
        derivatives(lambda x, w, b: kernels.instance_norm(x, w, b, 1e-3), *inputs, sought=sought),
        derivatives(lambda x, w, b: F.group_norm(x, shape[1], w, b, 1e-3), *inputs, sought=sought),
    )


def test_a_weight_of_zero_has_its_gradient() -> None:
    inputs = drawn(2, 3, 4, 4), torch.zeros(3, dtype=torch.float64, requires_grad=True), drawn(3, seed=2)
    ours = derivatives(kernels.instance_norm, *inputs, sought=(0, 1, 2))
    assert_same(ours, derivatives(lambda x, w, b: F.group_norm(x, 3, w, b), *inputs, sought=(0, 1, 2)))
    assert ours[2].abs().min() > 0


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (1, 0, 2, 3)])
def test_cotangents_may_lie_in_memory_as_they_like(order: tuple[int, ...]) -> None:
    inputs = drawn(3, 3, 3, 3), drawn(3, seed=1), drawn(3, seed=2)
    repeated = drawn(1, 3, 1, 1, seed=3).detach().expand(3, 3, 3, 3)

    def second(layer: Layer) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(
            layer(*inputs).square().sum(), inputs[0], repeated[0, 0, 0, 0], create_graph=True
        )
        moved = drawn(3, 3, 3, 3, seed=4).detach().permute(order)
        return *torch.autograd.grad(slope, inputs[:2], moved, retain_graph=True), *torch.autograd.grad(
            slope, inputs[:2], repeated
        )

    ours = second(kernels.instance_norm)
    for one, other in zip(ours, second(lambda x, w, b: F.group_norm(x, 3, w, b)), strict=True):
        assert (one - other).abs().max() <= EXACT * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 2, 7, 6), (1, 1, 2, 5), (1, 2, 3, 3)])
def test_average_pooling_and_its_derivatives_are_pytorchs(shape: tuple[int, ...]) -> None:
    def squared(pool: Layer) -> Layer:
        return lambda x: pool(x).square() * pool(x)  # of a linear layer alone the second derivative is zero

    x = drawn(*shape)
    ours = derivatives(squared(kernels.average_pool), x, sought=(0,))
    assert_same(ours, derivatives(squared(lambda x: F.avg_pool2d(x, 2)), x, sought=(0,)))


@pytest.mark.parametrize("channels", [1, 3, kernels.FEW, kernels.FEW + 1])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("sought", [(0, 1, 2), (0,), (1, 2), (1,), (2,)])
def test_convolution_and_its_derivatives_are_pytorchs(channels: int, padding: int, sought: tuple[int, ...]) -> None:
    everything = drawn(2, channels, 5, 4), drawn(3, channels, 3, 3, seed=1), drawn(3, seed=2)
    inputs = [one if index in sought else one.detach() for index, one in enumerate(everything)]
    ours = derivatives(lambda x, w, b: kernels.convolve(x, w, b, padding), *inputs, sought=sought)
    assert_same(ours, derivatives(lambda x, w, b: F.conv2d(x, w, b, padding=padding), *inputs, sought=sought))


@pytest.mark.parametrize(
    "layer", [kernels.average_pool, lambda x: kernels.instance_norm(x, x[0, :, 0, 0], x[0, :, 1, 1])]
)
def test_second_derivatives_are_those_of_differences(layer: Layer) -> None:
    assert torch.autograd.gradcheck(layer, drawn(2, 2, 4, 4))
    assert torch.autograd.gradgradcheck(layer, drawn(2, 2, 4, 4))


# --- in networks -------------------------------------------------------------------------------------------------


def student(name: str, *, channels: int = 3, size: int = 8) -> nn.Module:
    """A network in double precision."""
    return networks.build(name, in_channels=channels, classes=4, image_size=(size, size), seed=0).double()


def unrolled(network: nn.Module, mode: Mode, monkeypatch: pytest.MonkeyPatch, large: int) -> Unrolled:
    """Three inner steps and their gradients, by our functions or by PyTorch's."""
    monkeypatch.setattr(kernels, "LARGE", large)
    monkeypatch.setattr(kernels, "LARGE_POOL", large)
    channels = next(network.parameters()).shape[1]
    labels, pixels = torch.arange(6) % 4, drawn(6, channels, 8, 8).detach()
    theta = tuple(parameter.detach() for parameter in network.parameters())

    def loss(t: int, weights: Tensors, learned: Tensors) -> Tensor:
        return F.cross_entropy(unroll.apply(network, weights, learned[0]), labels)

    def outer(weights: Tensors) -> Tensor:
        return torch.stack([(one - 0.1).square().sum() for one in weights]).sum()

    step = unroll.sgd_step(loss, lambda t, learned: learned[1])
    rate = torch.tensor(0.1, dtype=torch.float64)
    return unroll.unroll(step, 3, theta, (pixels, rate), outer, mode=mode, window=2)


@pytest.mark.parametrize("mode", ["full", "adjoint", "truncated", "tesla"])
@pytest.mark.parametrize("name", ["convnet-2-w6", "convnet-2-w3-leakyrelu", "convnet-1-w8-groupnorm"])
@pytest.mark.parametrize("channels", [1, 3, kernels.FEW + 1])
def test_inner_loops_are_the_same(name: str, channels: int, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    network = student(name, channels=channels)
    ours, theirs = (unrolled(network, mode, monkeypatch, large) for large in (ALWAYS, NEVER))
    pairs = [(ours.loss, theirs.loss), *zip(ours.learned, theirs.learned, strict=True)]
    pairs += [*zip(ours.start, theirs.start, strict=True), *zip(ours.final, theirs.final, strict=True)]
    for one, other in pairs:
        assert (one - other).abs().max() <= EXACT * max(1.0, other.abs().max().item())
    assert ours.learned[0].abs().max() > 0


def test_tesla_asks_for_no_gradient_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    correlated = kernels._correlated  # pyright: ignore[reportPrivateUsage]

    def noted(g: Tensor, x: Tensor, w: Tensor, padding: int, wanted: tuple[bool, ...]) -> tuple[Any, Any]:
        asked.append(wanted == (True, False))  # of the weight alone: the second derivative
        return correlated(g, x, w, padding, wanted)

    monkeypatch.setattr(kernels, "_correlated", noted)
    network = student("convnet-2-w6")
    unrolled(network, "adjoint", monkeypatch, ALWAYS)
    assert any(asked)
    asked.clear()
    unrolled(network, "tesla", monkeypatch, ALWAYS)
    assert not any(asked)


def test_weights_that_are_not_the_unsought_ones_have_their_gradients() -> None:
    x, w, b, other = drawn(2, 3, 4, 4), drawn(4, 3, 3, 3, seed=1), drawn(4, seed=2), drawn(4, 3, 3, 3, seed=3)

    def second(*unsought: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(kernels.convolve(x, w, b, 1).pow(3).sum(), x, create_graph=True)
        with kernels.unsought(unsought):
            return torch.autograd.grad(first.square().sum(), (w, x))[0]

    whole = second()
    assert torch.equal(second(other), whole)
    assert not torch.equal(second(w), whole)
    assert torch.equal(second(), whole)


# --- when they are used ------------------------------------------------------------------------------------------


OURS = {"convolve", "average_pool", "instance_norm"}


def used(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch, *, learned_through: bool) -> set[str]:
    """Which of our functions a forward pass goes through, with weights that are differentiated through or trained."""
    found: set[str] = set()
    with monkeypatch.context() as patch:
        for name in OURS:
            function = getattr(kernels, name)
            patch.setattr(kernels, name, lambda *args, f=function, n=name: (found.add(n), f(*args))[1])
        if learned_through:
            unroll.apply(network, tuple(one.detach() for one in network.parameters()), images)
        else:
            network(images)
    return found


@pytest.mark.parametrize("count", [2, 5])  # whatever the batch, so that its memory can be told from a few images
def test_they_are_used_where_images_are_large(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {(64, 16): OURS, (63, 16): {"average_pool"}, (32, 16): {"average_pool"}, (31, 16): set[str]()}
    for (width, size), names in expected.items():
        network = networks.build(f"convnet-1-w{width}", in_channels=3, classes=2, image_size=(size, size), seed=0)
        assert used(network, torch.zeros(count, 3, size, size), monkeypatch, learned_through=True) == names


def test_training_a_network_and_a_single_image_have_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.build("convnet-1-w64", in_channels=3, classes=2, image_size=(16, 16), seed=0)
    assert used(network, torch.zeros(2, 3, 16, 16), monkeypatch, learned_through=False) == {"average_pool"}
    assert used(network, torch.zeros(1, 3, 16, 16), monkeypatch, learned_through=True) == set()
    with torch.no_grad():
        assert used(network, torch.zeros(2, 3, 16, 16), monkeypatch, learned_through=True) == set()


def test_pooling_without_a_gradient_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGE_POOL", ALWAYS)
    x = drawn(2, 3, 7, 4)
    with torch.no_grad():
        ours = AveragePool()(x)
    assert torch.allclose(ours, F.avg_pool2d(x, 2), rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", ["convnet-1-w64-batchnorm-maxpool", "convnet-1-w64-nonorm-nopool"])
def test_other_norms_and_poolings_are_pytorchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.build(name, in_channels=3, classes=2, image_size=(16, 16), seed=0)
    assert used(network, torch.zeros(2, 3, 16, 16), monkeypatch, learned_through=True) == {"convolve"}


def test_autocast_and_half_precision_have_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.build("convnet-1-w64", in_channels=3, classes=2, image_size=(16, 16), seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert used(network, torch.zeros(2, 3, 16, 16), monkeypatch, learned_through=True) == set()
    halves = torch.zeros(2, 3, 16, 16, dtype=torch.bfloat16)
    assert used(network.bfloat16(), halves, monkeypatch, learned_through=True) == set()


def test_forward_mode_derivatives_are_those_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGE", ALWAYS)
    monkeypatch.setattr(kernels, "LARGE_POOL", ALWAYS)
    network, x = student("convnet-1-w3"), drawn(2, 3, 8, 8).detach()
    theta = {name: parameter.detach() for name, parameter in network.named_parameters()}
    along = {name: torch.ones_like(parameter) for name, parameter in theta.items()}
    _, ours = jvp(lambda weights: functional_call(network, weights, (x,)), (theta,), (along,))
    ahead, behind = (
        functional_call(network, {name: one + step * along[name] for name, one in theta.items()}, (x,))
        for step in (1e-6, -1e-6)
    )
    assert torch.allclose(ours, (ahead - behind) / 2e-6, atol=1e-7)


def test_many_networks_at_once_by_vmap_are_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGE", ALWAYS)
    monkeypatch.setattr(kernels, "LARGE_POOL", ALWAYS)
    network, x = student("convnet-2-w4"), drawn(5, 3, 8, 8).detach()
    theta = [{name: one.detach() + shift for name, one in network.named_parameters()} for shift in (0.0, 0.1)]

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(network, weights, (x,)).square().sum()

    together = vmap(grad(loss))({name: torch.stack([one[name] for one in theta]) for name in theta[0]})
    for index, weights in enumerate(theta):
        for name, expected in grad(loss)(weights).items():
            assert torch.allclose(together[name][index], expected, rtol=1e-9, atol=1e-9)


def test_layers_are_pytorchs_to_whoever_looks() -> None:
    network = networks.build("convnet-2", in_channels=3, classes=2, image_size=(16, 16), seed=0)
    kinds = [type(layer) for layer in network.features]
    assert kinds[:4] == [Convolution, InstanceNorm, nn.ReLU, AveragePool]
    plain = nn.Sequential(nn.Conv2d(3, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU(), nn.AvgPool2d(2))
    assert [*plain.state_dict()] == [name for name in network.features.state_dict() if name < "4"]
    assert isinstance(InstanceNorm(4), nn.GroupNorm)
    theta, images = tuple(one.detach() for one in network.parameters()), torch.randn(2, 3, 16, 16)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(unroll.apply(network, theta, channels_last), network(images), atol=1e-5)
