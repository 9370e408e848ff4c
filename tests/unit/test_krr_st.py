"""KRR-ST: the closed form, the pool of networks, and the loop, each against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from dd_core import training
from dd_core.config import plain
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.errors import Diverged, UserError
from dd_core.evaluation import evaluate
from dd_core.methods import method
from dd_core.methods.krr_st import regression
from dd_core.methods.krr_st.pool import Pool
from dd_core.methods.krr_st.regression import predictions, with_one
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.synthetic import mean_norm, total_variation
from dd_core.testing import blobs

CPU = torch.device("cpu")
RECIPE = Recipe(network="convnet-1-w8-batchnorm", loss="mse", learning_rate=0.05, momentum=0.9, weight_decay=1e-3)


def normal(*shape: int, stream: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=Streams(0).generator(stream))


# --- the closed form ----------------------------------------------------------------------------------------------


def by_numpy(support, targets, queries, ridge: float) -> np.ndarray:
    """Primal ridge regression: the weights that minimise |F w - y|^2 + lambda |w|^2, by inverting D x D."""
    s, y, q = (tensor.detach().double().numpy() for tensor in (support, targets, queries))
    penalty = ridge * np.trace(s @ s.T)
    weights = np.linalg.inv(s.T @ s + penalty * np.eye(s.shape[1])) @ s.T @ y
    return q @ weights


@pytest.mark.parametrize(("support", "width"), [(6, 9), (9, 4)], ids=["more features", "more images"])
def test_predictions_are_those_of_ridge_regression(support: int, width: int):
    s, y, q = (
        normal(*shape, stream=name).double()
        for name, shape in (("s", (support, width)), ("y", (support, 3)), ("q", (5, width)))
    )
    for ridge in (1e-6, 1e-2, 10.0):
        ours = predictions(with_one(s), y, with_one(q), ridge=ridge)
        assert np.allclose(ours.numpy(), by_numpy(with_one(s), y, with_one(q), ridge), rtol=1e-7, atol=1e-9)


def test_the_gradient_is_that_of_the_formula_with_the_penalty_held():
    s, y, q = (
        normal(*shape, stream=name).double().requires_grad_()
        for name, shape in (("s", (5, 4)), ("y", (5, 2)), ("q", (3, 4)))
    )
    penalty = 0.1 * (s @ s.T).trace().detach()

    def formula(s, y, q):
        return (q @ s.T) @ torch.linalg.inv(s @ s.T + penalty * torch.eye(5).double()) @ y

    weights = normal(3, 2, stream="w").double()
    ours = torch.autograd.grad((predictions(s, y, q, ridge=0.1) * weights).sum(), (s, y, q))
    theirs = torch.autograd.grad((formula(s, y, q) * weights).sum(), (s, y, q))
    for gradient, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(formula, (s, y, q))


def test_the_features_have_a_constant_one():
    assert torch.equal(with_one(torch.zeros(2, 3)), torch.tensor([[0.0, 0, 0, 1]] * 2))


def test_ill_conditioned_kernels_have_finite_predictions_and_gradients():
    """All images alike, and many more images than features."""
    for s in (torch.ones(8, 3), normal(400, 5), torch.zeros(4, 3)):
        s = with_one(s).requires_grad_()
        y = normal(len(s), 2, stream="y").requires_grad_()
        predicted = predictions(s, y, with_one(normal(6, s.shape[1] - 1, stream="q")), ridge=1e-6)
        gradients = torch.autograd.grad(predicted.square().sum(), (s, y))
        assert all(torch.isfinite(tensor).all() for tensor in (predicted, *gradients))
    alike = predictions(with_one(torch.ones(8, 3)), torch.arange(8.0)[:, None], with_one(torch.ones(1, 3)), ridge=1e-6)
    assert alike.item() == pytest.approx(3.5, rel=2e-2), "of equal images the mean target"


def test_of_more_images_than_features_nothing_is_lost_in_float32():
    s, y, q = with_one(normal(600, 128, stream="s")), normal(600, 5, stream="y"), with_one(normal(50, 128, stream="q"))
    error = torch.from_numpy(by_numpy(s, y, q, 1e-6)) - predictions(s, y, q, ridge=1e-6)
    assert error.norm() < 1e-4 * by_numpy(s, y, q, 1e-6).std() * 250**0.5


def test_nothing_is_lost_of_features_that_resemble_each_other():
    """As of a ConvNet: a few directions have nearly all of the variance, and the least eigenvalue is the ridge."""
    s = with_one(normal(150, 6, stream="a") @ normal(6, 200, stream="b") + 1e-3 * normal(150, 200, stream="c"))
    q = with_one(normal(40, 6, stream="d") @ normal(6, 200, stream="b") + 1e-3 * normal(40, 200, stream="e"))
    y, weights = normal(150, 5, stream="y"), normal(40, 5, stream="w").double()
    gradients = []
    for precision in (torch.float32, torch.float64):
        inputs = [tensor.to(precision, copy=True).requires_grad_() for tensor in (s, y)]
        predicted = predictions(*inputs, q.to(precision), ridge=1e-6)
        assert predicted.dtype == precision
        gradients.append([predicted, *torch.autograd.grad((predicted.double() * weights).sum(), inputs)])
    assert np.allclose(gradients[1][0].detach().numpy(), by_numpy(s, y, q, 1e-6), rtol=1e-6, atol=1e-6)
    for single, double in zip(*gradients, strict=True):
        assert (single - double).norm() < 1e-5 * double.norm()


def test_the_smaller_of_both_systems_is_solved(monkeypatch: pytest.MonkeyPatch):
    sizes, damped = [], regression._damped
    monkeypatch.setattr(
        regression, "_damped", lambda matrix, penalty: sizes.append(len(matrix)) or damped(matrix, penalty)
    )
    for images, width in ((6, 9), (9, 9), (20, 9)):
        predictions(normal(images, width), normal(images, 2), normal(3, width), ridge=0.1)
    assert sizes == [6, 9, 9]


def test_under_autocast_the_closed_form_is_not_in_half_precision():
    s, y, q = normal(6, 9, stream="s"), normal(6, 3, stream="y"), normal(5, 9, stream="q")
    plain = predictions(s, y, q, ridge=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = predictions(s, y, q, ridge=1e-3)
    assert torch.equal(plain, cast)
    half = predictions(s.bfloat16(), y, q.bfloat16(), ridge=1e-3)
    assert half.dtype == torch.float32


# --- the pool -----------------------------------------------------------------------------------------------------


def pool(*, rule: str = "paper", oldest: int = 4, count: int = 3, pixels=None, targets=None) -> Pool:
    pixels = normal(6, 1, 8, 8) if pixels is None else pixels
    targets = normal(6, 5, stream="y") if targets is None else targets
    options = {"count": count, "oldest": oldest, "rule": rule, "streams": Streams(1), "device": CPU}
    return Pool(RECIPE, pixels=pixels, targets=targets, **options)  # type: ignore[arg-type]


def test_networks_begin_at_different_ages_and_learn_all_images_at_each_step():
    made = pool(oldest=40, count=8)
    made.grow_up()
    assert all(1 <= age <= 40 for age in made.ages)
    assert len(set(made.ages)) > 4
    age = made.ages[0]
    model = training.initialised(RECIPE, (1, 8, 8), 5, streams=Streams(1).child("network-0", 0))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(age):
        optimiser.zero_grad()
        F.mse_loss(model.train()(made.lessons.inputs), made.lessons.targets).backward()
        optimiser.step()
    for ours, theirs in zip(made.network(0).state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert not made.network(0).training


def test_what_the_recipe_does_not_decay_the_networks_of_the_pool_do_not():
    recipe = RECIPE.model_copy(update={"decayed": "matrices", "weight_decay": 0.5})
    made = Pool(
        recipe,
        pixels=normal(6, 1, 8, 8),
        targets=normal(6, 5),
        count=1,
        oldest=4,
        rule="paper",
        streams=Streams(1),
        device=CPU,
    )
    assert [group["weight_decay"] for group in made.loops[0].optimiser.param_groups] == [0.5, 0.0]


def test_networks_learn_the_images_as_they_are_now():
    pixels, targets = normal(6, 1, 8, 8).requires_grad_(), normal(6, 5, stream="y").requires_grad_()
    made, still = pool(pixels=pixels, targets=targets), pool(pixels=pixels.detach().clone(), targets=targets)
    with torch.no_grad():
        pixels += 1
    made.advance(0)
    still.advance(0)
    assert not torch.equal(made.network(0).classifier.bias, still.network(0).classifier.bias)  # type: ignore[arg-type]


def test_by_the_papers_rule_a_fresh_network_grows_old_in_turn():
    made, ages = pool(oldest=3, count=1), []
    for _ in range(9):
        made.advance(0)
        ages.append(made.ages[0])
        assert made.age(0) == ages[-1]
    assert ages == [1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert made.drawn == [2]


def test_as_shipped_a_network_that_was_replaced_stays_fresh():
    made = pool(oldest=2, count=1, rule="as-shipped")
    for _ in range(2):
        made.advance(0)
    weights = []
    for number in range(1, 4):
        made.advance(0)
        fresh = training.initialised(RECIPE, (1, 8, 8), 5, streams=Streams(1).child("network-0", number))
        assert torch.equal(made.network(0).classifier.weight, fresh.classifier.weight)  # type: ignore[arg-type]
        weights.append(fresh.classifier.weight)
        assert (made.ages, made.age(0)) == ([2], 0), "its age is not forgotten, and it has taken no step"
    assert made.drawn == [3]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_pool_goes_on_from_its_state(steps: int):
    whole, half = pool(), pool()
    for made in (whole, half):
        made.grow_up()
        for number in range(steps):
            made.advance(number % 3)
    resumed = pool()
    resumed.load_state_dict(half.state_dict())
    for number in range(5):
        whole.advance(number % 3)
        resumed.advance(number % 3)
    assert whole.ages == resumed.ages
    for index in range(3):
        for ours, theirs in zip(
            whole.network(index).state_dict().values(), resumed.network(index).state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs)


# --- the loop -----------------------------------------------------------------------------------------------------

TEACHER = {"network": "convnet-1-w4-batchnorm", "epochs": 1, "batch_size": 12, "warmup": 0, "projector": (6, 5)}
SMALL = {
    "steps": 3,
    "batch_real": 10,
    "networks": 2,
    "online_steps": 3,
    "teacher": TEACHER,
    "recipe": {**plain(RECIPE), "epochs": 2},
}


def krr(**options: object):
    return method("krr-st", **{**SMALL, **options})


FIVE = Size(images=5)


def distiller(source=None, *, size: Size = FIVE, **options: object):
    source, config = source or blobs(), krr(**options)
    return config.build(Context.gather(config, source, size, seed=3, device=CPU))


def test_outer_steps_are_adamws_on_the_closed_form_as_by_hand():
    """One network of the pool at a time, in evaluation mode; it learns the images of after the step."""
    made, source = distiller(learning_rate=0.05), blobs()
    form, answers = made.form, made.answers
    streams = Streams(3)
    rows = torch.randperm(36, generator=streams.generator("initial-images"))[:5]
    pixels, targets = form(source.images[rows]).requires_grad_(), answers[rows].clone().requires_grad_()
    optimiser = torch.optim.AdamW([pixels, targets], lr=0.05, weight_decay=0.0)
    other = Pool(
        RECIPE,
        pixels=pixels,
        targets=targets,
        count=2,
        oldest=3,
        rule="paper",
        streams=streams.child("pool"),
        device=CPU,
    )
    other.grow_up()
    for index in range(3):
        network = other.network(int(torch.randint(2, (), generator=streams.generator("network", index))))
        member = other.loops.index(next(loop for loop in other.loops if loop.model is network))
        real = torch.randperm(36, generator=streams.generator("real", index))[:10]
        f_s = torch.cat([network.features(pixels), torch.ones(5, 1)], 1)  # type: ignore[operator]
        with torch.no_grad():
            f_r = torch.cat([network.features(form(source.images[real])), torch.ones(10, 1)], 1)  # type: ignore[operator]
        gram = f_s @ f_s.T
        inverse = torch.linalg.inv(gram + 1e-6 * gram.trace().detach() * torch.eye(5))
        loss = ((f_r @ f_s.T) @ inverse @ targets - answers[real]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - 0.999 * index / 3)
        optimiser.step()
        other.advance(member)
        assert made.step(index)["loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert torch.allclose(made.pixels, pixels, atol=1e-3)
    assert torch.allclose(made.targets, targets, atol=1e-3)
    assert not torch.allclose(made.pixels, form(source.images[rows]), atol=1e-2), "it moves"


def test_the_set_has_features_and_no_labels_and_normalised_pixels():
    made = distiller()
    ds = made.export()
    assert (ds.labels, ds.classes, ds.manifest.task, ds.manifest.targets) == (None, (), "self-supervised", "features")
    assert torch.equal(ds.inputs(), made.pixels.detach())
    assert ds.targets is not None
    assert np.array_equal(ds.targets, made.targets.detach().numpy())
    assert ds.manifest.pixels.mean == made.form.mean
    assert np.allclose(ds.raw()[0], blobs().images[made.rows[0]].numpy() / 255, atol=1e-6)


def test_labels_have_no_say():
    """But for the name of the data: teacher, images and targets are the same."""
    sets = [
        distill(krr(), source, Size(images=5), options=RunOptions(device="cpu"))
        for source in (blobs(), blobs().without_labels())
    ]
    assert np.array_equal(sets[0].images, sets[1].images)
    assert np.array_equal(sets[0].targets, sets[1].targets)  # type: ignore[arg-type]


@pytest.mark.parametrize(("inputs", "low", "high"), [("normalised", None, None), ("as-shipped", 0.0, 1.0)])
def test_the_first_images_are_on_the_scale_that_is_said(inputs: str, low: float | None, high: float | None):
    made = distiller(inputs=inputs, bounded=True, learning_rate=5.0)
    raw = blobs().images[made.rows].float() / 255
    first = made.pixels.detach().clone()
    assert torch.allclose(first, made.form(blobs().images[made.rows]) if low is None else raw, atol=1e-6)
    made.step(0)
    black, white = (
        (low, high)
        if low is not None
        else ((0 - made.form.mean[0]) / made.form.std[0], (1 - made.form.mean[0]) / made.form.std[0])
    )
    assert made.pixels.min().item() == pytest.approx(black, abs=1e-5)
    assert made.pixels.max().item() == pytest.approx(white, abs=1e-5)
    free = distiller(inputs=inputs, learning_rate=5.0)
    free.step(0)
    assert free.pixels.max() > white + 0.5


def test_images_and_targets_may_start_from_noise():
    made = distiller(initial="noise", size=Size(images=50))
    assert made.pixels.shape == (50, 1, 8, 8)
    assert made.pixels.std().item() == pytest.approx(1, abs=0.1)
    spread = made.targets.detach().std(0) / made.answers.std(0).clamp(min=1e-6)
    assert (spread[made.answers.std(0) > 1e-3] - 1).abs().mean() < 0.3
    assert torch.equal(distiller(initial_targets="noise").pixels, distiller().pixels)
    assert not torch.equal(distiller(initial_targets="noise").targets, distiller().targets)


@pytest.mark.parametrize("name", ["tv", "l2"])
def test_natural_images_are_asked_for_by_weight(name: str):
    penalty = {"tv": total_variation, "l2": mean_norm}[name]
    plain_step, asked = distiller(learning_rate=0.1), distiller(learning_rate=0.1, **{name: 100.0})
    before = penalty(asked.pixels).item()
    plain_step.step(0)
    asked.step(0)
    assert penalty(asked.pixels).item() < before
    assert penalty(asked.pixels) < penalty(plain_step.pixels)


# --- the labelled bound and the naive form ------------------------------------------------------------------------


def test_the_labelled_bound_is_cross_entropy_of_a_closed_form_probe():
    made = distiller(objective="labels", size=Size(ipc=2))
    network = made.pool.network(0)  # type: ignore[union-attr]
    made.at_once, rows = 4, torch.tensor([0, 5, 9, 20, 30])
    labels = blobs().labels
    assert labels is not None
    assert made.export().labels is not None
    assert made.export().labels.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]
    assert torch.equal(made.targets.detach(), F.one_hot(labels[made.rows], 3).float() - 1 / 3)
    f_s, f_r = (
        with_one(network.features(images))
        for images in (made.pixels, made.form(blobs().images[rows]))  # type: ignore[operator]
    )
    expected = F.cross_entropy(torch.from_numpy(by_numpy(f_s, made.targets, f_r, 1e-6)), labels[rows])
    assert made.loss(network, rows).item() == pytest.approx(expected.item(), rel=1e-3)
    assert (made.export().manifest.task, made.export().manifest.targets) == ("classification", "logits")


def test_the_labelled_bound_from_noise_has_the_targets_of_its_labels_and_as_many_images_as_are_asked_for():
    made = distiller(objective="labels", initial="noise", size=Size(ipc=20))
    labels = made.export().labels
    assert labels is not None
    assert labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert made.targets.detach().argmax(1).tolist() == labels.tolist()
    assert made.pixels.std().item() == pytest.approx(1, abs=0.1)


def test_the_age_that_is_told_is_that_of_the_network_that_was_used():
    made = distiller()
    member = int(torch.randint(2, (), generator=Streams(3).generator("network", 0)))
    made.pool.grow_up()  # type: ignore[union-attr]
    age = made.pool.ages[member]  # type: ignore[union-attr]
    assert distiller().step(0)["age"] == age


@pytest.mark.parametrize("gradient", ["full", "adjoint"])
def test_the_naive_form_is_the_gradient_through_training(gradient: str):
    recipe = {**plain(RECIPE), "network": "convnet-1-w4"}
    made = distiller(inner="unrolled", unrolled_steps=3, gradient=gradient, recipe=recipe, learning_rate=0.05)
    first = made.pixels.detach().clone(), made.targets.detach().clone()
    real = torch.randperm(36, generator=Streams(3).generator("real", 0))[:10]
    model = training.initialised(made.recipe, (1, 8, 8), made.answers.shape[1], streams=Streams(3).child("unrolled", 0))
    pixels, targets = (tensor.clone().requires_grad_() for tensor in first)
    names, theta = zip(*model.named_parameters(), strict=True)
    for _ in range(3):
        outputs = functional_call(model, dict(zip(names, theta, strict=True)), (pixels,))
        gradients = torch.autograd.grad((outputs - targets).square().mean(), theta, create_graph=True)
        theta = tuple(value - 0.05 * grad for value, grad in zip(theta, gradients, strict=True))
    predicted = functional_call(model, dict(zip(names, theta, strict=True)), (made.form(blobs().images[real]),))
    loss = (predicted - made.answers[real]).square().mean()
    optimiser = torch.optim.AdamW([pixels, targets], lr=0.05, weight_decay=0.0)
    loss.backward()
    optimiser.step()
    assert made.step(0)["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(made.pixels, pixels, atol=1e-4)
    assert torch.allclose(made.targets, targets, atol=1e-4)
    assert "pool" not in made.state_dict()


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": {"loss": "cross-entropy"}}, "recipe.loss: krr-st learns targets by 'mse', not by 'cross-entropy'"),
        ({"recipe": {"optimiser": "adam"}}, "recipe.optimiser: networks of the pool learn by 'sgd', not by 'adam'"),
        (
            {"objective": "labels", "initial_targets": "noise"},
            "initial_targets: with objective 'labels' targets start from labels",
        ),
        ({"pool": "shipped"}, "method.pool: .*'paper' or 'as-shipped'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(options: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        method("krr-st", **options)


def test_sizes_and_sources_that_do_not_fit_are_refused():
    bare, options = blobs().without_labels(), RunOptions(device="cpu")
    with pytest.raises(UserError, match="without labels there are no classes; say how many images in all: images=100"):
        distill(krr(), bare, Size(ipc=2), options=options)
    with pytest.raises(UserError, match="blobs has 36 images, and 37 are asked for; ask for fewer, or set initial"):
        distill(krr(), bare, Size(images=37), options=options)
    with pytest.raises(UserError, match="has no labels"):
        distill(krr(objective="labels"), bare, Size(images=3), options=options)
    with pytest.raises(UserError, match="has a BatchNorm2d, whose output depends on more"):
        distill(krr(inner="unrolled"), bare, Size(images=3), options=options)
    shapeless = krr(recipe={**plain(RECIPE), "network": "torchvision:squeezenet1_1"})
    with pytest.raises(UserError, match="SqueezeNet has no linear layer, so it has no features; take another"):
        shapeless.check(blobs(channels=3, side=32), Size(images=3))


def test_a_set_with_features_trains_no_classifier():
    ds = distill(krr(), blobs(), Size(images=5), options=RunOptions(device="cpu"))
    with pytest.raises(UserError):
        evaluate(ds, train=blobs(), test=blobs(), nets=1, device="cpu")
    model = training.train(ds, device="cpu")
    assert model(ds.inputs()).shape == (5, ds.targets.shape[1])  # type: ignore[union-attr]


def test_a_network_of_the_pool_that_diverges_stays_as_it_was():
    pixels = normal(6, 1, 8, 8)
    made = pool(pixels=pixels)
    made.advance(0)
    before = {name: value.clone() for name, value in made.network(0).state_dict().items()}
    pixels.fill_(1e30)
    with pytest.raises(Diverged):
        made.advance(0)
    for name, value in made.network(0).state_dict().items():
        assert torch.equal(value, before[name]), name
    assert made.ages == [1, 0, 0]


def test_statistics_that_overflow_are_noticed_where_the_loss_is_finite():
    """A batch norm divides by an infinite deviation, and all its outputs are the same."""
    pixels = normal(6, 1, 8, 8)
    made = pool(pixels=pixels)
    pixels *= 1e20
    with pytest.raises(Diverged, match="batch norms is inf"):
        made.advance(0)
    assert all(torch.isfinite(buffer).all() for buffer in made.network(0).buffers())
