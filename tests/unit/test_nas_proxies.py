"""Proxies: what a score is, what it has cost, and NNI's own engine with them."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ambient_states import ALONE, inside
from torch import nn

from dd_apps.nas import measures, spaces
from dd_apps.nas.proxies import (
    DistilledProxy,
    EarlyStoppingProxy,
    Images,
    RealProxy,
    Scored,
    ZeroCostProxy,
    budget,
    built,
    epochs_within,
    random_part,
    real_subset,
    trained,
)
from dd_apps.nas.proxies.config import ProxyConfig
from dd_core import streams
from dd_core.config import Config, decode
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Diverged, UserError
from dd_core.evaluation.tuning import validation_split
from dd_core.images import InputForm, LabelledImages
from dd_core.recipe import Recipe, ScheduledStep, StartingPool
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.whitening import Whitening

import nni  # isort: skip (spaces imports it without its warnings)
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.nn.pytorch import ModelSpace  # isort: skip
from nni.nas.space import ModelStatus, SimplifiedModelSpace  # isort: skip
from nni.nas.strategy import Random, RegularizedEvolution  # isort: skip

RECIPE = Recipe(learning_rate=0.05, epochs=1000, batch_size=4)
ONE_STEP = (ScheduledStep(epoch=0, step=0, learning_rate=0.1), ScheduledStep(epoch=0, step=1, learning_rate=0.1))
MEASURES = ("parameters", "flops", "synflow", "jacob_cov", "naswot", "snip", "grad_norm")


class Recorder(LabelledImages):
    """Images that remember which of them were asked for, and how often all of them were."""

    def __init__(self, source: LabelledImages) -> None:
        super().__init__(source.images, source.labels, source.classes, source.name)
        object.__setattr__(self, "taken", [])
        object.__setattr__(self, "read", [])

    def take(self, indices):
        self.taken.append(indices.clone())
        return super().take(indices)

    def batches(self, size):
        self.read.append(size)
        return super().batches(size)


def network(*, seed: int = 0, drop: float = 0.0, outputs: int = 3, inputs: int = 64) -> nn.Module:
    with streams.seeded(seed, "a test's network"):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(drop), nn.Linear(16, outputs)
        )


@pytest.fixture(scope="module")
def images() -> tuple[LabelledImages, LabelledImages]:
    """(training images, validation images): 54 and 6 of each class."""
    return validation_split(blobs(per_class=60), Streams(0))


@pytest.fixture(scope="module")
def rest(images) -> LabelledImages:
    return images[0]


@pytest.fixture(scope="module")
def validation(images) -> LabelledImages:
    return images[1]


@pytest.fixture(scope="module")
def ds() -> DistilledSet:
    """Six images, two a class, whose pixels are normalised in a way of their own."""
    pixels = np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32)
    manifest = Manifest(
        classes=blobs().classes, pixels=Pixels(space="normalised", mean=(0.3,), std=(0.4,)), recipe=RECIPE
    )
    return DistilledSet(pixels, np.array([0, 0, 1, 1, 2, 2]), manifest)


def with_recipe(ds: DistilledSet, recipe: Recipe) -> DistilledSet:
    return replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe}))


def descent(model: nn.Module, batches: list[tuple[float, torch.Tensor, torch.Tensor]], *, restart: int = -1) -> None:
    """SGD with momentum 0.9 and weight decay 5e-4, a (rate, inputs, labels) a step; momentum starts over at one."""
    momentum: list[Any] = [0.0 for _ in model.parameters()]
    model.train()
    for step, (rate, inputs, labels) in enumerate(batches):
        if step == restart:
            momentum = [0.0 for _ in momentum]
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), [*model.parameters()])
        with torch.no_grad():
            for index, (weight, gradient) in enumerate(zip(model.parameters(), gradients, strict=True)):
                momentum[index] = 0.9 * momentum[index] + gradient + 5e-4 * weight
                weight -= rate * momentum[index]


def orders(count: int, *, epochs: int, batch: int, seed: int) -> list[torch.Tensor]:
    """Rows of every mini-batch of an epoch after the other."""
    draws = [torch.randperm(count, generator=Streams(seed).generator("order", epoch)) for epoch in range(epochs)]
    return [rows for order in draws for rows in order.split(batch)]


@torch.no_grad()
def validated(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """(accuracy, mean cross-entropy), image by image in numpy."""
    model.eval()
    logits = np.concatenate([model(image[None]).numpy() for image in inputs]).astype(np.float64)
    losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels.tolist(), strict=True)]
    return float(np.mean(logits.argmax(1) == labels.numpy())), float(np.mean(losses))


# --- a distilled set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["accuracy", "loss"])
def test_a_distilled_proxy_trains_by_the_recipe_within_the_budget_and_validates(ds, validation, by: Any):
    scored = DistilledProxy(ds, validation, passes=65, by=by).score(network(), seed=3)
    # 65 passes are 10 epochs of 6 images in mini-batches of 4 and 2; the step schedule drops after (10 - 1) // 2 + 2
    inputs, labels = torch.tensor(ds.images), torch.tensor(ds.labels)
    rows = orders(6, epochs=10, batch=4, seed=3)
    batches = [(0.05 if step < 12 else 0.005, inputs[part], labels[part]) for step, part in enumerate(rows)]
    plain = network()
    descent(plain, batches, restart=12)
    accuracy, loss = validated(plain, (validation.images / 255 - 0.3) / 0.4, validation.labels)
    assert 0 < accuracy < 1
    assert (scored.accuracy, scored.passes) == (accuracy, 60)
    assert scored.loss == pytest.approx(loss, rel=1e-5)
    assert scored.value == (scored.accuracy if by == "accuracy" else -scored.loss)
    assert 0 < scored.seconds < 60


def test_the_network_is_trained_in_place_from_its_own_weights(ds, validation):
    proxy, model = DistilledProxy(ds, validation, passes=6), network()
    first = proxy.score(model, seed=0)
    again = proxy.score(model, seed=0)  # from where the first has left it
    assert not model.training
    assert again.loss != first.loss == proxy.score(network(), seed=0).loss
    assert proxy.score(network(seed=1), seed=0).loss != first.loss


def test_another_recipe_than_the_sets(ds, validation):
    slow = RECIPE.model_copy(update={"learning_rate": 0.001, "epochs": 2})
    scored = DistilledProxy(ds, validation, recipe=slow).score(network(), seed=0)
    assert scored.passes == 12
    own = DistilledProxy(with_recipe(ds, slow), validation).score(network(), seed=0)
    assert scored.loss == own.loss != DistilledProxy(ds, validation, passes=12).score(network(), seed=0).loss


def test_a_learned_order_of_steps_is_followed(ds, validation):
    scored = DistilledProxy(with_recipe(ds, Recipe(steps=ONE_STEP)), validation).score(network(), seed=0)
    assert scored.passes == 6  # two blocks of three images
    with pytest.raises(UserError, match=r"^passes: the recipe has 2 learned steps and no epochs; leave passes out$"):
        DistilledProxy(with_recipe(ds, Recipe(steps=ONE_STEP)), validation, passes=6)


def test_soft_targets_are_learned_and_hard_labels_are_validated(ds, validation):
    logits = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    manifest = ds.manifest.model_copy(update={"targets": "logits", "recipe": RECIPE.model_copy(update={"loss": "mse"})})
    soft = replace(ds, manifest=manifest, targets=logits)
    scored = DistilledProxy(soft, validation, passes=60).score(network(), seed=0)
    assert scored.loss != DistilledProxy(ds, validation, passes=60).score(network(), seed=0).loss
    manifest = manifest.model_copy(update={"targets": "features"})
    with pytest.raises(UserError, match=r"^the set's targets are features; expected labels, to validate by$"):
        DistilledProxy(replace(soft, manifest=manifest), validation)


def test_a_whitened_set_has_whitened_validation_images(ds, rest, validation):
    matrix = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32) / 8
    matrix += matrix.T + 4 * np.eye(64, dtype=np.float32)
    whitening = Whitening(np.full(64, 0.4, dtype=np.float32), matrix)
    like = replace(
        ds,
        manifest=ds.manifest.model_copy(update={"pixels": Pixels(space="whitened", mean=(0.0,), std=(1.0,))}),
        whitening=whitening,
    )
    model = network()
    accuracy, loss = DistilledProxy(like, validation)._validated(model, 512)
    inputs = ((validation.images / 255).flatten(1) - 0.4) @ torch.tensor(matrix)
    assert (accuracy, loss) == pytest.approx(validated(model, inputs.view(-1, 1, 8, 8), validation.labels), rel=1e-4)
    subset = real_subset("random", rest, like=like)
    assert subset.whitening is whitening
    assert torch.equal(DistilledProxy(subset, validation)._inputs, DistilledProxy(like, validation)._inputs)


# --- validation ----------------------------------------------------------------------------------------------------


def test_validation_in_batches_is_that_of_all_images(ds, monkeypatch: pytest.MonkeyPatch):
    many = blobs(per_class=50)
    model = network()
    expected = validated(model, (many.images / 255 - 0.3) / 0.4, many.labels)
    cached = DistilledProxy(ds, many)
    assert cached._validated(model, 64) == pytest.approx(expected, rel=1e-5)  # 64, 64 and 22
    assert cached._validated(model, 512) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(trained, "BATCH_BYTES", 4 * 150 * 64 - 1)
    streamed = DistilledProxy(ds, many)
    assert streamed._inputs is None
    assert streamed._validated(model, 64) == cached._validated(model, 64)


def test_validation_images_are_normalised_once_for_all_networks(ds, validation):
    recorder = Recorder(validation)
    proxy = DistilledProxy(ds, recorder, passes=6)
    for seed in range(3):
        proxy.score(network(seed=seed), seed=0)
    assert len(recorder.read) == 1
    assert recorder.taken == []


class Slow(InputForm):
    """Normalises as slowly as a whitening of many images."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.5)
        return super().__call__(images)


def test_the_seconds_of_a_network_are_without_what_all_networks_share(rest, validation):
    slow = Slow((0.3,), (0.4,))
    trained_proxy = RealProxy(
        rest, validation, recipe=RECIPE.model_copy(update={"batch_size": 54}), passes=162, form=slow
    )
    for proxy in (trained_proxy, ZeroCostProxy(measure="grad_norm", data=rest, form=slow)):
        begun = time.perf_counter()
        scored = proxy.score(network(), seed=0)
        assert time.perf_counter() - begun > 0.5
        assert 0 < scored.seconds < 0.5


def test_memory_bounds_how_many_images_go_together(ds, validation):
    proxy = DistilledProxy(ds, validation)
    assert proxy._batch_size(network()) == 512
    wide = nn.Sequential(nn.Conv2d(1, 2**17, 7), nn.Flatten(), nn.Linear(2**19, 3))
    # of an image float32 pixels and 4 x 2^17 activations, which stay alive until the logits are there
    assert proxy._batch_size(wide) == (13 << 26) // (4 * 64 + 4 * 2**19 + 4 * 3)


# --- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "count", "epochs"), [(3000, 100, 30), (3000, 10, 300), (199, 100, 1), (50, 100, 1), (1, 1, 1)]
)
def test_a_budget_is_whole_epochs_and_one_at_least(passes: int, count: int, epochs: int):
    assert epochs_within(passes, count) == epochs
    recipe = RECIPE.model_copy(update={"learning_rate": 0.7, "schedule": "cosine"})
    assert budget.within(recipe, passes, count) == recipe.model_copy(update={"epochs": epochs})
    assert budget.within(recipe, None, count) == recipe
    assert budget.passes_of(budget.within(recipe, passes, count), count) == epochs * count


# --- real images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "batches"),
    [(40, [36, 4]), (324, [36, 36, 36, 36, 18] * 2), (169, [36, 36, 36, 36, 18, 7]), (36, [36])],
)
def test_early_stopping_trains_exactly_the_passes_of_its_budget(rest, validation, passes: int, batches: list[int]):
    recorder, form, recipe = Recorder(rest), InputForm.of(rest), RECIPE.model_copy(update={"batch_size": 36})
    scored = EarlyStoppingProxy(recorder, validation, recipe=recipe, passes=passes, form=form).score(network(), seed=5)
    assert scored.passes == passes
    rows = [part[:size] for part, size in zip(orders(162, epochs=2, batch=36, seed=5), batches, strict=False)]
    assert [part.tolist() for part in recorder.taken] == [part.tolist() for part in rows]
    plain = network()
    descent(plain, [(0.05, form(rest.take(part)), rest.labels[part]) for part in rows])
    accuracy, loss = validated(plain, form(validation.images), validation.labels)
    assert scored.loss == pytest.approx(loss, rel=1e-4)
    assert scored.accuracy == accuracy


def test_early_stopping_is_within_the_recipe(rest, validation):
    short = RECIPE.model_copy(update={"epochs": 2})
    assert EarlyStoppingProxy(rest, validation, recipe=short, passes=324).training == short
    with pytest.raises(UserError, match=r"^passes=324: the recipe ends before 325 image-passes$"):
        EarlyStoppingProxy(rest, validation, recipe=short, passes=325)


def test_a_random_quarter_is_of_each_class_and_trains_whole_epochs(rest, validation):
    part = random_part(rest)
    assert torch.bincount(part.labels).tolist() == [14, 14, 14]  # of 54
    assert torch.equal(part.images, random_part(rest).images)
    assert not torch.equal(part.images, random_part(rest, seed=1).images)
    proxy = RealProxy(part, validation, recipe=RECIPE, passes=100)
    scored = proxy.score(network(), seed=0)
    assert (scored.passes, proxy.training.epochs) == (84, 2)
    assert (proxy.input_form.mean, proxy.input_form.std) == part.channel_stats()


def test_validation_images_are_never_trained_on(rest, validation):
    held_out = {image.numpy().tobytes() for image in validation.images}
    whole = Recorder(rest)
    EarlyStoppingProxy(whole, validation, recipe=RECIPE, passes=324).score(network(), seed=0)
    part = Recorder(random_part(rest))
    RealProxy(part, validation, recipe=RECIPE, passes=42).score(network(), seed=0)
    for source, count in ((whole, 162), (part, 42)):
        trained_on = {image.numpy().tobytes() for rows in source.taken for image in source.images[rows]}
        assert len(trained_on) == count
        assert trained_on.isdisjoint(held_out)


@pytest.mark.parametrize("method", ["random", "herding", "k-means"])
def test_a_real_subset_is_as_the_distilled_set_is(ds, rest, validation, method: str):
    subset = real_subset(method, rest, like=ds, seed=1)
    assert np.array_equal(subset.labels, ds.labels)
    assert (subset.manifest.recipe, subset.manifest.provenance) == (RECIPE, None)
    assert (subset.input_form().mean, subset.input_form().std) == ((0.3,), (0.4,))
    if method == "k-means":
        assert subset.images.dtype == np.float32
    else:
        members = {
            image.tobytes(): label for image, label in zip(rest.images.numpy(), rest.labels.tolist(), strict=True)
        }
        assert [members[image.tobytes()] for image in subset.images] == [0, 0, 1, 1, 2, 2]
    assert torch.allclose(DistilledProxy(subset, validation).lessons.inputs, torch.tensor((subset.raw() - 0.3) / 0.4))
    assert DistilledProxy(subset, validation, passes=60).score(network(), seed=0).passes == 60
    assert np.array_equal(subset.images, real_subset(method, rest, like=ds, seed=1).images)
    if method == "random":
        assert not np.array_equal(subset.images, real_subset(method, rest, like=ds, seed=2).images)


# --- draws ---------------------------------------------------------------------------------------------------------


def proxies(ds: DistilledSet, rest: LabelledImages, validation: LabelledImages) -> list[Any]:
    return [
        DistilledProxy(ds, validation, passes=12),
        RealProxy(random_part(rest), validation, recipe=RECIPE, passes=42),
        EarlyStoppingProxy(rest, validation, recipe=RECIPE, passes=10),
        ZeroCostProxy(measure="grad_norm", data=rest),
    ]


def without_seconds(scored: Scored) -> dict[str, Any]:
    return scored.model_dump(exclude={"seconds", "core_seconds"})


def test_equal_arguments_give_equal_values_whatever_surrounds_them(ds, rest, validation):
    for proxy in proxies(ds, rest, validation):
        before = torch.get_rng_state()
        expected = without_seconds(proxy.score(network(drop=0.5), seed=1))
        copy = pickle.loads(pickle.dumps(proxy))
        assert without_seconds(copy.score(network(drop=0.5), seed=1)) == expected
        for state in ALONE:
            model = network(drop=0.5)
            with inside(state):
                assert without_seconds(proxy.score(model, seed=1)) == expected, (proxy, state)
        assert torch.equal(torch.get_rng_state(), before)
        other = without_seconds(proxy.score(network(drop=0.5), seed=2))
        assert other != expected


class Shaken(nn.Module):
    """Draws in evaluation mode too, from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images) + torch.randn(3)


def test_a_network_that_draws_as_it_likes_is_scored_alike_twice(ds, validation):
    proxy, before = DistilledProxy(ds, validation, passes=12), torch.get_rng_state()
    first, again = proxy.score(Shaken(), seed=0), proxy.score(Shaken(), seed=0)
    assert without_seconds(first) == without_seconds(again)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_computed_once_is_not_pickled(ds, validation):
    proxy = DistilledProxy(ds, validation, passes=6)
    before = len(pickle.dumps(proxy))
    proxy.score(network(), seed=0)
    assert len(pickle.dumps(proxy)) == before


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1e30}, {"steps": (ONE_STEP[0].model_copy(update={"learning_rate": 1e38}), *ONE_STEP)}]
)
def test_a_training_that_diverges_has_no_score(ds, validation, changes: dict[str, Any]):
    recipe = RECIPE.model_copy(update=changes)
    with pytest.raises(Diverged, match=r"^(training|validation) loss is (nan|inf)"):
        DistilledProxy(with_recipe(ds, recipe), validation, passes=None if recipe.steps else 60).score(
            network(), seed=0
        )


def test_an_early_stop_that_diverges_has_no_score(rest, validation):
    recipe = RECIPE.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(Diverged, match=r"^training loss is (nan|inf)"):
        EarlyStoppingProxy(rest, validation, recipe=recipe, passes=30).score(network(), seed=0)


def test_a_network_that_does_not_fit_has_no_score_and_is_not_trained(ds, validation):
    proxy = DistilledProxy(ds, validation, passes=6)
    lines = {
        "a Sequential takes no images of shape (1, 8, 8): ": network(inputs=63),
        "a Sequential returns (2, 4) for 2 images, not (2, 3): one number for each class": network(outputs=4),
        "a Flatten returns (2, 64) for 2 images": nn.Flatten(),
        "a Pair returns a tuple for 2 images": Pair(),
    }
    for line, model in lines.items():
        weights = [weight.clone() for weight in model.parameters()]
        with pytest.raises(UserError) as failure:
            proxy.score(model, seed=0)
        assert str(failure.value).startswith(line)
        assert "\n" not in str(failure.value)
        assert all(torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True))


class Pair(nn.Module):
    """Returns two values."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


def test_what_does_not_fit_together_is_refused_at_once(ds, rest, validation):
    with pytest.raises(UserError, match=r"^unknown score for by 'acuracy'; did you mean 'accuracy'"):
        DistilledProxy(ds, validation, by="acuracy")
    with pytest.raises(UserError, match=r"^blobs has no labels"):
        DistilledProxy(ds, blobs(labelled=False))
    with pytest.raises(UserError, match=r"^the classes of blobs are not those that networks are trained on$"):
        DistilledProxy(ds, blobs(classes=4))
    with pytest.raises(
        UserError, match=r"^blobs has images of shape \(3, 8, 8\), and networks are trained on \(1, 8, 8\)"
    ):
        DistilledProxy(ds, blobs(channels=3))
    with pytest.raises(UserError, match=r"^passes=0: expected at least 1 image-pass$"):
        DistilledProxy(ds, validation, passes=0)
    with pytest.raises(UserError, match=r"^passes=0: expected at least 1 image-pass$"):
        EarlyStoppingProxy(rest, validation, recipe=RECIPE, passes=0)
    with pytest.raises(UserError, match=r"^the recipe's 2 learned steps hold for one distilled set only$"):
        RealProxy(rest, validation, recipe=Recipe(steps=ONE_STEP))
    only = Recipe(initialisation="sha256:" + 64 * "0", weights=StartingPool(distribution="default", count=1))
    with pytest.raises(UserError, match=r"^this set is for one network, a convnet, and ranks no others$"):
        DistilledProxy(with_recipe(ds, only), validation)


def test_subsets_that_cannot_be(ds, rest):
    with pytest.raises(UserError, match=r"^'dm' selects no real images; random, herding, k-means and average do$"):
        real_subset("dm", rest, like=ds)
    with pytest.raises(UserError, match=r"^the classes of the set are not those of blobs$"):
        real_subset("random", blobs(classes=4), like=ds)
    without = replace(ds, labels=np.array([0, 0, 2, 2, 2, 2]))
    with pytest.raises(UserError, match=r"^the set has no images of class 'blob 1'$"):
        real_subset("random", rest, like=without)


# --- zero-cost measures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEASURES)
def test_a_zero_cost_proxy_is_the_measure_of_a_drawn_mini_batch(rest, name: str):
    form = InputForm((0.3,), (0.4,))
    proxy = ZeroCostProxy(measure=name, data=rest, form=form)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 3))
    scored = proxy.score(model, seed=4)
    count = 128 if name == "naswot" else 64
    rows = torch.randperm(162, generator=Streams(4).generator("mini-batch"))[:count]
    inputs = (rest.images[rows] / 255 - 0.3) / 0.4
    expected = measures.measure(name, model, inputs, rest.labels[rows])
    assert scored.value == pytest.approx(expected, rel=1e-4)
    assert (scored.accuracy, scored.loss, proxy.name) == (None, None, name)
    uses_images = name not in ("parameters", "flops", "synflow")
    assert scored.passes == (count if uses_images else 0)
    other = proxy.score(model, seed=5)
    assert (other.value != scored.value) == uses_images
    assert proxy.score(model, seed=4).value == scored.value


def test_the_mini_batch_is_drawn_once_for_a_seed(rest):
    recorder = Recorder(rest)
    proxy = ZeroCostProxy(measure="snip", data=recorder, images=10, name="snip of ten")
    for seed in (0, 0, 1):
        assert proxy.score(network(), seed=seed).passes == 10
    assert [len(rows) for rows in recorder.taken] == [10, 10]
    assert proxy.name == "snip of ten"
    assert (proxy.form.mean, proxy.form.std) == rest.channel_stats()


def test_measures_that_cannot_be(rest):
    with pytest.raises(UserError, match=r"^unknown zero-cost measure 'synflo'; did you mean 'synflow'"):
        ZeroCostProxy(measure="synflo", data=rest)
    for count in (0, 163):
        with pytest.raises(UserError, match=f"^images: {count}, but blobs has 162 images$"):
            ZeroCostProxy(measure="snip", data=rest, images=count)
    with pytest.raises(UserError, match=r"^blobs has no labels"):
        ZeroCostProxy(measure="snip", data=blobs(labelled=False))
    assert ZeroCostProxy(measure="jacob_cov", data=blobs(labelled=False), images=9).score(network(), seed=0).passes == 9
    with pytest.raises(UserError, match=r"^no naswot: the network has no ReLU"):
        ZeroCostProxy(measure="naswot", data=rest).score(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), seed=0)


# --- configs -------------------------------------------------------------------------------------------------------


class Table(Config):
    proxies: tuple[ProxyConfig, ...]


def decoded(**table: Any) -> Any:
    return decode(Table, {"proxies": [table]}).proxies[0]


def test_the_proxy_of_a_config(ds, rest, validation):
    images = Images(rest, validation, {"a.safetensors": ds})
    like = {"like": "a.safetensors", "passes": 30, "by": "loss"}
    trained_by = {"passes": 30, "by": "loss"}
    form = ds.input_form()
    part = random_part(rest, fraction=0.4, seed=2)
    cases: list[tuple[dict[str, Any], str, Any]] = [
        (
            {"kind": "distilled", "set": "a.safetensors", **trained_by},
            "a.safetensors",
            DistilledProxy(ds, validation, **trained_by),
        ),
        *(
            (
                {"kind": kind, "seed": 2, **like},
                f"{kind}, like a.safetensors",
                DistilledProxy(real_subset(kind, rest, like=ds, seed=2), validation, **trained_by),
            )
            for kind in ("random", "herding", "k-means")
        ),
        (
            {"kind": "part", "fraction": 0.4, "seed": 2, **like},
            "0.4 of the images",
            RealProxy(part, validation, recipe=RECIPE, form=form, **trained_by),
        ),
        (
            {"kind": "early-stopping", **like},
            "early stopping",
            EarlyStoppingProxy(rest, validation, recipe=RECIPE, form=form, **trained_by),
        ),
        (
            {"kind": "zero-cost", "measure": "snip", "images": 9, "like": "a.safetensors"},
            "snip",
            ZeroCostProxy(measure="snip", data=rest, images=9, form=form),
        ),
        ({"kind": "zero-cost", "measure": "snip"}, "snip", ZeroCostProxy(measure="snip", data=rest)),
    ]
    for table, name, expected in cases:
        proxy = built(decoded(**table), images, seed=3, device="cpu")
        assert (proxy.name, proxy.seed, proxy.device) == (name, 3, "cpu")
        assert type(proxy) is type(expected)
        assert without_seconds(proxy.score(network(), seed=1)) == without_seconds(expected.score(network(), seed=1))
        assert built(decoded(**table, name="mine"), images).name == "mine"


def test_configs_that_cannot_be(ds, rest, validation):
    lines = {
        r"proxies.0.zero-cost.measure: unknown zero-cost measure 'snap'; did you mean 'snip'": {
            "kind": "zero-cost",
            "measure": "snap",
        },
        "proxies.0.early-stopping.passes: required, but not given": {"kind": "early-stopping", "like": "a"},
        "proxies.0.random.passes: input should be greater than or equal to 1": {
            "kind": "random",
            "like": "a",
            "passes": 0,
        },
        "proxies.0.part.fraction: input should be less than 1": {"kind": "part", "like": "a", "fraction": 1.0},
    }
    for line, table in lines.items():
        with pytest.raises(UserError) as failure:
            decoded(**table)
        assert str(failure.value).startswith(line)
    with pytest.raises(UserError, match=r"^no distilled set 'b' was read for the proxies$"):
        built(decoded(kind="distilled", set="b"), Images(rest, validation, {"a": ds}))


# --- NNI -----------------------------------------------------------------------------------------------------------


class Widths(ModelSpace):
    """A user's space: sixteen widths, of which one cannot be."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 0])
        self.width = self.add_mutable(width)

    @classmethod
    def create_fixed_module(cls, sample: dict[str, int]) -> nn.Module:
        width = sample["width"]
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width or 1), nn.ReLU(), nn.Linear(width or 2, 3))


def test_a_proxy_is_an_evaluator_in_a_users_own_script(ds, validation):
    space = SimplifiedModelSpace.from_model(Widths(), DistilledProxy(ds, validation, passes=60, by="loss", seed=7))
    strategy, engine = RegularizedEvolution(seed=0, population_size=4, sample_size=2), SequentialExecutionEngine(12)
    engine.continue_on_failure = True
    torch.manual_seed(1)
    strategy(space, engine)
    models = [*engine.list_models()]
    assert len(models) == 12
    proxy = DistilledProxy(ds, validation, passes=60, by="loss")
    values = {}
    for model in models:
        width = model.sample["width"]
        if width == 0:
            assert (model.status, model.metric) == (ModelStatus.Failed, None)
            continue
        assert model.status == ModelStatus.Trained
        values[width] = proxy.score(spaces.build(Widths(), model.sample, seed=7), seed=7).value
        assert model.metric == values[width]
    assert len(values) > 3
    assert next(iter(strategy.list_models(limit=1))).sample["width"] == max(values, key=lambda width: values[width])


def test_a_zero_cost_proxy_is_an_evaluator_too(rest):
    space = SimplifiedModelSpace.from_model(Widths(), ZeroCostProxy(measure="parameters", data=rest))
    engine = SequentialExecutionEngine(max_model_count=3, continue_on_failure=True)
    Random(seed=1)(space, engine)
    metrics = {model.sample["width"]: model.metric for model in engine.list_models()}
    assert len(metrics) == 3
    assert metrics == {width: None if width == 0 else 68.0 * width + 3 for width in metrics}


def test_an_evaluator_outside_a_trial_gives_its_value(ds, validation):
    proxy = DistilledProxy(ds, validation, passes=12, seed=2)
    assert proxy.evaluate(network()) == proxy.score(network(), seed=2).value
    assert repr(proxy) == "DistilledProxy('distilled')"
