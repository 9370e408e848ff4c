"""Gradients through inner loops: every mode against plain autograd, and against differences of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import networks
from dd_core.errors import UserError
from dd_core.streams import generator
from dd_core.unroll import Unrolled, apply, choose_mode, cosine, graph_bytes, sgd_step, unroll

STEPS = 6


@dataclass
class Problem:
    """Pixels, soft labels and a learning rate for each step, learned through a small network."""

    network: nn.Module
    theta: tuple[Tensor, ...]
    learned: tuple[Tensor, Tensor, Tensor]  # pixels (N, C, H, W), label logits (N, K), raw rates (T,)
    real: tuple[Tensor, Tensor]

    def loss(self, t: int, theta: tuple[Tensor, ...], learned: tuple[Tensor, ...]) -> Tensor:
        rows = slice(3 * (t % 2), 3 * (t % 2) + 3)
        return F.cross_entropy(apply(self.network, theta, learned[0][rows]), learned[1][rows].softmax(1))

    def rate(self, t: int, learned: tuple[Tensor, ...]) -> Tensor:
        return F.softplus(learned[2][t])

    def outer(self, theta: tuple[Tensor, ...]) -> Tensor:
        return F.cross_entropy(apply(self.network, theta, self.real[0]), self.real[1])

    def unrolled(self, **options) -> Unrolled:
        return unroll(sgd_step(self.loss, self.rate), STEPS, self.theta, self.learned, self.outer, **options)


def problem(name: str = "convnet-2-w8", dtype: torch.dtype = torch.float64) -> Problem:
    network = networks.build(name, in_channels=1, classes=3, image_size=(8, 8), seed=2).to(dtype)
    draw = generator(0, "problem")
    pixels = torch.randn(6, 1, 8, 8, generator=draw, dtype=torch.float64).to(dtype)
    labels = torch.randn(6, 3, generator=draw, dtype=torch.float64).to(dtype)
    rates = torch.full((STEPS,), -2.0, dtype=dtype) + 0.1 * torch.arange(STEPS, dtype=dtype)
    real = torch.randn(9, 1, 8, 8, generator=draw, dtype=torch.float64).to(dtype)
    theta = tuple(parameter.detach() for parameter in network.parameters())
    return Problem(network, theta, (pixels, labels, rates), (real, torch.arange(9) % 3))


def plain_autograd(p: Problem) -> tuple[Tensor, ...]:
    """The inner loop written out with nothing of ours: modules, SGD by hand, one backward call."""
    pixels, labels, rates = (one.clone().requires_grad_() for one in p.learned)
    start = [one.clone().requires_grad_() for one in p.theta]
    names = [name for name, _ in p.network.named_parameters()]
    theta = start
    for t in range(STEPS):
        rows = [3 * (t % 2) + i for i in range(3)]
        logits = torch.func.functional_call(p.network, dict(zip(names, theta, strict=True)), pixels[rows])
        loss = -(labels[rows].softmax(1) * logits.log_softmax(1)).sum(1).mean()
        theta = [
            w - torch.log1p(rates[t].exp()) * g
            for w, g in zip(theta, torch.autograd.grad(loss, theta, create_graph=True), strict=True)
        ]
    logits = torch.func.functional_call(p.network, dict(zip(names, theta, strict=True)), p.real[0])
    F.cross_entropy(logits, p.real[1]).backward()
    return tuple(one.grad for one in (pixels, labels, rates, *start))


def worst(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The largest relative error among pixels, labels and rates, and theta_0 as one vector.

    (A bias in front of an instance norm has gradient zero, of which rounding leaves only noise.)
    """
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(ours[:3], theirs[:3], strict=True)]
    a, b = (torch.cat([one.flatten() for one in vectors[3:]]) for vectors in (ours, theirs))
    return max([*errors, float((a - b).norm() / b.norm())])


@pytest.mark.parametrize("name", ["convnet-2-w8", "lenet"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_full_and_adjoint_are_exact(name: str, dtype: torch.dtype, bound: float):
    p = problem(name, dtype)
    expected = plain_autograd(p)
    full, adjoint = p.unrolled(mode="full"), p.unrolled(mode="adjoint")
    assert worst((*full.learned, *full.start), expected) <= bound
    assert worst((*adjoint.learned, *adjoint.start), expected) <= bound
    assert adjoint.loss == pytest.approx(full.loss.item(), rel=bound)
    assert all(torch.allclose(a, b, rtol=bound, atol=bound) for a, b in zip(full.final, adjoint.final, strict=True))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_differences_of_the_loss_agree(which: int):
    p = problem()
    direction = torch.randn(p.learned[which].shape, generator=generator(1, "direction"), dtype=torch.float64)
    gradient = p.unrolled(mode="adjoint").learned[which]
    losses = []
    for sign in (1, -1):
        moved = list(p.learned)
        moved[which] = moved[which] + sign * 1e-5 * direction
        losses.append(Problem(p.network, p.theta, tuple(moved), p.real).unrolled().loss)
    assert ((losses[0] - losses[1]) / 2e-5).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


def test_a_window_of_all_steps_is_exact_and_a_smaller_one_sees_only_its_steps():
    p = problem()
    whole = p.unrolled(mode="full")
    again = p.unrolled(mode="truncated", window=STEPS)
    assert worst((*again.learned, *again.start), (*whole.learned, *whole.start)) == 0
    short = p.unrolled(mode="truncated", window=2)
    assert short.loss == pytest.approx(whole.loss)
    assert (short.learned[2][:-2] == 0).all()
    assert all((one == 0).all() for one in short.start), "theta_0 is before the window"
    assert torch.allclose(short.learned[2][-2:], whole.learned[2][-2:], rtol=1e-12)
    assert 0.1 < F.cosine_similarity(short.learned[0].flatten(), whole.learned[0].flatten(), dim=0) < 0.9999


def test_what_the_loss_does_not_depend_on_has_gradient_zero():
    p = problem()
    step = sgd_step(p.loss, p.rate)
    for mode in ("full", "adjoint"):
        result = unroll(step, STEPS, p.theta, (*p.learned, torch.ones(2)), p.outer, mode=mode)
        assert result.learned[3].tolist() == [0, 0]


def test_no_steps_is_the_outer_gradient_at_the_start():
    p = problem()
    for mode in ("full", "adjoint"):
        result = unroll(sgd_step(p.loss, p.rate), 0, p.theta, p.learned, p.outer, mode=mode)
        assert all((one == 0).all() for one in result.learned)
        leaves = [one.clone().requires_grad_() for one in p.theta]
        expected = torch.autograd.grad(p.outer(tuple(leaves)), leaves)
        assert all(torch.equal(a, b) for a, b in zip(result.start, expected, strict=True))


def saved_bytes(tensors: tuple[Tensor, ...]) -> int:
    """Bytes that the graph behind `tensors` keeps, by what its nodes say that they saved; each storage once."""
    kept: dict[int, int] = {}
    nodes, seen = [tensor.grad_fn for tensor in tensors], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        for name in dir(node):
            saved = getattr(node, name) if name.startswith("_saved_") else None
            for tensor in saved if isinstance(saved, (list, tuple)) else [saved]:
                if isinstance(tensor, Tensor):
                    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bytes_of_a_graph_are_those_of_the_tensors_that_it_saves(dtype: torch.dtype):
    """By hand: a product saves its two factors, and an exponential its result; what is saved twice counts once."""
    theta, learned = torch.rand(5, 7, dtype=dtype), torch.rand(5, 7, dtype=dtype)

    def step(t: int, theta: tuple[Tensor, ...], learned: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((theta[0] * learned[0]).exp() * learned[0],)

    size = theta.element_size() * 35
    assert graph_bytes(step, (theta,), (learned,)) == 3 * size  # theta, learned, and the exponential


@pytest.mark.parametrize("name", ["convnet-2-w8", "lenet"])
def test_the_bytes_of_a_networks_step_are_those_that_its_graph_says(name: str):
    p = problem(name)
    step = sgd_step(p.loss, p.rate)
    leaves = [tuple(one.clone().requires_grad_() for one in tensors) for tensors in (p.theta, p.learned)]
    assert graph_bytes(step, p.theta, p.learned) == pytest.approx(saved_bytes(step(0, *leaves)), rel=0.1)


def test_auto_is_full_while_it_fits(monkeypatch: pytest.MonkeyPatch):
    p = problem()
    step = sgd_step(p.loss, p.rate)
    one = graph_bytes(step, p.theta, p.learned)
    assert one > p.learned[0].nbytes
    monkeypatch.setattr("dd_core.system.device.free_memory_bytes", lambda device: 2 * STEPS * one)
    assert choose_mode(step, STEPS, p.theta, p.learned) == "full"
    monkeypatch.setattr("dd_core.system.device.free_memory_bytes", lambda device: 2 * STEPS * one - 2)
    assert choose_mode(step, STEPS, p.theta, p.learned) == "adjoint"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "truncated"}, "needs a window from 1 to 6 steps, not None"),
        ({"mode": "truncated", "window": 7}, "needs a window from 1 to 6 steps, not 7"),
    ],
)
def test_what_cannot_be_is_refused(options, message: str):
    with pytest.raises(UserError, match=message):
        problem().unrolled(**options)


def test_tesla_is_the_published_sum_and_no_exact_gradient():
    """The authors' sum for their loss and one rate b: 2 (b (theta* - theta_0) + b^2 G) d g_i / d x_i."""
    p = problem()
    target = tuple(
        one + 0.1 * torch.randn(one.shape, generator=generator(2, "target"), dtype=one.dtype) for one in p.theta
    )
    far = sum((a - b).square().sum() for a, b in zip(p.theta, target, strict=True))
    rate, pixels = torch.tensor(0.2, dtype=torch.float64), p.learned[0]

    def loss(t: int, theta: tuple[Tensor, ...], learned: tuple[Tensor, ...]) -> Tensor:
        return p.loss(t, theta, (learned[0], *p.learned[1:]))

    def outer(theta: tuple[Tensor, ...]) -> Tensor:
        return sum((a - b).square().sum() for a, b in zip(theta, target, strict=True)) / far

    step = sgd_step(loss, lambda t, learned: learned[1])
    found = unroll(step, STEPS, p.theta, (pixels, rate), outer, mode="tesla")
    exact = unroll(step, STEPS, p.theta, (pixels, rate), outer, mode="full")

    path, summed = [p.theta], [torch.zeros_like(one) for one in p.theta]
    for t in range(STEPS):
        theta = tuple(one.clone().requires_grad_() for one in path[-1])
        gradients = torch.autograd.grad(loss(t, theta, (pixels,)), theta)
        summed = [total + gradient for total, gradient in zip(summed, gradients, strict=True)]
        path.append(tuple((one - rate * gradient).detach() for one, gradient in zip(theta, gradients, strict=True)))
    weights = [
        2 * (rate * (b - a) + rate**2 * total) / far for a, b, total in zip(p.theta, target, summed, strict=True)
    ]
    expected = torch.zeros_like(pixels)
    for t in range(STEPS):
        x = pixels.clone().requires_grad_()
        theta = tuple(one.clone().requires_grad_() for one in path[t])
        gradients = torch.autograd.grad(loss(t, theta, (x,)), theta, create_graph=True)
        (part,) = torch.autograd.grad(sum((w * g).sum() for w, g in zip(weights, gradients, strict=True)), x)
        expected += part
    assert torch.allclose(found.learned[0], expected, rtol=1e-9, atol=1e-12)
    of_rate = sum((-2 * (a - rate * g - b) * g).sum() for a, b, g in zip(p.theta, target, summed, strict=True)) / far
    assert found.learned[1].item() == pytest.approx(of_rate.item(), rel=1e-9)
    assert 0.3 < cosine(found, exact)[0] < 0.9999
    assert cosine(exact, exact) == pytest.approx((1.0, 1.0))


def test_of_one_step_tesla_is_exact():
    p = problem()
    step = sgd_step(p.loss, p.rate)
    one, exact = (unroll(step, 1, p.theta, p.learned, p.outer, mode=mode) for mode in ("tesla", "full"))
    for a, b in zip(one.learned, exact.learned, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)
