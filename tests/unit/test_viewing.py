"""Training by views and by a teacher: what each lesson shows, and what it asks to be learned."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from dd_core import networks, training
from dd_core.augment import views
from dd_core.augment.view_config import Views
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.recipe import Recipe
from dd_core.streams import Streams, generator
from dd_core.training import Settings, TrainingData
from dd_core.training.viewing import AskedTeacher, TaughtLessons, viewed

CPU = torch.device("cpu")


def data(count: int = 12, classes: int = 3) -> TrainingData:
    inputs = torch.randn(count, 1, 8, 8, generator=generator(0, "inputs"))
    return TrainingData(inputs, torch.arange(count) % classes, None, classes, torch.tensor([-1.5]))


def teacher() -> nn.Module:
    network = networks.build("convnet-1-w4-batchnorm", in_channels=1, classes=3, image_size=(8, 8), seed=5)
    network(torch.randn(64, 1, 8, 8, generator=generator(1, "seen")) * 3)  # running statistics of its own
    return network


def records(settings: Views, epoch: int) -> views.Records:
    draw = Streams(4).generator("views", epoch)
    return views.draw(settings, count=12, image_size=(8, 8), generator=draw)


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_lesson_is_the_epochs_view_of_each_image(epoch: int):
    settings, rows = Views(flip=True), torch.tensor([7, 2, 2])
    shown, labels = viewed(data(), settings, Streams(4)).batch(rows, epoch=epoch, index=1)
    own = records(settings, epoch).of(rows)
    assert torch.equal(shown, views.crops(data().inputs[rows], own.boxes, own.flips, black=torch.tensor([-1.5])))
    assert labels.tolist() == [1, 2, 2]


def test_beyond_the_edge_a_view_is_black_as_the_network_sees_black():
    shown, _ = viewed(data(), Views(crop=None, padding=8), Streams(4)).batch(torch.arange(12), epoch=0, index=0)
    assert (shown == -1.5).any()
    assert InputForm((0.3,), (0.2,)).black == pytest.approx(torch.tensor([-1.5]))


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_mixed_views_have_mixed_labels(mix: str):
    settings = Views.model_validate({"mix": mix})
    rows = torch.tensor([0, 5, 9])
    shown, targets = viewed(data(), settings, Streams(4)).batch(rows, epoch=2, index=0)
    whole = records(settings, 2)
    for position, row in enumerate(rows.tolist()):
        partner, share = int(whole.partners[row]), float(whole.shares[row])
        expected = share * F.one_hot(torch.tensor(row % 3), 3) + (1 - share) * F.one_hot(torch.tensor(partner % 3), 3)
        torch.testing.assert_close(targets[position], expected)
        pair = torch.tensor([row, partner])
        own, other = views.crops(data().inputs[pair], whole.boxes[pair], whole.flips[pair], black=torch.tensor([-1.5]))
        mixed = views.mix(own[None], other[None], whole.of(torch.tensor([row])))
        torch.testing.assert_close(shown[position], mixed[0])


def test_soft_labels_are_mixed_as_they_are():
    soft = torch.rand(12, 3, generator=generator(2, "soft"))
    lessons = TrainingData(data().inputs, data().labels, soft, 3)
    rows, settings = torch.arange(12), Views(mix="mixup")
    _, targets = viewed(lessons, settings, Streams(4)).batch(rows, epoch=0, index=0)
    whole = records(settings, 0)
    torch.testing.assert_close(
        targets, whole.shares[:, None] * soft + (1 - whole.shares[:, None]) * soft[whole.partners]
    )


def test_a_teacher_labels_what_is_shown():
    network, rows = teacher(), torch.tensor([3, 4, 8])
    shown, _ = viewed(data(), Views(), Streams(4)).batch(rows, epoch=1, index=0)
    lessons = TaughtLessons(viewed(data(), Views(), Streams(4)), AskedTeacher(teacher(), mode="eval"), temperature=4.0)
    inputs, targets = lessons.batch(rows, epoch=1, index=0)
    assert torch.equal(inputs, shown)
    torch.testing.assert_close(targets, (network.eval()(shown) / 4).softmax(1))
    assert not targets.requires_grad
    assert (len(lessons), lessons.image_shape, lessons.outputs) == (12, (1, 8, 8), 3)


def test_batch_statistics_are_those_of_the_batch_and_the_running_ones_stay():
    x = torch.randn(6, 1, 8, 8, generator=generator(3, "x")) * 2 + 1
    asked, reference = AskedTeacher(teacher(), mode="batch-stats"), teacher().train()
    before = copy.deepcopy(asked.network.state_dict())
    logits = asked.logits(x, torch.arange(6), epoch=0)
    torch.testing.assert_close(logits, reference(x))
    assert not torch.allclose(logits, teacher().eval()(x)), "and not by its running statistics"
    running = {name: value for name, value in before.items() if "running" in name}
    assert running
    assert all(torch.equal(value, asked.network.state_dict()[name]) for name, value in running.items())


def test_the_network_that_is_given_is_left_as_it_is():
    network = teacher().train()
    AskedTeacher(network, mode="batch-stats").logits(torch.zeros(2, 1, 8, 8), torch.arange(2), epoch=0)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert {norm.momentum for norm in networks.batch_norms(network).values()} == {0.1}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(network.buffers(), teacher().buffers(), strict=True))


def test_batch_statistics_of_a_single_image_are_refused():
    asked = AskedTeacher(teacher(), mode="batch-stats")
    with pytest.raises(UserError, match="and one has a single image"):
        asked.logits(torch.zeros(1, 1, 8, 8), torch.arange(1), epoch=0)
    AskedTeacher(teacher(), mode="eval").logits(torch.zeros(1, 1, 8, 8), torch.arange(1), epoch=0)


def small_set() -> DistilledSet:
    manifest = Manifest(
        classes=("a", "b", "c"),
        pixels=Pixels(space="normalised", mean=(0.3,), std=(0.2,)),
        recipe=Recipe(network="convnet-1-w4", epochs=2, batch_size=5),
    )
    return DistilledSet(data().inputs.numpy(), data().labels.numpy(), manifest)


def test_a_recipe_with_views_and_a_teacher_trains_as_by_hand():
    """Two epochs of AdamW on views, KL divergence at temperature 4, weight decay on matrices alone."""
    recipe = Recipe(
        network="convnet-1-w4",
        optimiser="adamw",
        learning_rate=0.01,
        weight_decay=0.3,
        decayed="matrices",
        schedule="cosine",
        epochs=2,
        batch_size=5,
        views=Views(flip=False, mix="cutmix"),
        teacher="eval",
        loss="kl",
        temperature=4.0,
    )
    trained = training.train(small_set(), recipe=recipe, seed=4, device="cpu", teacher=teacher())
    asked = teacher().eval()
    model = networks.build("convnet-1-w4", in_channels=1, classes=3, image_size=(8, 8), seed=4)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    assert len(weights) == 2
    optimiser = torch.optim.AdamW([{"params": weights, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}])
    for epoch in range(2):
        for group in optimiser.param_groups:
            group["lr"] = [0.01, 0.005][epoch]
        whole = records(Views(flip=False, mix="cutmix"), epoch)
        shown = views.crops(data().inputs, whole.boxes, whole.flips, black=torch.tensor([-1.5]))
        shown = views.mix(shown, shown[whole.partners], whole)
        for rows in torch.randperm(12, generator=Streams(4).generator("order", epoch)).split(5):
            with torch.no_grad():
                p = (asked(shown[rows]) / 4).softmax(1)
            q = (model(shown[rows]) / 4).log_softmax(1)
            loss = (p * (p.log() - q)).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for ours, expected in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_recipe_that_asks_a_teacher_needs_one():
    recipe = Recipe(network="convnet-1-w4", epochs=1, teacher="eval", loss="kl")
    with pytest.raises(UserError, match="and none is given"):
        training.train(small_set(), recipe=recipe, device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": Views(mix="mixup"), "loss": "mse"}, "cannot learn targets that mixup mixes"),
        ({"teacher": "eval", "loss": "mse"}, "cannot learn a teacher's class probabilities"),
        ({"views": Views(), "steps": ({"epoch": 0, "step": 0, "learning_rate": 0.1},)}, "learned steps replace epochs"),
    ],
)
def test_a_recipe_whose_parts_do_not_fit_is_refused(fields: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(fields)


def test_an_unused_field_is_not_written():
    assert {"views", "teacher", "decayed"}.isdisjoint(Recipe().model_dump(mode="json"))
    used = Recipe(views=Views(flip=True), teacher="batch-stats", decayed="matrices")
    assert Recipe.model_validate_json(used.model_dump_json()) == used


def test_views_are_settled_for_the_source():
    assert Recipe(views=Views()).for_source("digits").views == Views(flip=False)
    assert Recipe(views=Views()).for_source("cifar10").views == Views(flip=True)


def groups(settings: Settings) -> Iterator[tuple[int, float]]:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for group in settings.optimiser_of(model.parameters(), rate=0.1).param_groups:
        yield len(group["params"]), group["weight_decay"]


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_weights_of_one_dimension_decay_unless_it_is_said(optimiser: str):
    settings = {"learning_rate": 0.1, "epochs": 1, "batch_size": 1, "optimiser": optimiser, "weight_decay": 0.2}
    assert list(groups(Settings(**settings))) == [(4, 0.2)]  # type: ignore[arg-type]
    assert list(groups(Settings(**settings, decayed="matrices"))) == [(1, 0.2), (3, 0.0)]  # type: ignore[arg-type]
