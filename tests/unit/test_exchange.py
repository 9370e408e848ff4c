"""Other people's files: what goes out is what their code expects, and what comes in is what the files say."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dd_core import datasets, exchange
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.exchange import IMAGES, LABELS, RATE, SIDECAR, MttFiles
from dd_core.recipe import Recipe, ScheduledStep
from dd_core.whitening import Whitening

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
NORMALISED = Pixels(space="normalised", mean=MEAN, std=STD)
CLASSES = ("ant", "bee", "cat")


def a_set(
    *,
    dtype: str = "float32",
    space: str = "normalised",
    logits: bool = False,
    recipe: Recipe | None = None,
    **manifest: Any,
) -> DistilledSet:
    """Six 3x4x4 images of three classes, not in class order."""
    generator = np.random.default_rng(0)
    images = generator.normal(0.5, 0.3, (6, 3, 4, 4))
    images = np.rint(images.clip(0, 1) * 255).astype(np.uint8) if dtype == "uint8" else images.astype(dtype)
    labels = np.array([2, 0, 1, 1, 0, 2])
    targets = generator.normal(size=(6, 3)).astype(np.float32) if logits else None
    fields: dict[str, Any] = {"classes": CLASSES, "pixels": Pixels(space=space, mean=MEAN, std=STD), **manifest}
    recipe = recipe or Recipe(learning_rate=0.02, augmentation="flip")
    return DistilledSet(
        images, labels, Manifest(recipe=recipe, targets="logits" if logits else "none", **fields), targets
    )


def a_submission(classes: int = 100, side: int = 32, *, ipc: int = 10, **manifest: Any) -> DistilledSet:
    """Images that hold the number of their row, in an order that is not the classes'."""
    labels = np.random.default_rng(0).permutation(np.arange(classes).repeat(ipc))
    images = np.broadcast_to(
        (np.arange(len(labels)) / len(labels)).astype(np.float32)[:, None, None, None], (len(labels), 3, side, side)
    )
    names = tuple(f"class {index}" for index in range(classes))
    fields: dict[str, Any] = {"recipe": Recipe(), **manifest}
    return DistilledSet(
        images, labels, Manifest(classes=names, pixels=Pixels(space="raw", mean=MEAN, std=STD), **fields)
    )


# --- the challenge -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "classes", "side", "mean", "std"),
    [
        ("cifar100.pt", 100, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("tinyimagenet.pt", 200, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_a_submission_is_what_the_evaluator_loads(tmp_path: Path, file: str, classes: int, side: int, mean, std):
    ds = a_submission(classes, side)
    exchange.export_challenge(ds, tmp_path / "out").write()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file]
    found = torch.load(tmp_path / "out" / file, weights_only=True)
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float32
    assert found.shape == (10 * classes, 3, side, side)
    assert ds.labels is not None
    rows = (found * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)).mean((1, 2, 3)) * len(ds)
    rows = rows.round().long().numpy()
    assert (ds.labels[rows] == np.arange(len(ds)) // 10).all()
    # within a class the rows are in the order they had
    assert all((np.diff(rows[ds.labels[rows] == label]) > 0).all() for label in range(classes))


def test_a_submission_comes_back_with_the_same_pixels(tmp_path: Path):
    ds = a_submission()
    exchange.export_challenge(ds, tmp_path).write()
    for path in (tmp_path, tmp_path / "cifar100.pt"):
        back = exchange.import_challenge(path, classes=ds.classes, recipe={"epochs": 5})
        assert ds.labels is not None
        assert back.labels is not None
        order = np.argsort(ds.labels, kind="stable")
        assert np.allclose(back.raw(), ds.raw()[order], atol=1e-6)
        assert (back.labels == ds.labels[order]).all()
        assert back.classes == ds.classes
        recipe = back.manifest.recipe
        assert (recipe.network, recipe.learning_rate, recipe.epochs, recipe.batch_size) == ("convnet-3", 0.01, 5, 256)
        assert recipe.augmentation == "color_crop_cutout_flip_scale_rotate"
        assert back.manifest.pixels == exchange.pixels_like("cifar100")


def test_a_submission_says_that_learned_rates_and_augmentation_do_not_travel(tmp_path: Path):
    steps = (ScheduledStep(epoch=0, step=0, learning_rate=0.1),)
    learned = Recipe(learning_rate=0.03, augmentation="none", steps=steps, network="convnet-3", epochs=1001)
    lost = "\n".join(exchange.export_challenge(a_submission(recipe=learned), tmp_path).lost)
    assert "the learned order and rates of 1 steps" in lost
    assert "learning_rate: 0.03 -> 0.01" in lost
    assert "augmentation: 'none' -> 'color_crop_cutout_flip_scale_rotate'" in lost
    assert "'class 0' here, are the evaluator's first class" in lost
    assert "network" not in lost


def test_what_the_evaluator_does_itself_is_not_lost(tmp_path: Path):
    theirs = "color_crop_cutout_flip_scale_rotate"
    own = Recipe(network="convnet", epochs=1001, augmentation=theirs, align_corners=False)
    (names,) = exchange.export_challenge(a_submission(recipe=own), tmp_path).lost
    assert names.startswith("the names of the classes")
    # at 64 pixels `convnet` is four blocks deep, and the evaluator's is three
    tiny = exchange.export_challenge(a_submission(200, 64, recipe=own), tmp_path).lost
    assert "network: 'convnet' -> 'convnet-3'" in tiny[1]


@pytest.mark.parametrize(
    ("ds", "line"),
    [
        (lambda: a_submission(10), "and this set has 10 of 3x32x32"),
        (lambda: a_submission(100, 64), "and this set has 100 of 3x64x64"),
        (lambda: a_submission(200, 32), "and this set has 200 of 3x32x32"),
        (lambda: a_submission(ipc=9), "10 images of each class, and 'class 0' has 9"),
    ],
    ids=["classes", "side", "both", "ipc"],
)
def test_another_size_is_no_submission(ds: Callable[[], DistilledSet], line: str, tmp_path: Path):
    with pytest.raises(UserError, match=line):
        exchange.export_challenge(ds(), tmp_path)


def test_an_uneven_set_and_grey_images_are_no_submission(tmp_path: Path):
    ds = a_submission()
    assert ds.labels is not None
    uneven = ds.labels.copy()
    uneven[uneven == 7] = 8
    with pytest.raises(UserError, match="'class 7' has 0"):
        exchange.export_challenge(replace(ds, labels=uneven), tmp_path)
    grey = ds.manifest.model_copy(update={"pixels": Pixels(space="raw", mean=(0.5,), std=(0.5,))})
    with pytest.raises(UserError, match="100 of 1x32x32"):
        exchange.export_challenge(DistilledSet(ds.images[:, :1], ds.labels, grey), tmp_path)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "features"])
def test_learned_targets_cannot_be_submitted(kind: str, tmp_path: Path):
    ds = a_submission()
    soft = ds.manifest.model_copy(update={"targets": kind})
    targets = np.zeros((1000, 100), dtype=np.float32)
    with pytest.raises(UserError, match=rf"'{kind}'\) cannot be delivered"):
        exchange.export_challenge(DistilledSet(ds.images, ds.labels, soft, targets), tmp_path)


@pytest.mark.parametrize("form", ["challenge", "mtt", "sre2l"])
def test_a_set_without_labels_has_no_such_format(form: str, tmp_path: Path):
    ds = a_set()
    bare = DistilledSet(ds.images, None, ds.manifest.model_copy(update={"task": "self-supervised"}))
    with pytest.raises(UserError, match=f"format '{form}' is for classification sets, and this one is self-supervised"):
        exchange.EXPORTS[form](bare, tmp_path)


@pytest.mark.parametrize(
    ("names", "line"),
    [([], "has neither of"), (["cifar100.pt", "tinyimagenet.pt"], "has both of")],
)
def test_a_folder_must_hold_one_submission(names: list[str], line: str, tmp_path: Path):
    for name in names:
        torch.save(torch.zeros(1), tmp_path / name)
    with pytest.raises(UserError, match=line):
        exchange.import_challenge(tmp_path, classes=CLASSES)


def test_another_tensor_is_no_submission(tmp_path: Path):
    path = tmp_path / "cifar100.pt"
    torch.save(torch.zeros(999, 3, 32, 32), path)
    with pytest.raises(UserError, match=r"a submission is \(1000, 3, 32, 32\) or .*, and this is \(999, 3, 32, 32\)"):
        exchange.import_challenge(path, classes=CLASSES)
    torch.save(torch.zeros(1000, 3, 32, 32), path)
    with pytest.raises(UserError, match="holds 100 classes, and 3 are named"):
        exchange.import_challenge(path, classes=CLASSES)


# --- the MTT family ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "space"), [("float32", "normalised"), ("float32", "raw"), ("uint8", "raw")])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "logits"])
def test_a_round_trip_keeps_inputs_labels_rate_and_classes(dtype: str, space: str, soft: bool, tmp_path: Path):
    ds = a_set(dtype=dtype, space=space, logits=soft)
    exchange.export_mtt(ds, tmp_path).write()
    back = exchange.import_mtt(MttFiles.of(tmp_path), soft=soft)
    assert torch.equal(back.inputs(), ds.inputs())
    assert back.labels is not None
    assert back.manifest.recipe.learning_rate == 0.02
    assert (back.classes, back.manifest.pixels) == (CLASSES, NORMALISED)
    if soft:
        assert ds.targets is not None
        assert back.targets is not None
        assert back.manifest.targets == "logits"
        assert np.array_equal(back.targets, ds.targets)
        assert (back.labels == ds.targets.argmax(1)).all()
    else:
        assert np.array_equal(back.labels, ds.labels)


@pytest.mark.parametrize("soft", [False, True], ids=["mtt", "datm"])
def test_the_files_are_what_the_scripts_of_the_family_load(soft: bool, tmp_path: Path):
    ds = a_set(logits=soft)
    exchange.export_mtt(ds, tmp_path).write()
    assert {path.name for path in tmp_path.iterdir()} == {IMAGES, LABELS, RATE, SIDECAR}
    images, labels, rate = (torch.load(tmp_path / name, weights_only=True) for name in (IMAGES, LABELS, RATE))
    assert (images.dtype, images.shape) == (torch.float32, (6, 3, 4, 4))
    assert (labels.dtype, labels.shape) == ((torch.float32, (6, 3)) if soft else (torch.int64, (6,)))
    assert (rate.dtype, rate.shape) == (torch.float32, ())
    assert rate.item() == pytest.approx(0.02)
    said = json.loads((tmp_path / SIDECAR).read_text())
    assert said == {"space": "normalised", "mean": list(MEAN), "std": list(STD), "classes": list(CLASSES)}


def test_an_imported_set_is_trained_as_the_family_trains(tmp_path: Path):
    exchange.export_mtt(a_set(logits=True), tmp_path / "soft").write()
    exchange.export_mtt(a_set(), tmp_path / "hard").write()
    soft = exchange.import_mtt(MttFiles.of(tmp_path / "soft"), soft=True).manifest.recipe
    hard = exchange.import_mtt(MttFiles.of(tmp_path / "hard")).manifest.recipe
    assert (soft.batch_size, hard.batch_size) == (128, 256)
    for recipe in (soft, hard):
        assert (recipe.network, recipe.epochs, recipe.schedule, recipe.momentum) == ("convnet", 1001, "step", 0.9)
        assert recipe.augmentation == "color_crop_cutout_flip_scale_rotate"
    digits = exchange.import_mtt(MttFiles.of(tmp_path / "hard"), source="digits", recipe={"network": "lenet"})
    assert digits.manifest.recipe.augmentation == "color_crop_cutout_scale_rotate"
    assert digits.manifest.recipe.network == "lenet"


def test_learned_steps_leave_no_single_rate(tmp_path: Path):
    steps = (ScheduledStep(epoch=0, step=0, learning_rate=0.1), ScheduledStep(epoch=0, step=1, learning_rate=0.2))
    made = exchange.export_mtt(a_set(recipe=Recipe(steps=steps)), tmp_path)
    assert RATE not in made.files
    assert made.lost[:2] == (
        f"one learning rate for all: {RATE} is not written",
        "the learned order and rates of 2 steps",
    )
    made.write()
    with pytest.raises(UserError, match=f"no {RATE} is beside it.*lr='FILE.pt', or recipe.learning_rate=0.01"):
        exchange.import_mtt(MttFiles.of(tmp_path))
    back = exchange.import_mtt(MttFiles.of(tmp_path), recipe={"learning_rate": 0.5})
    assert back.manifest.recipe.learning_rate == 0.5


def test_labels_that_the_logits_contradict_are_counted(tmp_path: Path):
    ds = a_set(logits=True)
    assert ds.targets is not None
    other = int((ds.targets.argmax(1) != ds.labels).sum())
    assert other > 0
    assert exchange.export_mtt(ds, tmp_path).lost[0].startswith(f"{other} hard labels")


def test_probabilities_are_no_logits(tmp_path: Path):
    ds = a_set(logits=True)
    soft = replace(ds, manifest=ds.manifest.model_copy(update={"targets": "probabilities"}))
    with pytest.raises(UserError, match="stores labels or logits, and this set's targets are 'probabilities'"):
        exchange.export_mtt(soft, tmp_path)


def test_what_the_files_do_not_say_is_asked_for(tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path).write()
    (tmp_path / SIDECAR).unlink()
    files = MttFiles.of(tmp_path)
    with pytest.raises(
        UserError, match=r"images_best.pt: does not say .* right by chance only; .*like='NAME': cifar10 "
    ):
        exchange.import_mtt(files, classes=CLASSES)
    with pytest.raises(UserError, match=r"labels_best.pt: says no names of classes; give data='NAME'.*classes='a,b,c'"):
        exchange.import_mtt(files, pixels=NORMALISED)
    with pytest.raises(UserError, match="labels run to 2, and 4 classes are named"):
        exchange.import_mtt(files, pixels=NORMALISED, classes=(*CLASSES, "dog"))
    with pytest.raises(UserError, match="labels run to 2, and 2 classes are named"):
        exchange.import_mtt(files, pixels=NORMALISED, classes=CLASSES[:2])
    with pytest.raises(UserError, match="3 channels, but the normalisation has 1"):
        exchange.import_mtt(files, pixels=Pixels(space="normalised", mean=(0.5,), std=(0.5,)), classes=CLASSES)
    back = exchange.import_mtt(files, pixels=exchange.pixels_like("cifar100-mtt"), classes=CLASSES)
    assert back.manifest.pixels.mean == (0.4914, 0.4822, 0.4465)


def test_what_is_given_overrides_the_sidecar_when_it_is_to(tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path).write()
    pixels = exchange.pixels_like("imagenet", space="raw")
    back = exchange.import_mtt(MttFiles.of(tmp_path), pixels=pixels, classes=("x", "y", "z"), override=True)
    assert (back.manifest.pixels, back.classes) == (pixels, ("x", "y", "z"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"classes": ("ant", "cat", "bee")},
            "says that class 1 is 'bee', and the names that are given have 'cat' there",
        ),
        ({"classes": ("ant", "bee")}, "says that class 2 is 'cat', and the names that are given have 'nothing' there"),
        (
            {"pixels": Pixels(space="raw", mean=MEAN, std=STD)},
            "says that the pixels are normalised, and they are given",
        ),
        (
            {"pixels": Pixels(space="normalised", mean=(0.5, 0.4, 0.302), std=STD)},
            "says mean 0.5, 0.4, 0.3, and 0.5, 0.4, 0.302 is given",
        ),
        (
            {"pixels": Pixels(space="normalised", mean=MEAN, std=(0.25, 0.2, 0.302))},
            "says std 0.25, 0.2, 0.3, and 0.25, 0.2, 0.302 is given",
        ),
    ],
)
def test_what_contradicts_the_sidecar_is_refused(given: dict[str, Any], problem: str, tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path).write()
    with pytest.raises(UserError) as caught:
        exchange.import_mtt(MttFiles.of(tmp_path), **given)
    assert f"{SIDECAR}: {problem}" in str(caught.value)
    assert str(caught.value).endswith("; leave the option out, or give override=True if the file is wrong")


def test_numbers_that_are_given_may_be_rounded_and_count(tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path).write()
    pixels = Pixels(space="normalised", mean=(0.5, 0.4, 0.3005), std=STD)
    assert exchange.import_mtt(MttFiles.of(tmp_path), pixels=pixels, classes=CLASSES).manifest.pixels == pixels


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"space": "whitened"}, "images are whitened"),
        ({"std": [0.1, 0.0, 0.1]}, "std must be positive"),
        ({"std": [0.1]}, "mean has 3 channels and std 1"),
        ({"mena": [0.1]}, "mena: unknown key; did you mean 'mean'?"),
        ({"mean": [float("nan")] * 3}, "mean"),
        ("{", "not valid JSON"),
        (["a"], "normalisation.json"),
    ],
)
def test_a_sidecar_that_cannot_be_used_is_refused(change: Any, line: str, tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path).write()
    path = tmp_path / SIDECAR
    said = {**json.loads(path.read_text()), **change} if isinstance(change, dict) else change
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    with pytest.raises(UserError, match=line) as refusal:
        exchange.import_mtt(MttFiles.of(tmp_path))
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_labels_and_logits_are_told_apart(tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path / "hard").write()
    exchange.export_mtt(a_set(logits=True), tmp_path / "soft").write()
    with pytest.raises(UserError, match=r"float32 \(6, 3\), not int64 \(N,\); for logits: format='datm'"):
        exchange.import_mtt(MttFiles.of(tmp_path / "soft"))
    with pytest.raises(UserError, match=r"int64 \(6,\), not float32 \(N, K\); for hard labels: format='mtt'"):
        exchange.import_mtt(MttFiles.of(tmp_path / "hard"), soft=True)
    torch.save(torch.zeros(5, dtype=torch.int64), tmp_path / "hard" / LABELS)
    with pytest.raises(UserError, match=r"images_best.pt: .*labels are int64 \(5,\), not int64 \(6,\)"):
        exchange.import_mtt(MttFiles.of(tmp_path / "hard"))


def test_a_learned_rate_must_be_positive(tmp_path: Path):
    exchange.export_mtt(a_set(), tmp_path).write()
    torch.save(torch.tensor(-0.5, dtype=torch.float64), tmp_path / RATE)
    with pytest.raises(UserError, match=r"recipe.learning_rate: .*greater than 0 \(given: -0.5\)"):
        exchange.import_mtt(MttFiles.of(tmp_path))


def test_an_unknown_name_of_statistics_gets_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match="unknown statistics 'cifar-100'; did you mean 'cifar100'"):
        exchange.pixels_like("cifar-100")


def test_files_are_read_from_a_folder(tmp_path: Path):
    with pytest.raises(UserError, match="not a folder with"):
        MttFiles.of(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"images_best.pt: No such file"):
        exchange.import_mtt(MttFiles.of(tmp_path), pixels=NORMALISED, classes=CLASSES, recipe={"learning_rate": 0.1})


@pytest.mark.parametrize("space", ["raw", "whitened"])
def test_whitened_inputs_go_out_as_such_and_do_not_come_back(space: str, tmp_path: Path):
    whitening = Whitening(np.full(48, 0.5, np.float32), 2 * np.eye(48, dtype=np.float32))
    own = a_set()
    pixels = Pixels(space=space, mean=(0.0,) * 3, std=(1.0,) * 3)
    ds = replace(own, manifest=own.manifest.model_copy(update={"pixels": pixels}), whitening=whitening)
    made = exchange.export_mtt(ds, tmp_path)
    assert made.lost[0].startswith("the whitening: ")
    made.write()
    expected = own.images if space == "whitened" else 2 * (own.images - 0.5)
    assert np.allclose(torch.load(tmp_path / IMAGES, weights_only=True).numpy(), expected, atol=1e-6)
    with pytest.raises(UserError, match=r"normalisation.json: the images are whitened \(ZCA\)"):
        exchange.import_mtt(MttFiles.of(tmp_path))
    assert "the whitening" in exchange.export_png(ds, tmp_path).lost


# --- images in folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_images_reads_back(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (10, channels, 5, 4), dtype=np.uint8)
    pixels = Pixels(space="raw", mean=(0.5,) * channels, std=(0.5,) * channels)
    manifest = Manifest(classes=("a cat", "dog"), pixels=pixels, recipe=Recipe())
    ds = DistilledSet(images, np.array([0, 1] * 5), manifest)
    # the set is the training images, and real ones are the test images
    exchange.export_png(ds, tmp_path / "data" / "train").write()
    exchange.export_png(ds, tmp_path / "data" / "test").write()
    found = sorted(path.relative_to(tmp_path / "data/train") for path in (tmp_path / "data/train").rglob("*.*"))
    assert found == [Path(f"{name}/{index:05d}.png") for name in ("a cat", "dog") for index in range(5)]
    source = datasets.load(f"folder:{tmp_path / 'data'}")
    assert source.classes == ds.classes
    assert source.image_shape == (channels, 5, 4)
    order = np.argsort(np.array([0, 1] * 5), kind="stable")
    assert np.array_equal(source.take(torch.arange(10)).numpy(), images[order])


def test_floats_are_rounded_and_what_is_lost_is_counted(tmp_path: Path):
    from PIL import Image

    images = np.full((2, 1, 1, 3), 0.5, dtype=np.float32)
    images[0, 0, 0] = [-0.5, 1.001, 2.0]
    steps = (ScheduledStep(epoch=0, step=0, learning_rate=0.1),)
    manifest = Manifest(
        classes=("b", "a", "nobody"),
        pixels=Pixels(space="raw", mean=(0.5,), std=(0.5,)),
        recipe=Recipe(steps=steps),
        targets="logits",
    )
    made = exchange.export_png(DistilledSet(images, np.array([0, 1]), manifest, np.zeros((2, 3), np.float32)), tmp_path)
    with Image.open(io.BytesIO(made.files["b/00000.png"])) as image:
        assert (image.mode, np.asarray(image).tolist()) == ("L", [[0, 255, 255]])
    with Image.open(io.BytesIO(made.files["a/00000.png"])) as image:
        assert np.asarray(image).tolist() == [[128, 128, 128]]
    assert set(made.files) == {"a/00000.png", "b/00000.png"}
    lost = "\n".join(made.lost)
    # 1.001 rounds to 255 without being clipped
    assert "2 of 6 values outside [0, 1]" in lost
    assert "the targets ('logits') of 2 images" in lost
    assert "1 learned steps" in lost
    assert "1 classes without an image" in lost
    assert "the order of the classes" in lost


def test_bytes_lose_nothing_by_being_bytes(tmp_path: Path):
    (recipe,) = exchange.export_png(a_set(dtype="uint8", space="raw"), tmp_path).lost
    assert recipe == "the recipe (learning rate 0.02, augmentation 'flip'), and the mean and std of its inputs"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "cannot be a folder") for name in ("", ".", "..", "a/b", "/etc", "two\nlines", "nul\0", "\ud800")),
        ("é" * 128, "cannot be a folder"),
        *((name, "folder:PATH passes over such folders") for name in (".hidden", "__MACOSX", "Lost+Found")),
        ("cafe\u0301", "'cafe.u0301' is not in Unicode's composed form"),
    ],
)
def test_a_class_that_cannot_be_a_folder_is_refused(name: str, reason: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"{reason}.*; give it another name first") as refusal:
        exchange.export_png(a_set(classes=("ant", name, "cat")), tmp_path)
    assert "\n" not in str(refusal.value)


def test_two_classes_of_one_name_and_other_channels_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="two classes are called 'ant'"):
        exchange.export_png(a_set(classes=("ant", "bee", "ant")), tmp_path)
    pixels = Pixels(space="raw", mean=(0.5, 0.5), std=(0.5, 0.5))
    manifest = Manifest(classes=("a", "b"), pixels=pixels, recipe=Recipe())
    with pytest.raises(UserError, match="1 or 3 channels, and these images have 2"):
        exchange.export_png(DistilledSet(np.zeros((2, 2, 4, 4), np.uint8), np.array([0, 1]), manifest), tmp_path)


# --- writing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mtt", "png"])
def test_the_same_again_changes_nothing_and_another_set_is_refused(form: str, tmp_path: Path):
    out, other = tmp_path / "out", a_set(space="raw")
    exchange.EXPORTS[form](a_set(), out).write()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    contents = {path: path.read_bytes() for path in before if path.is_file()}
    exchange.EXPORTS[form](a_set(), out).write()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UserError, match="something else is there; use another out, or fresh=True to replace it"):
        exchange.EXPORTS[form](other, out).write()
    assert {path: path.read_bytes() for path in contents} == contents
    exchange.EXPORTS[form](other, out).write(fresh=True)
    assert {path: path.read_bytes() for path in contents} != contents


def test_a_part_that_a_kill_left_is_completed(tmp_path: Path):
    made = exchange.export_mtt(a_set(), tmp_path)
    made.write()
    (tmp_path / LABELS).unlink()
    (tmp_path / f".{LABELS}.1.tmp").write_bytes(b"half")
    made.write()
    assert (tmp_path / LABELS).read_bytes() == made.files[LABELS]


@pytest.mark.parametrize("form", ["mtt", "png"])
def test_a_file_that_would_seem_to_be_the_sets_is_never_left_beside_it(form: str, tmp_path: Path):
    stale = tmp_path / "ant" / "00099.png"
    stale.parent.mkdir()
    stale.write_bytes(b"mine")
    for fresh in (False, True):
        with pytest.raises(UserError, match="is no file of this set, but would be read as one") as refusal:
            exchange.EXPORTS[form](a_set(), tmp_path).write(fresh=fresh)
        assert str(refusal.value).startswith(str(stale))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [stale]
    assert stale.read_bytes() == b"mine"


def test_a_submission_goes_beside_the_other_one(tmp_path: Path):
    (tmp_path / "tinyimagenet.pt").write_bytes(b"the other")
    exchange.export_challenge(a_submission(), tmp_path).write()
    assert {path.name for path in tmp_path.iterdir()} == {"cifar100.pt", "tinyimagenet.pt"}


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(UserError, match="is a file; for this format out is a folder"):
        exchange.export_mtt(a_set(), tmp_path / "out").write()


# --- files of strangers --------------------------------------------------------------------------------------


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], bytes] = lambda name, content: content, **how: Any) -> bytes:
    """The archive with each record changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", **how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def with_pickle(replace_with: Callable[[bytes], bytes]) -> bytes:
    return repacked(GOOD, lambda name, content: replace_with(content) if name.endswith("data.pkl") else content)


class _Code:
    def __reduce__(self):
        return os.system, ("touch executed",)


GOOD = saved(torch.zeros(4, 1, 2, 2))
SHAPE, STRIDES = b"(K\x04K\x01K\x02K\x02t", b"(K\x04K\x04K\x02K\x01t"
HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2^40
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "no zip archive"),
    "text": (lambda: b"hello", "no zip archive"),
    "a bare pickle of code": (lambda: pickle.dumps(_Code()), "no zip archive"),
    "an old file of torch": (
        lambda: (torch.save(torch.zeros(4, 1, 2, 2), b := io.BytesIO(), _use_new_zipfile_serialization=False), b)[
            1
        ].getvalue(),
        "no zip archive",
    ),
    "cut short": (lambda: GOOD[:-100], "damaged"),
    "cut in the middle": (lambda: GOOD[: len(GOOD) // 2], "damaged"),
    "one bit of a value": (
        lambda: saved(torch.full((4, 1, 2, 2), 1.5)).replace(b"\0\0\xc0\x3f", b"\0\0\xc1\x3f", 1),
        "it is damaged: the checksum of its record 'archive/data/0' does not match",
    ),
    "code": (lambda: with_pickle(lambda _: pickle.dumps(_Code(), protocol=2)), "its pickle names 'posix system'"),
    "code in a newer pickle": (lambda: with_pickle(lambda _: pickle.dumps(_Code(), protocol=4)), "its pickle names"),
    "a call that torch allows": (
        lambda: with_pickle(lambda _: b"\x80\x02cbuiltins\nbytearray\n" + HUGE + b"\x85R."),
        "its pickle names 'builtins bytearray'",
    ),
    "a pickle that is none": (lambda: with_pickle(lambda _: b"\xff\xff"), "damaged"),
    "a pickle too long": (
        lambda: with_pickle(lambda content: content + b"0" * 5000),
        "its pickle is missing, or longer",
    ),
    "a larger shape": (
        lambda: with_pickle(lambda p: p.replace(SHAPE, SHAPE.replace(b"K\x04", HUGE))),
        "which its 64 bytes",
    ),
    "a larger shape of stride zero": (
        lambda: with_pickle(
            lambda p: p.replace(SHAPE, SHAPE.replace(b"K\x04", HUGE)).replace(STRIDES, b"(K\0K\0K\0K\0t")
        ),
        "which its 64 bytes",
    ),
    "a larger storage": (
        lambda: with_pickle(lambda p: p.replace(b"cpuq\x04K\x10", b"cpuq\x04" + HUGE)),
        "which its 64 bytes",
    ),
    "a smaller record": (
        lambda: repacked(GOOD, lambda name, content: content[:8] if name.endswith("data/0") else content),
        "which its 8 bytes",
    ),
    "a compressed record": (lambda: repacked(saved(torch.zeros(1000)), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "many records": (
        lambda: repacked(saved([torch.zeros(1) for _ in range(100)])),
        "more records than a tensor needs",
    ),
    "several tensors": (lambda: saved({"a": torch.zeros(1), "b": torch.zeros(1)}), "holds 2 tensors"),
    "no tensor": (lambda: saved([1, 2]), "holds 0 tensors"),
    "a list": (lambda: saved([torch.zeros(1)]), "it is a list"),
    "other numbers": (
        lambda: saved(torch.zeros(4, 1, 2, 2, dtype=torch.float64)),
        r"it is float64 \(4, 1, 2, 2\), not float32",
    ),
    "integers": (lambda: saved(torch.zeros(4, 1, 2, 2, dtype=torch.int32)), "it is int32"),
    "another shape": (lambda: saved(torch.zeros(4, 2, 2)), r"it is float32 \(4, 2, 2\), not float32 \(N, C, H, W\)"),
    "no images": (lambda: saved(torch.zeros(0, 1, 2, 2)), r"it is float32 \(0, 1, 2, 2\)"),
    "no number": (lambda: saved(torch.full((4, 1, 2, 2), torch.nan)), "holds a value that is not finite"),
    "infinity": (lambda: saved(torch.full((4, 1, 2, 2), torch.inf)), "holds a value that is not finite"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_tensor_of_images_is_refused_in_one_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make, line = HOSTILE[what]
    path = tmp_path / "cifar100.pt"
    path.write_bytes(make())
    with pytest.raises(UserError, match=line) as refusal:
        exchange.import_challenge(path, classes=CLASSES)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "executed").exists()


def test_a_tensor_that_was_being_learned_is_read(tmp_path: Path):
    path = tmp_path / "images.pt"
    learned = torch.nn.Parameter(torch.ones(6, 3, 4, 4))
    for value in (
        learned,
        learned.detach().requires_grad_(),
        torch.ones(9, 3, 4, 4)[:6],
        torch.ones(4, 4, 3, 6).permute(3, 2, 1, 0),
    ):
        torch.save(value, path)
        files = MttFiles(path, tmp_path / "labels.pt")
        torch.save(torch.tensor([2, 0, 1, 1, 0, 2]), files.labels)
        ds = exchange.import_mtt(files, pixels=NORMALISED, classes=CLASSES, recipe={"learning_rate": 0.1})
        assert (ds.images == 1).all()


def test_a_file_is_as_large_as_it_may_be_and_a_file(tmp_path: Path):
    path = tmp_path / "cifar100.pt"
    with open(path, "wb") as file:
        file.truncate(2**30 + 1)  # of holes: it takes no room
    with pytest.raises(UserError, match="has 1,073,741,825 bytes, and 1,073,741,824 is the limit"):
        exchange.import_challenge(path, classes=CLASSES)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no regular file"):
        exchange.import_challenge(path, classes=CLASSES)
