"""folder:PATH: classes and splits by the names of folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_trees import load, picture, pixels, png, put, put_classes

from dd_core.errors import UserError
from dd_core.images import LabelledImages, require_labels


def test_class_folders_alone_are_split_by_class(root: Path) -> None:
    put_classes(root, count=10)
    train, test = load(root), load(root, "test")
    assert isinstance(train, LabelledImages)
    assert train.name == "folder"
    assert train.classes == ("cat", "dog")
    assert require_labels(train).tolist() == [0] * 8 + [1] * 8
    assert require_labels(test).tolist() == [0] * 2 + [1] * 2
    everything = {image.numpy().tobytes() for image in torch.cat([pixels(train), pixels(test)])}
    assert everything == {png(file).contiguous().numpy().tobytes() for file in root.rglob("*.png")}
    assert len(everything) == 20


def test_the_split_is_the_same_in_another_place_and_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_classes(root)
    first = load(root).fingerprint()
    put_classes(tmp_path / "elsewhere")
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "another cache"))
    assert load(tmp_path / "elsewhere").fingerprint() == first


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_used_as_they_are(root: Path, held_out: str) -> None:
    put_classes(root / "train", count=3)
    put_classes(root / held_out, count=2, first=1000)
    train, test = load(root), load(root, "test")
    files = [root / "train" / name / f"{number}.png" for name in ("cat", "dog") for number in range(3)]
    assert torch.equal(pixels(train), torch.stack([png(file) for file in files]))
    assert torch.equal(pixels(test)[2], png(root / held_out / "dog/0.png"))
    assert require_labels(test).tolist() == [0, 0, 1, 1]


def test_test_is_preferred_to_val(root: Path) -> None:
    put_classes(root / "train")
    put_classes(root / "val", count=1)
    put_classes(root / "test", count=2)
    assert len(load(root, "test")) == 4


def test_a_train_folder_alone_is_split(root: Path) -> None:
    put_classes(root / "train", count=5)
    assert (len(load(root)), len(load(root, "test"))) == (8, 2)


def test_a_class_may_be_called_train(root: Path) -> None:
    put_classes(root, names=("bus", "test", "train"))
    assert load(root).classes == ("bus", "test", "train")


def test_nested_folders_belong_to_their_class_and_hidden_files_to_nobody(root: Path) -> None:
    put_classes(root / "train", count=2)
    put(root / "train/cat/kittens/black/7.JPEG", picture(7))
    put(root / "train/dog/upper.PNG", picture(8))
    put(root / "train/dog/.hidden.png", picture(9))
    put(root / "train/dog/.thumbnails/0.png", picture(9))
    put(root / "train/.cache/0.png", picture(9))
    put(root / "train/__MACOSX/0.png", picture(9))
    (root / "train/dog/boxes.txt").write_text("not an image")
    put_classes(root / "test", count=1)
    assert require_labels(load(root)).tolist() == [0, 0, 0, 1, 1, 1]


def test_links_are_followed_but_not_in_circles(root: Path) -> None:
    put_classes(root / "train", count=2)
    put_classes(root / "test", count=1)
    (root / "train/cat/all").symlink_to(root / "train", target_is_directory=True)
    (root / "train/dog/again.png").symlink_to(root / "train/cat/0.png")
    source = load(root)
    assert torch.equal(pixels(source)[-1], png(root / "train/cat/0.png"))
    # the link in cat leads to train/, whose cat/ is above it and whose dog/ is not
    assert require_labels(source).tolist().count(0) == 2 + 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "there is no such folder"),
        (lambda root: root.write_text("x"), "not a folder"),
        (lambda root: root.mkdir(), "has no class folders"),
        (lambda root: put(root / "0.png", picture(0)), "has images, but no class folders"),
        (lambda root: put_classes(root, names=("cat",)), "has one class folder, 'cat', and two are needed$"),
        (lambda root: put_classes(root / "data"), "did you mean folder:.*my images/data"),
    ],
)
def test_a_folder_that_is_none_is_refused(root: Path, make, message: str) -> None:
    make(root)
    with pytest.raises(UserError, match=message):
        load(root)


def test_a_class_without_images_is_named(root: Path) -> None:
    put_classes(root)
    (root / "bird").mkdir()
    (root / "bird/notes.txt").write_text("none yet")
    with pytest.raises(UserError, match="no images in 'bird'; files that are read: bmp, gif, jpeg"):
        load(root)


def test_classes_must_agree_between_train_and_test(root: Path) -> None:
    put_classes(root / "train", names=("cat", "dog", "owl"))
    put_classes(root / "test")
    with pytest.raises(UserError, match="test lacks 'owl', which the training folder has"):
        load(root)
    put_classes(root / "test", names=("owl", "yak"))
    with pytest.raises(UserError, match="test has 'yak', which the training folder lacks"):
        load(root)


def test_a_class_of_one_image_cannot_be_split(root: Path) -> None:
    put_classes(root, count=1)
    with pytest.raises(UserError, match="class 'cat' has one image and cannot be split"):
        load(root)
