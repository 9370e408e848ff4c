"""Each loss against its formula, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dd_core.errors import UserError
from dd_core.training import losses

DRAW = np.random.default_rng(0)
LOGITS = torch.tensor(DRAW.normal(size=(5, 4)) * 2)
SOFT = torch.tensor(DRAW.dirichlet(np.ones(4), size=5))
LABELS = torch.tensor([3, 0, 1, 1, 2])
T = 2.5


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def entropy() -> float:
    p = SOFT.numpy()
    return float(-(p * np.log(p)).sum(1).mean())


def soft_cross_entropy(temperature: float) -> float:
    return float(-(SOFT.numpy() * log_softmax(LOGITS.numpy() / temperature)).sum(1).mean())


def test_cross_entropy_with_labels_knows_no_temperature():
    expected = -log_softmax(LOGITS.numpy())[np.arange(5), LABELS.numpy()].mean()
    for temperature in (1.0, T):
        loss = losses.named("cross-entropy", temperature=temperature)(LOGITS, LABELS)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, T])
def test_cross_entropy_with_soft_targets_divides_logits_by_the_temperature(temperature: float):
    loss = losses.named("cross-entropy", temperature=temperature)(LOGITS, SOFT)
    assert loss.item() == pytest.approx(soft_cross_entropy(temperature), rel=1e-12)


def test_divergence_is_cross_entropy_less_the_targets_own_entropy():
    expected = soft_cross_entropy(T) - entropy()
    assert losses.named("kl", temperature=T)(LOGITS, SOFT).item() == pytest.approx(expected, rel=1e-10)
    squared = losses.named("kl-t2", temperature=T)(LOGITS, SOFT)
    assert squared.item() == pytest.approx(expected * T * T, rel=1e-10)
    sure = losses.named("kl", temperature=T)((SOFT * 3).log() * T, SOFT)
    assert sure.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["kl", "kl-t2"])
def test_divergence_from_labels_is_their_cross_entropy(name: losses.LossName):
    expected = -log_softmax(LOGITS.numpy())[np.arange(5), LABELS.numpy()].mean()
    assert losses.named(name, temperature=T)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-12)


def test_squared_error_is_the_mean_over_images_and_outputs():
    expected = ((LOGITS.numpy() - SOFT.numpy()) ** 2).mean()
    assert losses.named("mse", temperature=T)(LOGITS, SOFT).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("targets", [LABELS, SOFT[:, :1], SOFT[:1]])
def test_squared_error_takes_a_target_for_each_output(targets: Tensor):
    with pytest.raises(UserError, match=r"outputs \(5, 4\) with targets .*one target for each output"):
        losses.named("mse")(LOGITS, targets)


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("mse", "none", "compares outputs with logits or features, and the set has labels alone"),
        ("mse", "probabilities", "compares outputs with logits or features, and the set has probabilities"),
        ("cross-entropy", "features", "a set with features needs loss 'mse', and .* is 'cross-entropy'"),
        ("kl", "features", "a set with features needs loss 'mse', and the recipe's loss is 'kl'"),
    ],
)
def test_a_loss_that_cannot_learn_a_set_is_refused(name: losses.LossName, targets: str, message: str):
    with pytest.raises(UserError, match=message):
        losses.require_learnable(name, targets)


def test_the_other_losses_learn_the_other_sets():
    for name, targets in (("mse", "logits"), ("mse", "features"), ("kl", "none"), ("cross-entropy", "probabilities")):
        losses.require_learnable(name, targets)
