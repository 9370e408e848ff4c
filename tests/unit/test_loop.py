"""The training loop: where it can stop and go on, its hooks, and what a network may learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import networks, store
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.methods.trajectory_matching.expert_training import Sharpness
from dd_core.methods.trajectory_matching.gsam import flat_gradient
from dd_core.recipe import Recipe, ScheduledStep
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import Loop, RealLessons, RegressionData, Settings, TrainingData, fit, lessons_of, train
from dd_core.training.loop import draws_numbers

CPU = torch.device("cpu")
BLOBS = blobs(per_class=4)  # 12 images
SETTINGS = Settings(learning_rate=0.05, epochs=5, batch_size=5, momentum=0.9)  # three steps an epoch
LESSONS = RealLessons(BLOBS, InputForm.of(BLOBS))


def network(name: str = "convnet-1-w4") -> nn.Module:
    if name == "dropout":
        drawn = networks.build("lenet", in_channels=1, classes=3, image_size=(8, 8), seed=0)
        return nn.Sequential(nn.Dropout(0.3), drawn)
    return networks.build(name, in_channels=1, classes=3, image_size=(8, 8), seed=0)


def looped(settings: Settings = SETTINGS, *, name: str = "convnet-1-w4", lessons: Any = LESSONS, **hooks: Any) -> Loop:
    return Loop(network(name), lessons, settings, streams=Streams(3), device=CPU, **hooks)


def require_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (key, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(value, other), key


# --- stopping and going on ---------------------------------------------------------------------------------------

ORDER = tuple(ScheduledStep(epoch=e, step=s, learning_rate=0.1 / (1 + e + s)) for e in (0, 1) for s in (0, 1))
WAYS: dict[str, tuple[Settings, str, dict[str, Any]]] = {
    "momentum": (SETTINGS, "convnet-1-w4", {}),
    "adam, views": (
        replace(SETTINGS, optimiser="adam", augmentation="color_crop_cutout_scale_rotate"),
        "convnet-1-w4",
        {},
    ),
    "a new optimiser in epoch 4": (replace(SETTINGS, schedule="step", epochs=6), "convnet-1-w4", {}),
    "batch norm": (SETTINGS, "convnet-1-w4-batchnorm", {}),
    "dropout": (SETTINGS, "dropout", {}),
    "gsam": (SETTINGS, "convnet-1-w4", {"gradient": partial(flat_gradient, sharpness=Sharpness(rho=0.1))}),
    "a learned order": (Settings.of(Recipe(network="convnet-1-w4", steps=ORDER)), "convnet-1-w4", {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("epochs", "steps"), [(2, 0), (0, 1), (2, 2), (4, 1)])
def test_a_loop_that_stopped_goes_on_to_the_same_bits(way: str, epochs: int, steps: int, tmp_path: Path):
    settings, name, hooks = WAYS[way]
    whole = looped(settings, name=name, **hooks)
    whole.run()
    stopped = looped(settings, name=name, **hooks)
    stopped.run(min(epochs, settings.epochs))
    if stopped.done < settings.epochs:
        for rows in stopped.mini_batches()[:steps]:
            stopped.step(rows)
    store.write_state(tmp_path / "state", stopped.state_dict(), {})
    torch.manual_seed(99)  # nothing follows the caller's generator
    resumed = looped(settings, name=name, **hooks)
    resumed.load_state_dict(store.read_state(tmp_path / "state")[0])
    resumed.run()
    require_same(resumed.model, whole.model)
    assert resumed.done == settings.epochs
    if stopped.done < settings.epochs:
        assert resumed.mean_loss == whole.mean_loss


def test_an_epoch_that_is_interrupted_between_steps_can_be_saved():
    class Interrupting(RealLessons):
        def batch(self, rows: Tensor, *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
            if (epoch, index) == (1, 2):
                raise KeyboardInterrupt
            return super().batch(rows, epoch=epoch, index=index)

        def to(self, device: torch.device) -> Interrupting:
            return self

    whole, stopped = looped(), looped(lessons=Interrupting(BLOBS, InputForm.of(BLOBS)))
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = looped()
    resumed.load_state_dict(stopped.state_dict())
    assert [len(rows) for rows in resumed.mini_batches()] == [2]
    resumed.run()
    require_same(resumed.model, whole.model)


def test_the_state_at_the_end_of_an_epoch_is_model_optimiser_and_epoch_alone():
    """So that records of experts under way that earlier versions wrote are taken up."""
    loop = looped()
    loop.run(1)
    assert set(loop.state_dict()) == {"epoch", "model", "optimiser"}


def test_dropout_is_drawn_anew_at_every_step_and_the_callers_generator_is_left_alone():
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(64, 3)

        def forward(self, images: Tensor) -> Tensor:
            seen.append(self.dropout(torch.ones(64)))
            return self.linear(images.flatten(1))

    model = Watching()
    assert draws_numbers(model)
    assert not draws_numbers(network())
    before = torch.get_rng_state()
    Loop(model, LESSONS, SETTINGS, streams=Streams(3), device=CPU).run(2)
    masks = {tuple(mask.tolist()) for mask in seen}
    assert torch.equal(torch.get_rng_state(), before)
    assert len(masks) == len(seen) == 6


def test_a_layer_that_draws_unseen_neither_follows_nor_moves_the_callers_generator():
    class Drawing(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(F.dropout(images.flatten(1), 0.5))

    def trained(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Drawing(64, 3)
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            Loop(model, LESSONS, SETTINGS, streams=Streams(3), device=CPU).run(2)
            assert torch.equal(torch.get_rng_state(), before)
        return model

    require_same(trained(1), trained(2))


# --- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "halving", "halve_every": 3}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
        ({"schedule": "decay"}, [1, 1, 1, 1, 0.1, 0.1, 0.1]),
        ({"schedule": "step"}, [1, 1, 1, 1, 1, 0.1, 0.1]),
        ({"schedule": "cosine"}, [0.5 + 0.5 * np.cos(np.pi * epoch / 7) for epoch in range(7)]),
        ({"warmup": 3}, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ({"warmup": 9}, [0.1 * (epoch + 1) for epoch in range(7)]),
        (
            {"warmup": 3, "schedule": "cosine"},
            [0.25, 0.5, 0.75, 1, *(0.5 + 0.5 * np.cos(np.pi * e / 4) for e in (1, 2, 3))],
        ),
        ({"warmup": 1, "schedule": "step"}, [0.5, 1, 1, 1, 1, 0.1, 0.1]),
    ],
)
def test_the_course_of_the_learning_rate(settings: dict[str, Any], rates: list[float], monkeypatch: pytest.MonkeyPatch):
    taken: list[float] = []
    loop = looped(Settings(learning_rate=0.2, epochs=7, batch_size=12, **settings))
    real = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (taken.append(self.param_groups[0]["lr"]), real(self, *a))
    )
    loop.run()
    assert taken == pytest.approx([0.2 * rate for rate in rates])


# --- hooks and steps of one's own --------------------------------------------------------------------------------


def test_the_gradient_is_the_hooks_and_it_may_look_elsewhere():
    """A hook that takes the gradient at shifted weights, against the same by hand."""

    def elsewhere(loss_at: Any, theta: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        shifted = tuple((w.detach() + 0.1).requires_grad_() for w in theta)
        return loss_at(theta), torch.autograd.grad(loss_at(shifted), shifted)

    settings = replace(SETTINGS, momentum=0.0)
    loop, model, shifted = looped(settings, gradient=elsewhere), network(), network()
    rows = torch.tensor([0, 5, 9])
    inputs, labels = InputForm.of(BLOBS)(BLOBS.images[rows]), BLOBS.labels[rows]
    with torch.no_grad():
        for parameter in shifted.parameters():
            parameter += 0.1
    gradients = torch.autograd.grad(F.cross_entropy(shifted(inputs), labels), list(shifted.parameters()))
    assert loop.step(rows).item() == pytest.approx(F.cross_entropy(model(inputs), labels).item())
    for ours, theirs, gradient in zip(loop.model.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours, theirs - 0.05 * gradient)


def test_after_each_epoch_the_hook_hears_how_many_are_done():
    heard: list[tuple[int, float]] = []
    loop = looped(after_epoch=lambda done: heard.append((done, loop.mean_loss)))
    loop.run(2)
    loop.epoch()
    assert [done for done, _ in heard] == [1, 2, 3]
    assert len({loss for _, loss in heard}) == 3


def test_a_caller_may_drive_the_steps_and_says_when_an_epoch_ends():
    """The same rows in the same epochs, and the same views, are the same training."""
    settings = replace(SETTINGS, augmentation="color_crop", schedule="halving", halve_every=1)
    own, driven = looped(settings), looped(settings)
    own.run(2)
    for _ in range(2):
        for rows in driven.mini_batches():
            driven.step(rows)
        driven.end_epoch()
    require_same(driven.model, own.model)


def test_the_mean_loss_is_over_images_whatever_the_batches():
    loop = looped(replace(SETTINGS, learning_rate=1e-12))
    assert np.isnan(loop.mean_loss)
    loop.epoch()
    expected = F.cross_entropy(network()(InputForm.of(BLOBS)(BLOBS.images)), BLOBS.labels)
    assert loop.mean_loss == pytest.approx(expected.item(), rel=1e-5)


def test_forward_passes_compute_in_bfloat16_where_asked():
    seen: list[torch.dtype] = []
    loop = looped(replace(SETTINGS, autocast=True))
    loop.model.get_submodule("features.0").register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    plain = looped()
    losses = [trained.step(torch.arange(12)).item() for trained in (loop, plain)]
    assert seen == [torch.bfloat16]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {parameter.dtype for parameter in loop.model.parameters()} == {torch.float32}


# --- what is learned ---------------------------------------------------------------------------------------------


class Counting:
    """Lessons of one's own: labels that turn by one class with every mini-batch that was taken."""

    labels = BLOBS.labels
    image_shape, outputs = BLOBS.image_shape, 3

    def __init__(self) -> None:
        self.taken, self.asked = 0, list[tuple[int, int]]()

    def __len__(self) -> int:
        return len(BLOBS)

    def to(self, device: torch.device) -> Counting:
        return self

    def batch(self, rows: Tensor, *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        self.taken += 1
        self.asked.append((epoch, index))
        return InputForm.of(BLOBS)(BLOBS.images[rows]), (BLOBS.labels[rows] + self.taken) % 3

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.taken = state["taken"]


def test_lessons_are_told_epoch_and_step_and_their_state_is_kept_with_the_loops():
    whole, stopped, resumed = (looped(lessons=Counting()) for _ in range(3))
    whole.run()
    assert whole.lessons.asked == [(epoch, index) for epoch in range(5) for index in range(3)]
    stopped.run(1)
    stopped.step(stopped.mini_batches()[0])
    resumed.load_state_dict(stopped.state_dict())
    resumed.run()
    require_same(resumed.model, whole.model)


def features(**recipe: Any) -> DistilledSet:
    """Six images of noise, each with four features; without labels or classes."""
    draw = np.random.default_rng(1)
    settings = {"network": "convnet-1-w8-nonorm", "epochs": 80, "learning_rate": 0.05, "weight_decay": 0.0}
    manifest = Manifest(
        task="self-supervised",
        classes=(),
        pixels=Pixels(space="raw", mean=(0.5,), std=(0.3,)),
        targets="features",
        recipe=Recipe(**{**settings, "schedule": "constant", "loss": "mse", **recipe}),
    )
    images = draw.random((6, 1, 8, 8)).astype(np.float32)
    return DistilledSet(images, None, manifest, draw.normal(size=(6, 4)).astype(np.float32))


def test_a_set_with_features_trains_a_network_that_gives_them(tmp_path: Path):
    store.write_set(tmp_path / "set.safetensors", features())
    ds = store.read_set(tmp_path / "set.safetensors")
    model = train(ds, device="cpu")
    outputs, targets = model(ds.inputs()).detach().numpy(), ds.targets
    assert outputs.shape == (6, 4)
    assert ((outputs - targets) ** 2).mean() < 0.05 * (targets**2).mean()


def test_features_are_learned_by_squared_error_step_by_step():
    """One step on the whole set, against the gradient of the formula."""
    ds = features(epochs=1, momentum=0.0)
    start = networks.build("convnet-1-w8-nonorm", in_channels=1, classes=4, image_size=(8, 8), seed=5)
    loss = (start(ds.inputs()) - torch.tensor(ds.targets)).square().mean()
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    for ours, theirs, g in zip(train(ds, seed=5).parameters(), start.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours, theirs - 0.05 * g)


def test_features_in_a_learned_order_are_dealt_to_blocks_as_they_lie():
    steps = tuple(ScheduledStep(epoch=0, step=block, learning_rate=0.1) for block in (1, 0))
    ds = features(steps=steps)
    model = networks.build("convnet-1-w8-nonorm", in_channels=1, classes=4, image_size=(8, 8), seed=0)
    for rows in ([3, 4, 5], [0, 1, 2]):
        loss = (model(ds.inputs()[rows]) - torch.tensor(ds.targets[rows])).square().mean()
        with torch.no_grad():
            for parameter, g in zip(
                model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
            ):
                parameter -= 0.1 * g
    for ours, theirs in zip(train(ds).parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_loss_that_does_not_fit_the_set_is_refused_before_anything_is_trained():
    with pytest.raises(UserError, match="a set with features needs loss 'mse'"):
        train(features(loss="cross-entropy"))
    with pytest.raises(UserError, match=r"outputs \(6, 3\) with targets \(6, 4\)"):
        train(features(), network=network())


def labelled(targets: str, **recipe: Any) -> DistilledSet:
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(12, 3)).astype(np.float32) * 3
    manifest = Manifest(
        classes=("a", "b", "c"),
        pixels=Pixels(space="raw", mean=(0.5,), std=(0.3,)),
        targets=targets,
        recipe=Recipe(**{"network": "convnet-1-w4-nonorm", "epochs": 2, "batch_size": 5, **recipe}),
    )
    images = draw.random((12, 1, 8, 8)).astype(np.float32)
    return DistilledSet(images, np.arange(12) // 4, manifest, None if targets == "none" else logits)


def test_logits_are_softened_for_a_divergence_and_taken_as_they_are_for_squared_error():
    ds = labelled("logits", loss="kl-t2", temperature=4.0)
    soft = lessons_of(ds, ds.manifest.recipe)
    assert isinstance(soft, TrainingData)
    torch.testing.assert_close(soft.probabilities, torch.tensor(ds.targets / 4).softmax(1))
    straight = lessons_of(ds, ds.manifest.recipe.model_copy(update={"loss": "mse"}))
    assert isinstance(straight, RegressionData)
    assert torch.equal(straight.targets, torch.tensor(ds.targets))
    assert torch.equal(straight.labels, torch.tensor(ds.labels))


def test_kl_times_t_squared_is_kl_at_a_larger_rate():
    """Under plain descent the factor T^2 is one of the learning rate; T is a power of two, so it is so to the bit."""
    plain = {"momentum": 0.0, "weight_decay": 0.0, "temperature": 2.0}
    squared = labelled("logits", **plain, loss="kl-t2", learning_rate=0.01)
    larger = labelled("logits", **plain, loss="kl", learning_rate=0.04)
    require_same(train(squared, device="cpu"), train(larger, device="cpu"))


# --- networks of one's own ---------------------------------------------------------------------------------------


def test_a_module_is_trained_in_place_as_the_network_of_that_name_is():
    ds = labelled("none", network="convnet-1-w4")
    model = networks.build("convnet-1-w4", in_channels=1, classes=3, image_size=(8, 8), seed=7)
    lessons = lessons_of(ds, ds.manifest.recipe)
    ours = fit(lessons, model, ds.manifest.recipe, streams=Streams(7), device=CPU)
    assert ours is model
    assert not ours.training
    require_same(ours, fit(lessons, "convnet-1-w4", ds.manifest.recipe, streams=Streams(7), device=CPU))
    again = networks.build("convnet-1-w4", in_channels=1, classes=3, image_size=(8, 8), seed=7)
    require_same(train(ds, network=again, seed=7, device="cpu"), ours)


def test_a_module_has_a_start_of_its_own():
    ds = labelled("none")
    lessons = lessons_of(ds, ds.manifest.recipe)
    with pytest.raises(UserError, match="the given FeatureNetwork has its own weights"):
        fit(lessons, network(), ds.manifest.recipe, streams=Streams(0), device=CPU, start=object())
    fixed = {"initialisation": "sha256:" + "0" * 64, "weights": {"distribution": "default", "count": 1}}
    with pytest.raises(UserError, match=r"starts from the weights sha256:0000.*, and not for FeatureNetwork"):
        train(labelled("none", **fixed), network=network())
