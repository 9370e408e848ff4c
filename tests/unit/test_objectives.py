"""Self-supervised objectives, each against a plain loop in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dd_core.streams import generator
from dd_core.training import objectives


def views(count: int = 6, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(2, count, width, generator=generator(0, "views"))
    return drawn[0], drawn[0] * 0.5 + drawn[1]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_barlow_twins_is_its_two_sums():
    first, second = views()
    a, b = (values.double().numpy() for values in (first, second))
    a, b = ((values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5) for values in (a, b))
    loss = 0.0
    for i in range(4):
        for j in range(4):
            correlation = float(np.mean(a[:, i] * b[:, j]))
            loss += (1 - correlation) ** 2 if i == j else 0.01 * correlation**2
    assert objectives.barlow_twins(first, second, off_diagonal=0.01).item() == pytest.approx(loss, rel=1e-5)


def test_nt_xent_is_its_mean_over_both_views():
    first, second = views()
    every = [*first.double().numpy(), *second.double().numpy()]
    losses = []
    for i in range(12):
        likeness = [np.exp(cosine(every[i], every[k]) / 0.2) for k in range(12)]
        others = sum(value for k, value in enumerate(likeness) if k != i)
        losses.append(-np.log(likeness[(i + 6) % 12] / others))
    assert objectives.nt_xent(first, second, temperature=0.2).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_byol_is_the_squared_distance_of_directions():
    first, second = views()
    pairs = zip(first.double().numpy(), second.double().numpy(), strict=True)
    expected = np.mean([np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2) for a, b in pairs])
    assert objectives.byol(first, second).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["barlow_twins", "nt_xent", "byol"])
def test_equal_views_are_best_and_all_have_a_finite_gradient(name: str):
    function = getattr(objectives, name)
    options = {"temperature": 0.2} if name == "nt_xent" else {}
    first, second = views()
    assert function(first, first, **options) < function(first, second, **options)
    for pair in ((first, second), (torch.zeros(3, 4), torch.zeros(3, 4))):
        one = pair[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(one, pair[1], **options), one)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["barlow_twins", "nt_xent", "byol"])
def test_a_callers_autocast_and_double_precision_change_no_digit(name: str):
    function = getattr(objectives, name)
    options = {"temperature": 0.2} if name == "nt_xent" else {}
    first, second = views(count=64, width=32)
    exact = function(first.double(), second.double(), **options)
    assert exact.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = function(first, second, **options)
        halves = function(first.bfloat16(), second.bfloat16(), **options)
    assert torch.equal(inside, function(first, second, **options))
    assert inside.item() == pytest.approx(exact.item(), rel=1e-5)
    assert halves.dtype == torch.float32
