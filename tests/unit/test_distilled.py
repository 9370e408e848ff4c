"""A distilled set and its pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_core import store
from dd_core.config import canonical, decode, plain
from dd_core.distilled import DistilledSet, Manifest, Pixels, Provenance, Size
from dd_core.errors import UserError
from dd_core.recipe import Recipe
from dd_core.system.device import environment
from dd_core.whitening import Whitening

MEAN, STD = (0.5, 0.25), (0.5, 0.2)


def _manifest(space: str = "raw", **changes) -> Manifest:
    pixels = Pixels(space=space, mean=MEAN, std=STD)
    return Manifest(classes=("a", "b"), pixels=pixels, recipe=Recipe(network="convnet-2"), **changes)


def _set(images: np.ndarray, space: str = "raw", **changes) -> DistilledSet:
    return DistilledSet(images, np.array([0, 1]), _manifest(space), **changes)


GREY = np.array([[0.0, 0.0], [1.0, 0.5]])  # a set of two one-pixel images with two channels


def test_raw_bytes_raw_floats_and_normalised_floats_are_the_same_input():
    shaped = GREY.reshape(2, 2, 1, 1)
    as_bytes = _set(np.rint(shaped * 255).astype(np.uint8))
    as_floats = _set(shaped.astype(np.float32))
    normalised = (shaped - np.reshape(MEAN, (1, 2, 1, 1))) / np.reshape(STD, (1, 2, 1, 1))
    as_inputs = _set(normalised.astype(np.float32), "normalised")
    assert torch.allclose(as_floats.inputs(), as_inputs.inputs(), atol=1e-6)
    assert torch.allclose(as_bytes.inputs(), as_inputs.inputs(), atol=0.01)
    assert np.allclose(as_inputs.raw(), shaped, atol=1e-6)


def test_quantising_rounds_and_clips_and_keeps_the_normalisation():
    values = np.array([[[[-0.2]], [[0.5]]], [[[1.7]], [[0.1]]]], dtype=np.float32)
    small = _set(values).quantised()
    assert small.images.dtype == np.uint8
    assert small.images.flatten().tolist() == [0, 128, 255, 26]
    assert small.manifest.pixels == Pixels(space="raw", mean=MEAN, std=STD)
    assert (small.nbytes, _set(values).nbytes) == (4, 16)
    assert small.quantised() is small


def test_a_dataset_gives_inputs_labels_and_targets():
    targets = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    images = np.zeros((2, 2, 4, 4), dtype=np.uint8)
    ds = DistilledSet(images, np.array([0, 1]), _manifest(targets="features"), targets)
    image, label, target = ds.as_dataset()[1]
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == pytest.approx([-1.0, -1.25])
    assert (label.item(), target.tolist()) == (1, [4, 5, 6])
    assert len(ds.as_dataset()) == len(ds) == 2


def test_the_arrays_are_read_only_and_the_callers_are_left_alone():
    images = np.zeros((2, 2, 4, 4), dtype=np.uint8)
    ds = _set(images)
    images[:] = 9
    assert ds.images.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        ds.images[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((2, 2, 4), np.uint8)}, "not (N, C, H, W)"),
        ({"images": np.zeros((0, 2, 4, 4), np.uint8)}, "not (N, C, H, W)"),
        ({"images": np.zeros((2, 2, 4, 4), np.float64)}, "images are float64"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "3 channels, but the normalisation has 2"),
        ({"images": np.full((2, 2, 4, 4), np.nan, np.float32)}, "images hold a value that is not finite"),
        ({"labels": None}, "needs labels"),
        ({"labels": np.array([0, 1, 1])}, "labels are int64 (3,), not int64 (2,)"),
        ({"labels": np.array([0, 1], np.int32)}, "labels are int32"),
        ({"labels": np.array([0, 2])}, "labels run from 0 to 2 for 2 classes"),
        ({"labels": np.array([-1, 1])}, "labels run from -1"),
        ({"targets": np.zeros((2, 2), np.float32)}, "the manifest says targets are 'none', and the set has some"),
        ({"manifest": _manifest(targets="logits")}, "targets are 'logits', and the set has none"),
        ({"manifest": _manifest("normalised")}, "uint8 pixels cannot be normalised ones"),
        (
            {"manifest": _manifest(targets="logits"), "targets": np.zeros((2, 3), np.float32)},
            "targets have 3 columns for 2 classes",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message: str):
    ds = _set(np.zeros((2, 2, 4, 4), np.uint8))
    with pytest.raises(UserError) as caught:
        replace(ds, **changes)
    assert message in str(caught.value)


def test_sizes():
    assert Size(ipc=3).per_class(2) == (3, 3)
    assert Size(images=8).per_class(3) == (3, 3, 2)
    with pytest.raises(UserError, match="2 images for 3 classes; at least 3 are needed"):
        Size(images=2).per_class(3)
    for wrong in ({}, {"ipc": 1, "images": 1}, {"ipc": 1, "counts": (1, 2)}):
        with pytest.raises(UserError, match="either ipc"):
            Size(**wrong)


def test_a_size_can_differ_from_class_to_class():
    size = Size(counts=(2, 5, 1))
    assert size.per_class(3) == (2, 5, 1)
    with pytest.raises(UserError, match="counts give the images of 3 classes, and there are 2"):
        size.per_class(2)
    with pytest.raises(UserError, match="greater than or equal to 1"):
        Size(counts=(2, 0))
    assert Size.of([4, 4]) == Size(ipc=4)
    assert Size.of([4, 3]) == Size(counts=(4, 3))


def test_sizes_are_written_as_before_there_were_counts_and_read_again():
    """What files, checkpoints and digests hold of the sizes of every earlier version."""
    assert canonical(Size(ipc=3)) == '{"images":null,"ipc":3}'
    assert canonical(Size(images=7)) == '{"images":7,"ipc":null}'
    assert canonical({"size": plain(Size(counts=(1, 2)))}) == '{"size":{"counts":[1,2],"images":null,"ipc":null}}'
    for size in (Size(ipc=3), Size(images=7), Size(counts=(1, 2))):
        assert decode(Size, plain(size)) == size


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"network": "convent"}, "recipe.network: unknown network 'convent'; did you mean 'convnet'?"),
        ({"augmentation": "bogus"}, "recipe.augmentation: unknown kind of augmentation in 'bogus': 'bogus'"),
    ],
)
def test_a_recipe_that_nobody_could_follow_is_refused(recipe, message: str):
    with pytest.raises(UserError) as caught:
        decode(Recipe, recipe, key="recipe")
    assert str(caught.value).startswith(message)


def test_auto_is_spelled_out_for_a_source():
    recipe = Recipe(augmentation="auto")
    assert recipe.for_source("cifar10").augmentation == "color_crop_cutout_flip_scale_rotate"
    assert recipe.for_source("digits").augmentation == "color_crop_cutout_scale_rotate"
    assert Recipe().for_source("cifar10").augmentation == "none"


def _whitened() -> DistilledSet:
    pixels = Pixels(space="raw", mean=(0.0, 0.0), std=(1.0, 1.0))
    whitening = Whitening(np.zeros(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    manifest = _manifest().model_copy(update={"pixels": pixels})
    return DistilledSet(np.ones((2, 2, 1, 1), dtype=np.float32), np.array([0, 1]), manifest, whitening=whitening)


def test_the_digest_is_of_what_a_network_meets():
    images = np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1)
    ds, soft = _set(images), np.full((2, 2), 0.5, dtype=np.float32)
    assert ds.digest() == "aefded551b4134acc43a097718618b470b107e93afdc2c284a5a83b3f5668f4b", "written into banks"
    other_pixels = ds.manifest.model_copy(update={"pixels": Pixels(space="raw", mean=MEAN, std=(0.5, 0.3))})
    other_classes = ds.manifest.model_copy(update={"classes": ("a", "c")})
    others = [
        _set(images + 1),
        _set(images.astype(np.float32)),
        _set(images.reshape(2, 2, 1, 1)[:, :, :, [0, 0]].copy()),
        replace(ds, labels=np.array([1, 1])),
        replace(ds, manifest=other_pixels),
        replace(ds, manifest=other_classes),
        DistilledSet(images, np.array([0, 1]), _manifest(targets="probabilities"), soft),
        DistilledSet(images, np.array([0, 1]), _manifest(targets="logits"), soft),
        DistilledSet(images, np.array([0, 1]), _manifest(targets="logits"), soft.astype(np.float16)),
        _whitened(),
        replace(_whitened(), whitening=Whitening(np.ones(2, dtype=np.float32), np.eye(2, dtype=np.float32))),
    ]
    digests = [ds.digest(), *(other.digest() for other in others)]
    assert len({*digests}) == len(digests)


def test_recipe_and_provenance_have_no_part_in_the_digest():
    ds = _set(np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1))
    provenance = Provenance(
        source="digits",
        fingerprint="0",
        source_images=2,
        method="random",
        config={},
        size=Size(ipc=1),
        seed=0,
        environments=(environment(torch.device("cpu")),),
    )
    update = {"recipe": Recipe(epochs=7), "provenance": provenance}
    assert replace(ds, manifest=ds.manifest.model_copy(update=update)).digest() == ds.digest()


def test_the_digest_survives_the_disk(tmp_path: Path):
    for ds in (_set(np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1)), _whitened()):
        store.write_set(tmp_path / "set.safetensors", ds)
        assert store.read_set(tmp_path / "set.safetensors").digest() == ds.digest()
