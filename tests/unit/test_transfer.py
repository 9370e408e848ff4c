"""Transfer as a library: backbones, pre-training on a set, features, probes, fine-tuning, files of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_apps.transfer import (
    features,
    fine_tune,
    knn,
    labelled,
    linear_probe,
    pretrain,
    pretraining,
    probes,
    stepping,
)
from dd_apps.transfer.fine_tuning import ShiftedLessons
from dd_apps.transfer.settings import FineTuning, LinearProbe, Neighbours, SgdProbe
from dd_core import networks, training
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm, LabelledImages
from dd_core.networks import import_paths, own
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.training import feature_quality

SHAPE = (3, 8, 8)
MSE = Recipe(network="convnet-2-w8", loss="mse", learning_rate=0.05, epochs=4, batch_size=8, schedule="constant")


def features_set(images: int = 12, width: int = 5, recipe: Recipe = MSE) -> DistilledSet:
    draw = np.random.default_rng(0)
    pixels = Pixels(space="raw", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    manifest = Manifest(task="self-supervised", classes=(), targets="features", recipe=recipe, pixels=pixels)
    pictures = draw.integers(0, 256, (images, *SHAPE), dtype=np.uint8)
    return DistilledSet(pictures, None, manifest, targets=draw.normal(size=(images, width)).astype(np.float32))


def labelled_set() -> DistilledSet:
    draw = np.random.default_rng(1)
    pixels = Pixels(space="raw", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    recipe = MSE.model_copy(update={"loss": "cross-entropy"})
    manifest = Manifest(classes=("a", "b", "c"), recipe=recipe, pixels=pixels)
    return DistilledSet(draw.integers(0, 256, (6, *SHAPE), dtype=np.uint8), np.arange(6, dtype=np.int64) % 3, manifest)


class Small(nn.Module):
    """A user's backbone, made by (in_channels, outputs, image_size)."""

    def __init__(self, in_channels: int, outputs: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], 7), nn.ReLU())
        self.head = nn.Linear(7, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Pooled(nn.Module):
    """Batch norm of one number a channel, which refuses a single image in training."""

    def __init__(self, in_channels: int, outputs: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(in_channels), nn.Linear(in_channels, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images.mean((2, 3))))


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def refused() -> Callable[..., Any]:
    def refuse(match: str):
        return pytest.raises(UserError, match=match)

    return refuse


# --- backbones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["convnet-2-w8", Small, f"{__name__}:Small", Small(3, 4, (8, 8))])
def test_a_backbone_is_a_name_a_function_an_import_path_or_a_module(backbone, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(Small=Small))
    before = torch.random.get_rng_state()
    first, again, other = (own.built(backbone, SHAPE, outputs=5, seed=seed) for seed in (0, 0, 1))
    assert first(torch.zeros(2, *SHAPE)).shape == (2, 5)
    assert first.training
    assert same(first, again)
    assert not same(first, other), "another seed draws other weights"
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_module_is_copied_with_its_weights_and_gets_a_new_last_layer_only_where_it_needs_one():
    module = Small(3, 4, (8, 8))
    fitting, other = (own.built(module, SHAPE, outputs=count, seed=0) for count in (4, 6))
    assert same(fitting, module)
    assert fitting is not module
    assert torch.equal(other.body[1].weight, module.body[1].weight)
    assert other.head.out_features == 6
    assert module.head.out_features == 4, "the module that was given stays as it was"


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "mobilenetv4_conv_small", "convnext_atto", "vit_tiny_patch16_224", "regnety_002", "ghostnet_100"],
)
def test_timm_families_take_32_pixels_and_their_features_are_what_the_last_layer_reads(name: str):
    model: Any = own.built(f"timm:{name}", (3, 32, 32), outputs=11, seed=0).eval()
    seen: list[Tensor] = []
    model.get_classifier().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        images = torch.rand(2, 3, 32, 32)
        assert model(images).shape == (2, 11)
        found = networks.embed(model, images)
    assert found.shape == (2, model.head_hidden_size)
    assert torch.equal(found, seen[0].flatten(1))


@pytest.mark.parametrize(
    ("backbone", "match"),
    [
        ("convnot", "unknown network 'convnot'"),
        ("no_such_module_here:Net", "network 'no_such_module_here:Net' cannot be imported.*PYTHONPATH=\\."),
        ("torch.nn:NoSuchLayer", "cannot be imported.*NoSuchLayer"),
        ("my net:Small", "no import path; type module:Class"),
        (lambda *_: 3, "gives a int, not a torch.nn.Module"),
        (lambda channels: nn.Identity(), "could not be made by .in_channels, outputs, image_size. = .3, 5, .8, 8.."),
        (lambda *_: nn.Linear(9, 5), "cannot take images of 3 x 8 x 8 pixels.*images of another size"),
        (lambda *_: nn.Identity(), "gives .1, 3, 8, 8. for one image, and must give .1, outputs."),
        (lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "gives 4 outputs for an image, and must give 5"),
        (nn.Flatten(), "has no linear layer"),
        ("timm:levit_128s", "cannot take images of 3 x 8 x 8 pixels"),
    ],
)
def test_what_is_no_backbone_is_refused_in_one_line(backbone, match: str, refused):
    with refused(match) as error:
        own.built(backbone, SHAPE, outputs=5, seed=0)
    assert "\n" not in str(error.value)


def test_names_with_a_colon_are_libraries_or_import_paths():
    assert import_paths.is_import_path("nets:Small")
    assert not any(import_paths.is_import_path(name) for name in ("timm:resnet18", "torchvision:vgg11", "convnet"))
    for name in ("nets:Small", "timm:resnet18", "convnet-3-w32"):
        import_paths.check_network(name)
    with pytest.raises(UserError, match="unknown network 'convnt'"):
        import_paths.check_network("convnt")


# --- pre-training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["convnet-2-w8", Small])
def test_pre_training_is_the_sets_recipe_on_its_features(backbone):
    ds = features_set()
    model = pretrain(backbone, ds, seed=3, device="cpu")
    expected = training.train(ds, network=own.built(backbone, SHAPE, outputs=5, seed=3), seed=3, device="cpu")
    assert same(model, expected)
    assert not model.training
    error = ((model(ds.inputs()) - torch.tensor(ds.targets)) ** 2).mean()
    assert error < ((own.built(backbone, SHAPE, outputs=5, seed=3)(ds.inputs()) - torch.tensor(ds.targets)) ** 2).mean()


def test_a_labelled_set_is_learned_by_cross_entropy_and_another_recipe_is_followed():
    ds = labelled_set()
    model = pretrain("convnet-2-w8", ds, device="cpu")
    assert same(model, training.train(ds, network="convnet-2-w8", seed=0, device="cpu"))
    assert model(ds.inputs()).shape == (6, 3)
    longer = ds.manifest.recipe.model_copy(update={"epochs": 9})
    assert same(
        pretrain("lenet", labelled_set(), recipe=longer, device="cpu"),
        training.train(ds, network="lenet", recipe=longer, device="cpu"),
    )


@pytest.mark.parametrize(
    ("images", "size", "safe"),
    [(9, 8, 7), (9, 9, 9), (9, 256, 256), (12, 8, 8), (257, 256, 255), (3, 2, 3), (2, 1, 2), (5, 4, 3), (7, 1, 4)],
)
def test_batch_norm_never_meets_a_single_image(images: int, size: int, safe: int):
    said: list[str] = []
    model = Pooled(3, 5, (8, 8))
    assert pretraining.safe_batch_size(images, size, model, name="pooled", say=said.append) == safe
    assert min(part.numel() for part in torch.arange(images).split(safe)) > 1
    assert bool(said) == (safe != size)
    assert pretraining.safe_batch_size(images, size, Small(3, 5, (8, 8)), name="small", say=said.append) == size


def test_a_set_with_an_odd_image_out_trains_batch_norms_and_says_so(refused):
    said: list[str] = []
    model = pretrain(Pooled, features_set(9), device="cpu", say=said.append)
    assert isinstance(model.norm, nn.BatchNorm1d)
    assert said[0].startswith("Pooled: mini-batches of 7 images instead of 8")
    assert (
        "after 8 steps the running statistics of batch norms still consist of their initial values by 43 %" in said[1]
    )
    with refused("has batch norms, which need at least two images, and there is 1"):
        pretrain(Pooled, replace(features_set(), images=features_set().images[:1], targets=np.ones((1, 5), "float32")))


def test_many_steps_leave_no_first_values_in_running_statistics():
    model = Pooled(3, 5, (8, 8))
    assert "35 %" in pretraining.stale_norms(model, steps=10)[0]
    assert pretraining.stale_norms(model, steps=29) == []
    assert pretraining.stale_norms(Small(3, 5, (8, 8)), steps=1) == []


# --- features ----------------------------------------------------------------------------------------------------


def target(per_class: int = 10, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE, name: str = "blobs") -> Any:
    """Three classes of bright, middling and dark noise."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(per_class)
    noise = torch.randint(0, 120, (len(labels), *shape), generator=draw)
    return LabelledImages((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, ("a", "b", "c"), name)


CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["convnet-2-w8-batchnorm", "timm:resnet10t"])
def test_features_are_those_of_each_image_alone_in_evaluation_mode(name: str):
    model, source, form = own.built(name, SHAPE, outputs=4, seed=0), target(4), features_set().input_form()
    assert model.training
    found = features(model, source, form, device="cpu")
    with torch.no_grad():
        plain = torch.cat([networks.embed(model.eval(), form(source.images[i : i + 1])) for i in range(12)])
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad
    alone = features(model, source, device="cpu")
    torch.testing.assert_close(alone, features(model, source, InputForm.of(source), device="cpu"))
    assert not torch.allclose(alone, found)


def test_features_that_are_not_finite_are_refused():
    model = own.built("convnet-2-w8", SHAPE, outputs=4, seed=0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="features of blobs have values that are not finite"):
        features(model, target(2), device="cpu")


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "counts"), [(0.01, [1, 1]), (0.1, [1, 4]), (0.5, [3, 20]), (1.0, [6, 40])])
def test_a_fraction_of_labels_is_of_each_class_and_at_least_one(fraction: float, counts: list[int]):
    labels = torch.tensor([0] * 6 + [1] * 40)
    source = LabelledImages(torch.zeros(46, 1, 2, 2, dtype=torch.uint8), labels, ("few", "many"), "uneven")
    rows = labelled.labelled_rows(source, fraction, seed=3)
    assert torch.bincount(labels[rows]).tolist() == counts
    assert rows.tolist() == sorted({*rows.tolist()})
    more = labelled.labelled_rows(source, min(1.0, 2 * fraction), seed=3)
    assert {*rows.tolist()} <= {*more.tolist()}, "a larger fraction has the rows of a smaller one"
    assert fraction == 1 or not torch.equal(rows, labelled.labelled_rows(source, fraction, seed=4))


def test_targets_that_tell_nothing_apart_are_refused(refused):
    model, source = Small(3, 3, (8, 8)), target(2)
    one = LabelledImages(source.images[:2], torch.zeros(2, dtype=torch.int64), ("a",), "ones")
    other = LabelledImages(source.images, source.labels, ("a", "b", "d"), "others")
    small = target(2, shape=(3, 4, 4))
    for train, test, match in [
        (source.without_labels(), source, "target blobs has no labels, as probes and fine-tuning need"),
        (source, source.without_labels(), "target blobs has no labels"),
        (one, one, "target ones has one class; take a target with two classes or more"),
        (source, other, "training and test images do not have the same classes"),
        (source, small, "training images are 3x8x8 .C x H x W., and test images are 3x4x4"),
    ]:
        for score in (linear_probe, knn, fine_tune):
            with refused(match):
                score(model, train, test, device="cpu")
    for fraction in (0.0, 1.5):
        with refused("expected a fraction above 0 and at most 1"):
            linear_probe(model, source, source, fraction=fraction, device="cpu")


# --- probes ------------------------------------------------------------------------------------------------------


def points(count: int = 60, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.randn(count, 4, generator=draw) + 0.7 * F.one_hot(labels, 4), labels


def test_the_probe_by_sgd_is_a_plain_loop_with_momentum_along_a_cosine():
    known, labels = points(20)
    settings = SgdProbe(steps=9, batch_size=8)
    layer = probes.sgd_regression(known, labels, classes=3, settings=settings, seed=5, device=CPU)
    streams = Streams(5).child("probe")
    with streams.seeded("layer"):
        plain = nn.Linear(4, 3)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 9)
    sizes = []
    for _, rows in zip(range(9), stepping.mini_batches(20, 8, streams), strict=False):
        optimiser.zero_grad()
        F.cross_entropy(plain(known[rows]), labels[rows]).backward()
        optimiser.step()
        schedule.step()
        sizes.append(len(rows))
    torch.testing.assert_close(layer.weight, plain.weight)
    torch.testing.assert_close(layer.bias, plain.bias)
    assert sizes == [8, 8, 4] * 3


def test_passes_have_orders_of_their_own_and_every_image_once():
    batches = [next_ for next_, _ in zip(stepping.mini_batches(7, 3, Streams(0)), range(6), strict=False)]
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == [*range(7)]
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    "settings",
    [Neighbours(k=1, temperature=0.1), Neighbours(k=9, temperature=0.01), Neighbours(k=9, temperature=10.0)]
    + [LinearProbe(iterations=iterations, l2=l2) for iterations, l2 in ((1, 1e-3), (20, 1e-3), (20, 1.0))],
)
def test_probes_and_neighbours_are_those_of_the_engine_with_the_settings(settings):
    (known, labels), (tested, truth) = points(60), points(200, seed=1)
    train, test = (
        LabelledImages(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), y, ("a", "b", "c"), "points")
        for n, y in ((60, labels), (200, truth))
    )
    score = probes.Features(train, test, known, tested, InputForm((0.5,) * 3, (0.2,) * 3)).score(
        settings, fraction=1.0, seed=0, device="cpu"
    )
    if isinstance(settings, Neighbours):
        k, temperature = settings.k, settings.temperature
        guesses = feature_quality.nearest_neighbours(known, labels, tested, k=k, temperature=temperature)
    else:
        probe = feature_quality.linear_probe(known, labels, l2=settings.l2, iterations=settings.iterations)
        guesses = probe.labels_of(tested)
    assert score.accuracy == (guesses == truth).double().mean().item()


@pytest.mark.parametrize("settings", [LinearProbe(), SgdProbe(steps=30), "knn"])
def test_a_probe_says_what_was_done_and_learns_from_its_fraction_alone(settings):
    train, test, model = target(20), target(7, seed=1), own.built("convnet-2-w8", SHAPE, outputs=3, seed=0)
    form = features_set().input_form()
    before, generator = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.random.get_rng_state(),
    )

    def scored(source: LabelledImages):
        if settings == "knn":
            return knn(model, source, test, k=3, temperature=0.2, fraction=0.1, form=form, seed=2, device="cpu")
        return linear_probe(model, source, test, fraction=0.1, form=form, settings=settings, seed=2, device="cpu")

    score = scored(train)
    assert score.accuracy > 0.6
    assert (score.labels, score.tested, score.classes, score.fraction, score.seed) == (6, 21, 3, 0.1, 2)
    assert score.features == 32
    assert (score.mean, score.std, score.whitened) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), False)
    assert score.done == (Neighbours(k=3, temperature=0.2) if settings == "knn" else settings).words
    rows = labelled.labelled_rows(train, 0.1, seed=2)
    hidden = torch.zeros_like(train.images)
    hidden[rows] = train.images[rows]
    assert scored(replace(train, images=hidden)) == score, "images outside the fraction are not learned"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), generator)


# --- fine-tuning -------------------------------------------------------------------------------------------------


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The crop of an image's size out of the image with a black margin."""
    margin = 2
    padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)))
    top, left = margin + down, margin + right
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]


@pytest.mark.parametrize("name", ["blobs", "mnist"])
def test_fine_tuning_is_a_plain_loop_over_shifted_and_mirrored_images(name: str):
    train, test = target(8, name=name), target(5, seed=1, name=name)
    backbone = own.built(Small, SHAPE, outputs=5, seed=0)
    settings = FineTuning(steps=5, batch_size=7, learning_rate=0.05, crop=2)
    tuned = fine_tune(backbone, train, test, fraction=0.5, settings=settings, seed=4, device="cpu")
    streams = Streams(4).child("fine-tuning")
    plain = own.with_outputs(own.built(backbone, SHAPE, outputs=5, seed=0), 3, seed=streams.seed)
    rows, form = labelled.labelled_rows(train, 0.5, seed=4), InputForm.of(train)
    images, labels = train.images[rows], train.labels[rows]
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5)
    for step, batch in zip(range(5), stepping.mini_batches(12, 7, streams), strict=False):
        draw = streams.generator("views", step)
        shifts = torch.randint(-2, 3, (len(batch), 2), generator=draw).tolist()
        mirrored = (torch.rand(len(batch), generator=draw) < 0.5).tolist()
        views = [shifted(images[row].numpy(), *shift) for row, shift in zip(batch, shifts, strict=True)]
        if name == "blobs":
            views = [view[:, :, ::-1] if mirror else view for view, mirror in zip(views, mirrored, strict=True)]
        optimiser.zero_grad()
        F.cross_entropy(plain(form(torch.from_numpy(np.stack(views).copy()))), labels[batch]).backward()
        optimiser.step()
        schedule.step()
    for one, other in zip(tuned.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    right = plain(form(test.images)).argmax(1) == test.labels
    assert tuned.accuracy == tuned.score.accuracy == int(right.sum()) / 15
    assert (tuned.score.labels, tuned.score.tested, tuned.score.features) == (12, 15, None)
    assert not tuned.model.training
    assert same(backbone, own.built(Small, SHAPE, outputs=5, seed=0)), "the backbone stays as it was"


def test_shifts_reach_both_ends_and_draws_differ_by_step():
    lessons = ShiftedLessons(target(40), InputForm((0.0,) * 3, (1.0,) * 3), Streams(0), crop=1)
    source = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8).repeat(120, 1, 1, 1)
    lessons.source = replace(target(40), images=source)
    first, _ = lessons.batch(torch.arange(120), epoch=0, index=0)
    second, _ = lessons.batch(torch.arange(120), epoch=1, index=0)
    kinds = {tuple(view[0].sum(0).int().tolist()) + tuple(view[0].sum(1).int().tolist()) for view in first}
    assert len(kinds) == 9, "three shifts each way"
    assert not torch.equal(first, second)


def test_fine_tuning_keeps_batch_norms_from_single_images():
    said: list[str] = []
    model = own.built(Pooled, SHAPE, outputs=3, seed=0)
    settings = FineTuning(steps=4, batch_size=5)
    fine_tune(model, target(2), target(2, seed=1), settings=settings, device="cpu", say=said.append)
    assert said == [said[0]]
    assert said[0].startswith("Pooled: mini-batches of 4 images instead of 5")


def test_pre_training_and_fine_tuning_show_their_progress_where_they_are_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dd_core.system.progress.LINE_SECONDS", 0.0)
    settings, pictures = FineTuning(steps=3, batch_size=7), (target(4), target(2, seed=1))
    ds = features_set()
    silent = pretrain(Small, ds, device="cpu")
    plain = fine_tune(silent, *pictures, settings=settings, device="cpu").model
    assert capfd.readouterr().err == ""
    backbone = pretrain(Small, ds, device="cpu", progress=True)
    epochs = ds.manifest.recipe.epochs
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"epochs: {done} of {epochs}" for done in range(1, epochs + 1)]
    tuned = fine_tune(backbone, *pictures, settings=settings, device="cpu", progress=True).model
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"steps: {done} of 3" for done in (1, 2, 3)]
    assert same(backbone, silent)
    assert same(tuned, plain)
