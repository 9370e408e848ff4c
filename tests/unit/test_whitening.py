"""ZCA whitening: the fit, its artefact, sets that carry it, and networks that are fed through it."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_core import store, zca
from dd_core.artefacts import Artefact, Resources
from dd_core.artefacts import get as get_artefact
from dd_core.datasets import load
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.evaluation import evaluate
from dd_core.evaluation.neighbours import NearestNeighbours
from dd_core.images import InputForm, LabelledImages
from dd_core.recipe import Pretraining, Recipe, StartingPool
from dd_core.selection import labels_of, random_indices
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages
from dd_core.testing import blobs
from dd_core.training import TrainingData, fit, train
from dd_core.whitening import LARGEST, Whitening

CPU = torch.device("cpu")
RECIPE = Recipe(network="convnet-1-w8-nonorm", epochs=40, learning_rate=0.1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    source = load("digits", split="train")
    return source.subset(torch.arange(0, len(source), 2))


@pytest.fixture(scope="module")
def whitening(digits: LabelledImages) -> Whitening:
    return zca.fit(digits)


def manifest(space: str, source: LabelledImages, recipe: Recipe = RECIPE) -> Manifest:
    channels = source.image_shape[0]
    pixels = Pixels(space=space, mean=(0.0,) * channels, std=(1.0,) * channels)
    return Manifest(classes=source.classes, pixels=pixels, recipe=recipe)


@pytest.fixture
def real(digits: LabelledImages, whitening: Whitening) -> DistilledSet:
    """Twenty real images, raw bytes, whose networks want them whitened."""
    chosen = random_indices(digits, [2] * 10, streams=Streams(3), stream="random")
    images, labels = digits.take(chosen).numpy(), labels_of([2] * 10).numpy()
    return DistilledSet(images, labels, manifest("raw", digits), whitening=whitening)


@pytest.fixture
def ds(digits: LabelledImages, real: DistilledSet) -> DistilledSet:
    """The same images in whitened space."""
    assert real.whitening is not None
    images = real.whitening.apply(real.raw())
    return DistilledSet(images, real.labels, manifest("whitened", digits), whitening=real.whitening)


# --- the fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 0.001])
def test_the_fit_is_that_of_the_formula(digits: LabelledImages, epsilon: float):
    rows = digits.images.numpy().reshape(len(digits), -1) / 255
    values, axes = np.linalg.eigh(np.cov(rows, rowvar=False))
    found = zca.fit(digits, epsilon=epsilon)
    assert np.allclose(found.offset, rows.mean(0), atol=1e-6)
    assert np.allclose(found.matrix, axes @ np.diag((values + epsilon) ** -0.5) @ axes.T, atol=1e-5)
    assert np.array_equal(found.matrix, found.matrix.T)


def test_whitened_images_are_centred_and_no_direction_varies_by_more_than_one(
    digits: LabelledImages, whitening: Whitening
):
    """Their covariance is U diag(s / (s + epsilon)) U^T: near 1 where the images vary much, near 0 where little."""
    flat = InputForm.of(digits, whitening)(digits.images).flatten(1).double().numpy()
    values, axes = np.linalg.eigh(np.cov(digits.images.numpy().reshape(len(digits), -1) / 255, rowvar=False))
    assert np.allclose(flat.mean(0), 0, atol=1e-5)
    assert np.allclose(np.cov(flat, rowvar=False), axes @ np.diag(values / (values + 0.1)) @ axes.T, atol=1e-5)


def test_the_fit_does_not_depend_on_how_images_are_batched(monkeypatch: pytest.MonkeyPatch, digits: LabelledImages):
    whole = zca.fit(digits)
    monkeypatch.setattr(zca, "_BATCH", 7)
    assert np.array_equal(zca.fit(digits).matrix, whole.matrix)
    assert np.array_equal(zca.fit(digits).offset, whole.offset)


def test_a_constant_image_can_be_whitened():
    grey = LabelledImages(
        torch.full((4, 3, 2, 2), 100, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("a",), "g"
    )
    found = zca.fit(grey)
    assert np.allclose(found.matrix, 0.1**-0.5 * np.eye(12), rtol=1e-6)
    assert not InputForm.of(grey, found)(grey.images).abs().max() > 1e-6


def large(side: int) -> LabelledImages:
    return LabelledImages(torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.tensor([0, 0]), ("a",), "tiny")


def test_what_cannot_be_fitted_is_refused_in_one_line(digits: LabelledImages):
    message = (
        "whitening takes images of up to 3072 numbers (3 x 32 x 32), and those of tiny have 12288: "
        "the matrix would take 604 MB"
    )
    for refused in (zca.fit, zca.spec_of, zca.of):
        with pytest.raises(UserError) as caught:
            refused(large(64))
        assert str(caught.value) == message
    zca.check_source(large(32))
    with pytest.raises(UserError, match="digits has 1 image, and a covariance needs 2"):
        zca.fit(digits.subset(torch.tensor([0])))
    for epsilon in (0.0, -0.1):
        with pytest.raises(UserError, match="whitening: epsilon must be positive"):
            zca.fit(digits, epsilon=epsilon)


# --- the artefact --------------------------------------------------------------------------------------------


def test_a_whitening_is_fitted_once_and_found_again(digits: LabelledImages, whitening: Whitening, cache: Path):
    said: list[str] = []
    first = zca.of(digits, reporter=Messages(said.append))
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("part-*")}
    again = zca.of(digits, reporter=Messages(said.append))
    assert len(files) == len(said) == 1
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("part-*")} == files
    for found in (first, again):
        assert np.array_equal(found.matrix, whitening.matrix)
        assert np.array_equal(found.offset, whitening.offset)


def test_its_name_says_what_it_is_made_of_and_other_images_are_not_taken_for_them(digits: LabelledImages):
    specs = [zca.spec_of(digits), zca.spec_of(digits, epsilon=0.2), zca.spec_of(blobs())]
    assert len({spec.digest() for spec in specs}) == 3
    with pytest.raises(UserError, match=r"images with the fingerprint [0-9a-f]{12}\.\.\., not at hand"):
        get_artefact(specs[0], resources=Resources.of([blobs()]))
    made = get_artefact(specs[2], resources=Resources.of([digits, blobs()]), workers=Workers(count=2))
    assert isinstance(made, Artefact)
    assert np.array_equal(zca.whitening_in(made).matrix, zca.fit(blobs()).matrix)


# --- the value -----------------------------------------------------------------------------------------------


def test_undoing_gives_the_images_back(digits: LabelledImages, whitening: Whitening):
    raw = digits.images[:50].numpy().astype(np.float32) / 255
    assert np.abs(whitening.undo(whitening.apply(raw)) - raw).max() < 1e-5
    beyond = 3 * raw - 1
    assert np.abs(whitening.undo(whitening.apply(beyond)) - beyond).max() < 1e-5


def test_the_arrays_are_read_only_and_a_pickle_holds_no_more_than_them(whitening: Whitening):
    with pytest.raises(ValueError, match="read-only"):
        whitening.matrix[0] = 1
    whitening.undo(np.zeros((1, 1, 8, 8), np.float32))
    assert len(pickle.dumps(whitening)) < whitening.nbytes + 1000
    assert np.array_equal(pickle.loads(pickle.dumps(whitening)).matrix, whitening.matrix)


ONES, EYE = np.ones(3, np.float32), np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("offset", "matrix", "message"),
    [
        (ONES.astype(np.float64), EYE, "not float32"),
        (ONES, EYE[:2], r"float32 \(3,\) and float32 \(2, 3\), not float32 \(D,\) and \(D, D\)"),
        (EYE, EYE, "not float32"),
        (np.zeros(0, np.float32), np.zeros((0, 0), np.float32), "D from 1 to 3072"),
        (ONES * np.nan, EYE, "not finite"),
        (ONES, np.triu(EYE + 0.1).astype(np.float32), "not symmetric"),
        (ONES, -EYE, "not positive definite"),
        (ONES, np.ones((3, 3), np.float32), "not positive definite"),
        (ONES, np.diag([1, 1, 1e-9]).astype(np.float32), "not positive definite"),
        (ONES, EYE * np.float32(1e20), "at most 1e12"),
    ],
)
def test_what_is_no_whitening_is_refused(offset: np.ndarray, matrix: np.ndarray, message: str):
    with pytest.raises(UserError, match=message):
        Whitening(offset, matrix)


def test_a_matrix_that_is_too_large_is_refused_before_it_is_looked_at():
    size = LARGEST + 1
    with pytest.raises(UserError, match="D from 1 to 3072"):
        Whitening(np.zeros(size, np.float32), np.broadcast_to(np.float32(1), (size, size)))


# --- real images -----------------------------------------------------------------------------------------------


def test_a_form_whitens_survives_pickling_and_copies_the_matrix_once(
    digits: LabelledImages, whitening: Whitening, monkeypatch: pytest.MonkeyPatch
):
    form = InputForm.of(digits, whitening)
    expected = form(digits.images[:5])
    assert np.allclose(expected.numpy(), whitening.apply(digits.images[:5].numpy() / np.float32(255)), atol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", _no_more_than_scalars(torch.tensor))
        assert torch.equal(form(digits.images[:5]), expected)
    again = pickle.loads(pickle.dumps(form))
    assert torch.equal(again(digits.images[:5]), expected)
    assert len(pickle.dumps(form)) < whitening.nbytes + 1000


def _no_more_than_scalars(original):
    def tensor(data, **options):
        assert not isinstance(data, np.ndarray), "an array was copied to the device again"
        return original(data, **options)

    return tensor


def test_without_a_whitening_a_form_normalises(digits: LabelledImages):
    form = InputForm.of(digits)
    assert (form.mean, form.std) == digits.channel_stats()
    assert form(digits.images).mean().abs() < 1e-5
    assert form(digits.images).std().item() == pytest.approx(1, abs=1e-3)


# --- sets ------------------------------------------------------------------------------------------------------


def test_raw_bytes_and_whitened_floats_are_the_same_input_as_real_images(ds: DistilledSet, real: DistilledSet):
    assert torch.equal(ds.inputs(), torch.tensor(ds.images))
    assert torch.allclose(real.inputs(), ds.inputs(), atol=1e-6)
    assert torch.allclose(real.input_form()(torch.tensor(real.images)), ds.inputs(), atol=1e-5)
    assert np.allclose(ds.raw(), real.raw(), atol=1e-5)


def test_quantising_leaves_the_networks_input_what_it_was(ds: DistilledSet, real: DistilledSet):
    small = ds.quantised()
    assert np.array_equal(small.images, real.images)
    assert (small.manifest.pixels.space, small.whitening) == ("raw", ds.whitening)
    assert torch.allclose(small.inputs(), ds.inputs(), atol=1e-5)
    assert (small.nbytes, ds.nbytes) == (20 * 64, 20 * 64 * 4)


def test_half_precision_is_whitened_space_too(ds: DistilledSet):
    half = replace(ds, images=ds.images.astype(np.float16))
    assert torch.allclose(half.inputs(), ds.inputs(), atol=5e-3)
    assert np.allclose(half.raw(), ds.raw(), atol=5e-3)


PRETRAINED = Recipe(
    initialisation="pretrained", weights=StartingPool(distribution="default", count=1, pretraining=Pretraining())
)


def test_sets_that_do_not_fit_their_whitening_are_refused(ds: DistilledSet, real: DistilledSet, digits: LabelledImages):
    small = Whitening(np.zeros(16, np.float32), np.eye(16, dtype=np.float32))
    pixels = Pixels(space="normalised", mean=(0.0,), std=(1.0,))
    scaled = Pixels(space="raw", mean=(0.5,), std=(1.0,))
    for one, changes, message in (
        (ds, {"whitening": None}, "the pixels are whitened, and the set has no whitening"),
        (ds, {"whitening": small}, r"the whitening is not float32 \(64,\) and \(64, 64\)"),
        (ds, {"images": real.images}, "uint8 pixels cannot be whitened ones"),
        (ds, {"manifest": ds.manifest.model_copy(update={"pixels": pixels})}, "raw or whitened pixels, mean 0 and std"),
        (real, {"manifest": real.manifest.model_copy(update={"pixels": scaled})}, "raw or whitened pixels, mean 0"),
        (ds, {"manifest": manifest("whitened", digits, PRETRAINED)}, "pre-trained on normalised images"),
        (real, {"manifest": manifest("raw", digits, PRETRAINED)}, "pre-trained on normalised images"),
    ):
        with pytest.raises(UserError, match=message):
            replace(one, **changes)
    for mean, std in (((0.1,), (1.0,)), ((0.0,), (0.5,))):
        with pytest.raises(UserError, match="whitened pixels have mean 0 and std 1"):
            Pixels(space="whitened", mean=mean, std=std)


def test_a_set_comes_back_from_disk_whole(ds: DistilledSet, real: DistilledSet, tmp_path: Path):
    for one in (ds, real, ds.quantised()):
        store.write_set(tmp_path / "s.safetensors", one)
        back = store.read_set(tmp_path / "s.safetensors")
        assert back.manifest == one.manifest
        assert torch.equal(back.inputs(), one.inputs())
        assert back.whitening is not None
        assert np.array_equal(back.whitening.matrix, one.whitening.matrix)
        assert np.array_equal(back.whitening.offset, one.whitening.offset)
        assert store.set_bytes(back) == store.set_bytes(one)


@pytest.mark.parametrize(
    ("space", "sha256"),
    [
        ("raw", "d3c452c01e59cb33ae8a8d5e377ee37fa16a8d485c352b805bab4cad54d318a7"),
        ("normalised", "147486f1e66c00f10a39c25483d827e38ddb971091da05ac2d9d22eff425d6a6"),
    ],
)
def test_the_bytes_of_a_set_without_whitening_are_known_and_say_nothing_of_any(space: str, sha256: str):
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2) / 8
    pixels = Pixels(space=space, mean=(0.5,), std=(0.25,))
    plain = Manifest(classes=("a", "b"), pixels=pixels, recipe=Recipe(network="lenet"))
    data = store.set_bytes(DistilledSet(images, np.array([0, 1]), plain))
    assert hashlib.sha256(data).hexdigest() == sha256


READ = """
import json, sys
from pathlib import Path
from dd_apps.cli import main
from dd_core import store
ds = store.read_set(Path(sys.argv[1]))
bytes_of = ds.quantised().images.tobytes()
codes = [main(["inspect", sys.argv[1], "--png", sys.argv[2]]), main(["verify", sys.argv[1]])]
print(json.dumps([codes, bytes_of.hex(), "torch" in sys.modules]))
"""


def test_a_whitened_set_is_read_shown_and_drawn_without_torch(ds: DistilledSet, real: DistilledSet, tmp_path: Path):
    path, picture = tmp_path / "s.safetensors", tmp_path / "s.png"
    store.write_set(path, ds)
    command = [sys.executable, "-c", READ, str(path), str(picture)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "whitened" in output
    assert "ZCA, 16.2 KiB" in output
    assert json.loads(output.splitlines()[-1]) == [[0, 0], real.images.tobytes().hex(), False]
    assert picture.exists()


# --- networks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> tuple[LabelledImages, LabelledImages]:
    source = load("digits", split="train")
    return source.split(0.2, 0)


def by_hand(data: TrainingData, test: LabelledImages, whitening: Whitening, seed: int) -> float:
    """The accuracy of one network, fed with images whitened by numpy."""
    model = fit(data, RECIPE.network, RECIPE, streams=Streams(seed), device=CPU)
    with torch.no_grad():
        guesses = model(torch.tensor(whitening.apply(test.images.numpy() / np.float32(255)))).argmax(1)
    return float((guesses == test.labels).float().mean())


def twins(train: LabelledImages, whitening: Whitening, streams: Streams, count: int) -> Iterator[TrainingData]:
    """What networks `0 .. count-1` are to be compared with, whitened by numpy."""
    for index in range(count):
        chosen = random_indices(train, [2] * 10, streams=streams.child("twin", index), stream="random")
        inputs = whitening.apply(train.take(chosen).numpy() / np.float32(255))
        yield TrainingData(torch.tensor(inputs), labels_of([2] * 10), None, 10)


def test_an_evaluation_is_training_on_images_whitened_by_hand(ds: DistilledSet, split):
    train_images, test = split
    assert ds.whitening is not None
    result = evaluate(ds, train=train_images, test=test, nets=2, seed=4, device="cpu")
    streams = Streams(4)
    seeds = [streams.child("network", index).seed for index in range(2)]
    ours = TrainingData(torch.tensor(ds.images), torch.tensor(ds.labels), None, 10)
    real = twins(train_images, ds.whitening, streams, 2)
    assert result.accuracy.per_network == pytest.approx(
        [by_hand(ours, test, ds.whitening, s) for s in seeds], abs=0.004
    )
    assert result.random_real.per_network == pytest.approx(
        [by_hand(data, test, ds.whitening, seed) for data, seed in zip(real, seeds, strict=True)], abs=0.004
    )
    assert result.random_real.mean > 0.4
    together = evaluate(ds, train=train_images, test=test, nets=2, seed=4, device="cpu", workers=Workers(count=2))
    assert together == result


def test_neighbours_are_near_in_whitened_space(ds: DistilledSet, split):
    train_images, test = split
    result = evaluate(ds, train=train_images, test=test, nets=1, protocol="knn", device="cpu")
    setting = {name: int(result.chosen["accuracy"][name]) for name in ("k", "p")}
    data = TrainingData(torch.tensor(ds.images), torch.tensor(ds.labels), None, 10)
    guesses = NearestNeighbours(data, **setting)(ds.input_form()(test.images)).argmax(1)
    assert result.accuracy.mean == pytest.approx(float((guesses == test.labels).float().mean()))


def test_networks_pretrained_on_normalised_images_are_refused(ds: DistilledSet, split):
    train_images, test = split
    message = "the set is whitened: networks are pre-trained on normalised images, and would meet whitened ones"
    with pytest.raises(UserError) as caught:
        evaluate(ds, train=train_images, test=test, nets=1, start="pretrained")
    assert str(caught.value) == message
    with pytest.raises(UserError) as caught:
        train(ds, recipe=PRETRAINED, pretrain_on=train_images)
    assert str(caught.value) == message
