"""Multi-formation: what networks see of a stored image, and who is told so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dd_apps.transfer.drawing import as_source
from dd_apps.transfer.pretraining import pretrain
from dd_core import formation, store
from dd_core.config import canonical
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.errors import UserError
from dd_core.evaluation import checks, evaluate, protocols, twins
from dd_core.evaluation.relabelling import relabel
from dd_core.evaluation.twins import HardLabels
from dd_core.exchange import export_mtt, export_png, export_sre2l
from dd_core.exchange.mtt_files import IMAGES, LABELS
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.synthetic import Synthetic
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import training_data
from dd_core.training.lessons import lessons_of
from dd_core.training.teacher_config import TeacherConfig
from dd_core.whitening import Whitening

MEAN, STD = (0.3, 0.6), (0.2, 0.25)


def a_set(
    factor: int = 2,
    *,
    space: str = "normalised",
    dtype: str = "float32",
    size: tuple[int, int] = (6, 6),
    seed: int = 0,
    whitening: Whitening | None = None,
    logits: bool = False,
) -> DistilledSet:
    """Three images of two channels with the labels 0, 0, 1."""
    values = np.random.default_rng(seed).random((3, 2, *size))
    images = (values * 255).astype(np.uint8) if dtype == "uint8" else values.astype(dtype)
    mean, std = ((0.0, 0.0), (1.0, 1.0)) if whitening is not None else (MEAN, STD)
    manifest = Manifest(
        classes=("a", "b"),
        pixels=Pixels.model_validate({"space": space, "mean": mean, "std": std}),
        targets="logits" if logits else "none",
        formation=factor,
        recipe=Recipe(epochs=2),
    )
    targets = np.arange(6, dtype=np.float32).reshape(3, 2) if logits else None
    return DistilledSet(images, np.array([0, 0, 1]), manifest, targets, whitening)


def reference(images: torch.Tensor, factor: int, grey: float) -> torch.Tensor:
    """IDC's decoding, a tile at a time, by torch's own interpolation."""
    _, _, height, width = images.shape
    rows, columns = -(-height // factor), -(-width // factor)
    whole = F.pad(images, (0, factor * columns - width, 0, factor * rows - height), value=grey)
    parts = []
    for i in range(factor):
        for j in range(factor):
            tile = whole[:, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            parts.append(F.interpolate(tile, size=(height, width), mode="bilinear", align_corners=False))
    return torch.cat(parts)


@pytest.mark.parametrize(("factor", "size"), [(2, (8, 8)), (3, (8, 10)), (2, (7, 5)), (5, (9, 9)), (1, (4, 4))])
def test_decoding_is_that_of_idc_with_its_gradient(factor: int, size: tuple[int, int]):
    form = InputForm(MEAN, STD)
    images = Synthetic(torch.rand(3, 2, *size), torch.tensor([0, 0, 1]), form, formation=factor)
    pixels = images.pixels.detach().double().requires_grad_()
    ours = images.decode(pixels)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    theirs = (reference(pixels * std + mean, factor, 0.5) - mean) / std
    assert ours.shape == (3 * factor**2, 2, *size)
    assert images.seen_labels.tolist() == [0, 0, 1] * factor**2
    assert torch.allclose(ours, theirs, atol=1e-6)
    weights = torch.rand_like(ours)
    (mine,) = torch.autograd.grad((ours * weights).sum(), pixels)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), pixels)
    assert torch.allclose(mine, expected, atol=1e-6)
    exported = images.export(Recipe(), classes=("a", "b"))
    assert torch.allclose(exported.inputs(), images.decode(images.pixels.detach()), atol=1e-5)
    labels = exported.decoded().labels
    assert labels is not None
    assert labels.tolist() == images.seen_labels.tolist()


@pytest.mark.parametrize(("space", "dtype"), [("normalised", "float32"), ("raw", "float32"), ("raw", "uint8")])
def test_networks_are_fed_decoded_images_that_are_completed_with_grey(space: str, dtype: str):
    """7 pixels a side make tiles of 4: the last ones are completed with raw 0.5, whatever the pixels are."""
    ds = a_set(space=space, dtype=dtype, size=(7, 7))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    raw = torch.tensor(ds.images).double() / (255 if dtype == "uint8" else 1)
    raw = raw * std + mean if space == "normalised" else raw
    expected = (reference(raw, 2, 0.5) - mean) / std
    assert ds.inputs().shape == (12, 2, 7, 7)
    assert torch.allclose(ds.inputs().double(), expected, atol=1e-5)
    assert np.allclose(ds.decoded().raw(), reference(raw, 2, 0.5).numpy(), atol=1e-5)


def test_a_tile_is_enlarged_before_it_is_whitened():
    size = 2 * 6 * 6
    matrix = np.random.default_rng(1).random((size, size)).astype(np.float32)
    matrix = (matrix @ matrix.T + np.eye(size, dtype=np.float32)) / size
    matrix = (matrix + matrix.T) / 2
    whitening = Whitening(np.full(size, 0.4, dtype=np.float32), matrix)
    ds = a_set(space="raw", whitening=whitening)
    decoded = reference(torch.tensor(ds.images), 2, 0.5).flatten(1).double()
    expected = (decoded - 0.4) @ torch.from_numpy(matrix).double()
    assert torch.allclose(ds.inputs().flatten(1).double(), expected, atol=1e-4)


def test_labels_and_targets_are_those_of_the_stored_image_tile_after_tile():
    ds = a_set(logits=True)
    assert (len(ds), ds.decoded_count) == (3, 12)
    seen = ds.decoded()
    assert seen.labels is not None
    assert seen.labels.tolist() == [0, 0, 1] * 4
    images, labels, logits = ds.as_dataset().tensors
    assert labels.tolist() == [0, 0, 1] * 4
    assert torch.equal(logits, torch.from_numpy(np.tile(np.arange(6.0, dtype=np.float32).reshape(3, 2), (4, 1))))
    assert torch.equal(images, ds.inputs())
    assert seen.decoded() is seen
    assert torch.equal(seen.inputs(), images)


def test_training_sees_decoded_images_with_their_labels_and_logits():
    ds = a_set(logits=True)
    data = training_data(ds, ds.manifest.recipe)
    assert torch.equal(data.inputs, ds.inputs())
    assert data.labels.tolist() == [0, 0, 1] * 4
    assert data.probabilities is not None
    assert torch.allclose(data.probabilities[:3], torch.arange(6.0).view(3, 2).softmax(1))
    values = lessons_of(ds, ds.manifest.recipe.model_copy(update={"loss": "mse"}))
    assert torch.equal(values.inputs, ds.inputs())
    assert len(values) == 12


def test_bytes_are_of_what_is_stored_and_quantised_sets_keep_the_formation():
    ds = a_set()
    assert ds.nbytes == 3 * 2 * 6 * 6 * 4
    small = ds.quantised()
    assert (small.nbytes, small.manifest.formation, small.decoded_count) == (3 * 2 * 6 * 6, 2, 12)
    assert small.images.shape == ds.images.shape


def test_the_digest_and_the_manifest_have_a_formation_where_there_is_one():
    plain, grid = a_set(1), a_set(2)
    assert plain.digest() != grid.digest()
    assert "formation" not in canonical(plain.manifest)
    assert '"formation":2' in canonical(grid.manifest)
    assert plain.digest() == "88d97213f358b2e7d43d52ba4f2ab737d00abf3c302159e18a9a2f8ce0357ac8"


def test_a_formation_survives_the_disk(tmp_path: Path):
    store.write_set(tmp_path / "set.safetensors", a_set())
    back = store.read_set(tmp_path / "set.safetensors")
    assert back.manifest == a_set().manifest
    assert torch.equal(back.inputs(), a_set().inputs())


@pytest.mark.parametrize(("size", "factor"), [((3, 3), 4), ((5, 9), 4), ((6, 6), 7)])
def test_a_grid_with_a_tile_of_no_pixel_is_refused(size: tuple[int, int], factor: int):
    words = f"{size[0]} x {size[1]} pixels cannot be cut into {factor} x {factor} tiles"
    with pytest.raises(UserError, match=words):
        a_set(factor, size=size)
    with pytest.raises(UserError, match=f"{words}.*take a smaller factor"):
        formation.require_possible(factor, size)


def test_whitened_pixels_are_refused():
    whitening = Whitening(np.zeros(72, dtype=np.float32), np.eye(72, dtype=np.float32))
    with pytest.raises(UserError, match="whitened pixels have no formation"):
        a_set(space="whitened", whitening=whitening)


def test_other_projects_get_the_images_that_networks_see_and_are_told_so(tmp_path: Path):
    ds = a_set()
    stored = "3 images with formation 2 are stored, and the 12 that networks see are written"
    said = f"the small form of the images: {stored}"
    exported = export_mtt(ds, tmp_path)
    assert said in exported.lost
    seen = ds.decoded()
    assert exported.files[IMAGES] == export_mtt(seen, tmp_path).files[IMAGES]
    assert exported.files[LABELS] == export_mtt(seen, tmp_path).files[LABELS]
    grey = DistilledSet(
        ds.images[:, :1],
        ds.labels,
        ds.manifest.model_copy(update={"pixels": Pixels(space="normalised", mean=MEAN[:1], std=STD[:1])}),
    )
    for export, count in ((export_png, 12), (export_sre2l, 12)):
        files = export(grey, tmp_path)
        assert len(files.files) == count
        assert said in files.lost
    assert not any("small form" in line for line in export_mtt(a_set(1), tmp_path).lost)


def test_the_challenge_takes_no_formation():
    with pytest.raises(UserError, match="this set stores several in one"):
        protocols.load("challenge-2024").prepare(a_set(), train=blobs(classes=2, channels=2, side=6))


# --- who sees them ------------------------------------------------------------------------------------------------

RECIPE = Recipe(network="convnet-1-w8", epochs=6, learning_rate=0.05, batch_size=5)


def distilled(factor: int) -> DistilledSet:
    """Random real images of three classes, two stored ones of each, in grids of factor x factor where factor is 2."""
    config = method("dm", steps=0, formation=factor, recipe=RECIPE.model_dump(mode="json"))
    return distill(config, blobs(), Size(ipc=2), options=RunOptions(device="cpu"))


def test_a_score_is_that_of_the_images_that_networks_see_beside_a_twin_of_equally_many_bytes():
    ds, source = distilled(2), blobs(per_class=20)
    test = blobs(per_class=20)
    options = {"train": source, "test": test, "nets": 2, "device": "cpu"}
    score, seen = evaluate(ds, **options), evaluate(ds.decoded(), **options)
    assert score.accuracy.per_network == seen.accuracy.per_network
    assert (score.images, score.bytes, score.twin_bytes) == (6, 6 * 64 * 4, 6 * 64)
    assert (seen.images, seen.twin_bytes) == (24, 24 * 64)
    twin = twins.draw(ds, source, labeller=HardLabels(), streams=Streams(0), index=0).data()
    assert twin.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_protocols_choose_by_the_images_that_networks_see():
    asked: list[int] = []

    class Asking(type(protocols.load("knn"))):
        def settings(self, *, images: int):
            asked.append(images)
            if len(asked) == 2:  # before the evaluation, and before it chooses
                raise InterruptedError
            return super().settings(images=images)

    with pytest.raises(InterruptedError):
        evaluate(distilled(2), train=blobs(), test=blobs(), protocol=Asking(), nets=1, device="cpu")
    assert asked == [24, 24]


def test_memory_is_told_for_the_images_that_networks_see(monkeypatch: pytest.MonkeyPatch):
    told: dict[str, int] = {}
    monkeypatch.setattr(checks.estimates, "evaluation", lambda *_, images, **__: told.update(images=images))
    monkeypatch.setattr(checks, "shortage", lambda *_: None)
    ds = a_set()
    checks.memory_shortage(ds, RECIPE, tested=1, nets=1, workers=Workers(), device=torch.device("cpu"))
    assert told == {"images": 12}


def test_a_bank_has_a_view_of_each_image_that_networks_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))
    ds = distilled(2)
    teacher = TeacherConfig(network="convnet-1-w8-batchnorm", epochs=1, batch_size=12)
    bank = relabel(ds, train=blobs(), teacher=teacher, epochs=2, device="cpu")
    assert (bank.spec.images, bank.spec.set_digest) == (24, ds.digest())
    bank.require_for(ds)
    assert bank.logits(1).shape == (24, 3)
    with pytest.raises(UserError, match="is the bank of the set with the digest"):
        bank.require_for(ds.decoded())


def test_a_source_of_a_set_has_the_images_that_networks_see():
    ds = distilled(2)
    source = as_source(ds, "ours")
    assert len(source) == 24
    raw = ds.decoded().raw().clip(0, 1) * 255
    assert np.abs(source.take(torch.arange(24)).numpy() - raw).max() <= 0.5 + 1e-3


def test_a_backbone_is_pretrained_on_the_images_that_networks_see():
    """Mini-batches of 23 would leave one of 24 images alone, which a batch norm cannot take; six stored ones fit."""
    said: list[str] = []
    recipe = RECIPE.model_copy(update={"batch_size": 23, "epochs": 1})
    pretrain("convnet-1-w8-batchnorm", distilled(2), recipe=recipe, device="cpu", say=said.append)
    assert any("23" in line for line in said)
