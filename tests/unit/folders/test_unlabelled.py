"""Folders read without labels: images anywhere below, and the same images with and without their labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_trees import load, picture, pixels, png, put, put_classes

from dd_core import datasets
from dd_core.errors import UserError
from dd_core.images import split_indices
from dd_core.testing import blobs


def put_loose(folder: Path, count: int = 10) -> None:
    for number in range(count):
        put(folder / f"{number:02d}.png", picture(number))


def test_images_need_no_class_folders(root: Path) -> None:
    put_loose(root, 8)
    put(root / "more/deep/down.png", picture(50))
    put(root / "more/beside.png", picture(51))
    said: list[str] = []
    train, test = (load(root, split, labelled=False, progress=said.append) for split in ("train", "test"))
    assert (train.labels, train.classes) == (None, ())
    assert "2 of 10 images, a fifth, are held out as the test split" in said
    files = [
        *(root / f"{number:02d}.png" for number in range(8)),
        root / "more/beside.png",
        root / "more/deep/down.png",
    ]
    rest, held_out = split_indices(blobs(classes=1, per_class=10).without_labels(), 0.2, 0)
    assert torch.equal(pixels(train), torch.stack([png(files[row]) for row in rest.tolist()]))
    assert torch.equal(pixels(test), torch.stack([png(files[row]) for row in held_out.tolist()]))


def test_a_training_and_a_test_folder_are_the_splits(root: Path) -> None:
    put_loose(root / "train", 3)
    put_loose(root / "val" / "anything", 2)
    put_loose(root / "extra", 1)
    put(root / "loose.png", picture(9))
    said: list[str] = []
    assert len(load(root, labelled=False, progress=said.append)) == 3
    assert len(load(root, "test", labelled=False)) == 2
    assert "'train' is read for training; not read: 'extra' and the images beside them" in said


def test_a_test_folder_without_a_training_folder_is_refused(root: Path) -> None:
    put_loose(root / "test", 3)
    put_loose(root / "pictures", 3)
    with pytest.raises(UserError, match="has 'test', but no training folder"):
        load(root, labelled=False)


def test_a_folder_without_images_is_refused(root: Path) -> None:
    (root / "empty").mkdir(parents=True)
    (root / "notes.txt").write_text("none")
    with pytest.raises(UserError, match="no images in it; files that are read"):
        load(root, labelled=False)
    with pytest.raises(UserError, match="there is no such folder"):
        load(root / "away", labelled=False)


def test_with_labels_a_folder_still_needs_classes(root: Path) -> None:
    put_loose(root)
    with pytest.raises(UserError, match="images, but no class folders"):
        load(root)


def test_class_folders_without_labels_are_the_same_images(root: Path) -> None:
    put_classes(root / "train")
    put_classes(root / "test", count=1)
    labelled, loaded = load(root), load(root, labelled=False)
    assert torch.equal(pixels(labelled), pixels(loaded))
    assert labelled.fingerprint() != loaded.fingerprint()
    streamed = load(root, memory_limit=0)
    for source in (labelled, streamed):
        bare = source.without_labels()
        assert (bare.labels, bare.classes, bare.fingerprint()) == (None, (), loaded.fingerprint())
        assert torch.equal(pixels(bare), pixels(source))
    assert streamed.without_labels().subset(torch.tensor([1])).labels is None


def test_a_data_set_by_name_comes_without_labels(root: Path) -> None:
    bare, digits = datasets.load("digits", labelled=False), datasets.load("digits")
    assert (bare.labels, bare.classes) == (None, ())
    assert torch.equal(pixels(bare), pixels(digits))
    assert bare.fingerprint() == digits.without_labels().fingerprint() != digits.fingerprint()


def test_images_without_labels_are_split_by_their_number() -> None:
    bare = blobs(classes=2, per_class=10).without_labels()
    rest, held_out = split_indices(bare, 0.25, 3)
    assert len(held_out) == 5
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(20))
    with pytest.raises(UserError, match="blobs: has one image and cannot be split"):
        split_indices(bare.subset(torch.tensor([0])), 0.5, 0)
