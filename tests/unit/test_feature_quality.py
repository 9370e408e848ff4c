"""Nearest neighbours against a double loop, the linear probe against scikit-learn, and what neither can classify."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dd_core.errors import Diverged, UserError
from dd_core.streams import generator
from dd_core.system import footprint
from dd_core.training import feature_quality
from dd_core.training.feature_quality import LinearProbe, linear_probe, nearest_neighbours


def normal(*shape: int, stream: str = "features") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, stream), dtype=torch.float64)


def classes(count: int, *, of: int = 4) -> torch.Tensor:
    return torch.randint(of, (count,), generator=generator(0, "labels"))


def clouds(count: int, *, width: int = 6, of: int = 4, stream: str = "clouds") -> tuple[torch.Tensor, torch.Tensor]:
    """Features about the middle of their class, which overlap."""
    labels = torch.arange(count) % of
    return 3 + normal(of, width, stream="middles")[labels] + 1.5 * normal(count, width, stream=stream), labels


# --- nearest neighbours -------------------------------------------------------------------------------------------


def votes_of_a_loop(
    features: torch.Tensor, labels: torch.Tensor, tested: torch.Tensor, *, k: int, temperature: float
) -> list[int]:
    winners: list[int] = []
    for query in tested.tolist():
        neighbours = []
        for row, label in zip(features.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            cosine = dot / math.sqrt(sum(a * a for a in query)) / math.sqrt(sum(b * b for b in row))
            neighbours.append((cosine, label))
        votes = [0.0] * (int(labels.max()) + 1)
        for cosine, label in sorted(neighbours, reverse=True)[:k]:
            votes[label] += math.exp(cosine / temperature)
        winners.append(votes.index(max(votes)))
    return winners


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1e6])
@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_neighbours_vote_by_the_exponential_of_their_cosine(k: int, temperature: float):
    features, labels, tested = normal(60, 5), classes(60), normal(40, 5, stream="tested")
    features *= torch.linspace(0.1, 10, 60)[:, None]
    expected = votes_of_a_loop(features, labels, tested, k=k, temperature=temperature)
    assert nearest_neighbours(features, labels, tested, k=k, temperature=temperature).tolist() == expected


def test_the_loop_tells_temperatures_and_numbers_of_neighbours_apart():
    features, labels, tested = normal(60, 5), classes(60), normal(40, 5, stream="tested")
    settings = [(k, temperature) for k in (1, 7, 60) for temperature in (0.07, 0.5, 1e6)]
    guesses = {
        tuple(nearest_neighbours(features, labels, tested, k=k, temperature=temperature).tolist())
        for k, temperature in settings
    }
    assert len(guesses) >= 6


def test_a_cold_vote_stays_finite_and_equal_votes_are_the_first_class():
    features, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.8]]), torch.tensor([2, 1, 3])
    tested = torch.tensor([[2.0, 1e-3], [0.0, 0.0], [1.0, 1.0]])
    guesses = nearest_neighbours(features, labels, tested, k=3, temperature=1e-4)
    assert guesses.tolist() == [2, 1, 3], "features of zeros are as near to all"
    assert guesses.dtype == torch.int64


def test_blocks_are_bounded_by_bytes_and_change_nothing(monkeypatch: pytest.MonkeyPatch):
    features, labels, tested = normal(300, 4).float(), classes(300), normal(2000, 4, stream="tested").float()
    ask = partial(nearest_neighbours, features, labels, tested, k=50, temperature=0.1)
    whole, peak = ask(), footprint.peak_bytes(ask)
    budget = 400_000
    monkeypatch.setattr(feature_quality, "images_at_once", partial(footprint.images_at_once, budget=budget))
    assert torch.equal(ask(), whole)
    kept = 4 * (features.numel() + tested.numel()) * 2 + 8 * len(tested) * 2
    assert footprint.peak_bytes(ask) < budget + kept < peak


def test_no_tested_image_has_no_class():
    assert nearest_neighbours(normal(4, 2), classes(4), normal(0, 2), k=1, temperature=0.1).shape == (0,)


# --- the linear probe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_the_probe_at_its_optimum_is_scikit_learns_logistic_regression(l2: float):
    features, labels = clouds(90)
    probe = linear_probe(features, labels, l2=l2, iterations=500)
    reference = LogisticRegression(C=1 / (2 * l2 * 90), tol=1e-10, max_iter=10_000).fit(features, labels)
    torch.testing.assert_close(probe.weights, torch.tensor(reference.coef_), atol=1e-4, rtol=1e-3)
    bias = torch.tensor(reference.intercept_)
    torch.testing.assert_close(probe.bias - probe.bias.mean(), bias - bias.mean(), atol=1e-3, rtol=1e-3)
    tested, _ = clouds(200, stream="tested")
    guesses = probe.labels_of(tested)
    assert guesses.tolist() == reference.predict(tested.numpy()).tolist()
    assert len(guesses.unique()) == 4


def test_few_iterations_stop_short_of_the_optimum_and_are_all_taken():
    features, labels = clouds(90)

    def loss(iterations: int) -> float:
        weights, bias = linear_probe(features, labels, l2=1e-3, iterations=iterations)
        logits = features @ weights.T + bias
        return (torch.nn.functional.cross_entropy(logits, labels) + 1e-3 * weights.square().sum()).item()

    losses = [loss(iterations) for iterations in (1, 3, 10, 20, 500)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[1] > losses[2] > losses[3] > losses[4]
    assert torch.equal(linear_probe(features, labels).weights, linear_probe(features, labels, iterations=20).weights)


def test_iterations_are_those_of_l_bfgs_however_often_they_look_at_the_loss():
    features, labels = clouds(90)
    weights, bias = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 6), (4,)))
    reference = torch.optim.LBFGS([weights, bias], max_iter=12, max_eval=10**6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        reference.zero_grad()
        value = torch.nn.functional.cross_entropy(features @ weights.T + bias, labels) + 0.01 * (weights**2).sum()
        value.backward()
        return value

    reference.step(loss)
    probe = linear_probe(features, labels, l2=0.01, iterations=12)
    torch.testing.assert_close(probe.weights, weights.detach())
    torch.testing.assert_close(probe.bias, bias.detach())


def test_a_class_without_images_is_never_chosen_and_the_others_are_as_without_it():
    features, labels = clouds(90)
    names = torch.tensor([0, 2, 5, 6])
    probe, plain = linear_probe(features, names[labels]), linear_probe(features, labels)
    assert probe.weights.shape == (7, 6)
    assert torch.equal(probe.weights[names], plain.weights)
    assert torch.equal(probe.bias[names], plain.bias)
    assert probe.bias[[1, 3, 4]].tolist() == [-math.inf] * 3
    assert torch.equal(probe.labels_of(features), names[plain.labels_of(features)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_half_precision_is_computed_in_single_and_double_stays(dtype: torch.dtype):
    features, labels = clouds(40)
    probe = linear_probe(features.to(dtype), labels)
    assert probe.weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not probe.weights.requires_grad
    assert nearest_neighbours(features.to(dtype), labels, features, k=1, temperature=0.1).tolist() == labels.tolist()


def test_nothing_that_surrounds_a_call_changes_it():
    features, labels, tested = normal(300, 64).float(), classes(300), normal(500, 64, stream="tested").float()

    def answers(given: torch.Tensor) -> list[torch.Tensor]:
        probe = linear_probe(given, labels)
        neighbours = nearest_neighbours(given, labels, tested, k=9, temperature=0.07)
        return [*probe, probe.labels_of(tested), neighbours]

    plain = answers(features)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        surrounded = answers(features.clone())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(surrounded, plain, strict=True))


def test_the_published_conventions_are_named():
    assert (feature_quality.WU_2018, feature_quality.LIGHTLY) == ((200, 0.07), (200, 0.1))
    assert feature_quality.SOLO_LEARN == (20, 0.07)
    assert (feature_quality.PROBE_ITERATIONS, feature_quality.PROBE_L2) == (20, 1e-3)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (normal(4, 2), None, "have no labels"),
        (normal(4, 2), torch.tensor([1, 1, 1, 1]), "are of the one class 1; two classes are needed"),
        (normal(0, 2), torch.zeros(0, dtype=torch.int64), "0 labelled images are of no class"),
        (normal(4, 2), torch.tensor([0, 1, 0]), "there are 4 images with features, and 3 labels; give one for each"),
        (normal(4, 2), torch.tensor([0, 1, -1, 1]), "one label is -1"),
        (normal(4, 2) / 0, torch.tensor([0, 1, 0, 1]), "not finite, or too large"),
        (normal(4, 2).float() * 1e25, torch.tensor([0, 1, 0, 1]), "not finite, or too large"),
    ],
)
def test_what_teaches_no_classes_is_refused_in_one_line(features, labels, message: str):
    for ask in (partial(nearest_neighbours, tested=normal(3, 2), k=1, temperature=0.1), linear_probe):
        with pytest.raises(UserError, match=message) as caught:
            ask(features, labels)
        assert "\n" not in str(caught.value)


def test_other_widths_and_settings_out_of_range_are_refused():
    features, labels = clouds(8)
    ask = partial(nearest_neighbours, features, labels)
    with pytest.raises(UserError, match="have 5 features each, and must have 6"):
        ask(normal(3, 5), k=1, temperature=0.1)
    with pytest.raises(UserError, match="have 5 features each, and must have 6"):
        LinearProbe(normal(2, 6), normal(2)).labels_of(normal(3, 5))
    with pytest.raises(UserError, match="not finite"):
        ask(features * math.nan, k=1, temperature=0.1)
    for k, temperature in ((0, 0.1), (1, 0.0), (1, math.nan)):
        with pytest.raises(UserError, match="need k from 1 and a temperature above 0"):
            ask(features, k=k, temperature=temperature)
    for l2, iterations in ((-1.0, 1), (math.nan, 1), (0.1, 0)):
        with pytest.raises(UserError, match="l2 from 0 and iterations from 1"):
            linear_probe(features, labels, l2=l2, iterations=iterations)


def test_a_loss_that_overflows_is_said():
    features, labels = clouds(8)
    with pytest.raises(Diverged, match="the linear probe's loss is"):
        linear_probe(features.float() * 1e18, labels)
