"""folder:PATH: classes and splits by the names of folders."""

from __future__ import annotations

import os
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


def test_an_image_beside_the_classes_of_a_split_is_left_out_and_said(root: Path) -> None:
    put_classes(root / "train", count=4)
    put_classes(root / "test", count=2)
    for split in ("train", "test"):
        put(root / split / "preview.png", picture(9))
    lines: list[str] = []
    train, test = load(root, progress=lines.append), load(root, "test", progress=lines.append)
    assert (len(train), len(test)) == (8, 4)
    assert [line for line in lines if "1 image beside the class folders" in line]


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
    (root / "train/dog/sub").mkdir()
    (root / "train/dog/sub/up").symlink_to(root / "train/dog", target_is_directory=True)  # and nothing else in sub
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
    with pytest.raises(UserError, match=r"no images in 'bird'; files that are read: apng, avif, .*jpg, .*png, "):
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


# --- splits under other names -----------------------------------------------------------------------------------


def said_by(root: Path, split: str = "train", **options: object) -> list[str]:
    said: list[str] = []
    load(root, split, progress=said.append, **options)
    return [line for line in said if "for the first time" not in line]


HELD_OUT = "2 of 10 images, a fifth of each class, are held out as the test split"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
        ("training", "validation"),
        ("train_set", "test_set"),
        ("trainset", "testset"),
        ("Training Images", "Test Images"),
        ("train-data", "val-data"),
        ("train", "valid"),
        ("train", "Val"),
        ("train", "eval"),
        ("train", "dev"),
        ("train2017", "val2017"),
    ],
)
def test_splits_are_known_by_other_names(root: Path, train: str, test: str) -> None:
    put_classes(root / train, count=3)
    put_classes(root / test, count=2, first=1000)
    source, held_out = load(root), load(root, "test")
    assert source.classes == held_out.classes == ("cat", "dog")
    assert (len(source), len(held_out)) == (6, 4)
    assert torch.equal(pixels(held_out)[3], png(root / test / "dog/1.png"))
    assert said_by(root) == said_by(root, "test") == [f"'{train}' is read for training, '{test}' for testing"]


def test_train_and_test_need_no_word(root: Path) -> None:
    put_classes(root / "train")
    put_classes(root / "test")
    assert said_by(root) == said_by(root, "test") == []


def test_what_is_not_read_beside_the_splits_is_said(root: Path) -> None:
    put_classes(root / "train")
    put_classes(root / "validation", count=1)
    put_classes(root / "test", count=2)
    put_classes(root / "extra")
    expected = "'train' is read for training, 'test' for testing; not read: 'extra', 'validation'"
    assert said_by(root) == [expected]
    assert len(load(root, "test")) == 4


def test_that_a_fifth_is_held_out_is_said(root: Path) -> None:
    put_classes(root / "plain")
    assert said_by(root / "plain") == said_by(root / "plain", "test") == [HELD_OUT]
    put_classes(root / "split" / "train")
    assert said_by(root / "split") == [HELD_OUT]
    put(root / "split" / "test" / "0.png", picture(0))  # a competition's: without classes
    assert said_by(root / "split") == ["'train' is read for training; not read: 'test'", HELD_OUT]
    assert len(load(root / "split")) == 8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "Training"), "has 2 folders for training: 'Training', 'train'; rename or move all but one"),
        (("train", "test", "testing"), "has 2 folders for testing: 'test', 'testing'"),
        (("train", "val", "valid"), "has 2 folders for validation: 'val', 'valid'"),
        (("test", "val"), "'test', 'val' with class folders inside, but no training folder"),
    ],
)
def test_splits_that_can_be_read_in_two_ways_are_refused(root: Path, names: tuple[str, ...], message: str) -> None:
    for name in names:
        put_classes(root / name)
    with pytest.raises(UserError, match=message):
        load(root)


def test_a_split_beside_class_folders_is_no_class(root: Path) -> None:
    put_classes(root)
    put_classes(root / "test")
    with pytest.raises(UserError, match="has 'test' with class folders inside, but no training folder"):
        load(root)


def test_splits_without_classes_are_no_classes(root: Path) -> None:
    put_classes(root, names=("test", "train"))
    with pytest.raises(
        UserError, match=r"has no class folders in 'test', 'train'; put .* of its own, such as train/cat"
    ):
        load(root)


def test_a_class_called_like_a_split_is_told(root: Path) -> None:
    put_classes(root, names=("bus", "train"))
    assert said_by(root) == ["no class folders in 'train': read as a class, and not as a split", HELD_OUT]


@pytest.mark.parametrize("names", [("seg_train", "seg_test", "seg_pred"), ("pets train", "pets val")])
def test_splits_with_something_before_their_names_are_refused(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        put_classes(root / name)
    with pytest.raises(UserError, match="look like splits; call them train and test, or, if they are classes"):
        load(root)


@pytest.mark.parametrize(
    ("tops", "inside", "message"),
    [
        (("A", "B"), ("cat", "dog"), r"'A', 'B' hold the same folders each \('cat', 'dog'\); if they are splits, call"),
        (("images", "masks"), ("train", "test"), "put the splits outside and the classes inside: test/images"),
        (("bottle", "cable"), ("train",), "put the splits outside and the classes inside: train/bottle"),
    ],
)
def test_classes_that_all_hold_the_same_folders_are_refused(
    root: Path, tops: tuple[str, ...], inside: tuple[str, ...], message: str
) -> None:
    for place in (root / "plain", root / "split" / "train"):
        for top in tops:
            put_classes(place / top, names=inside, count=2)
    for place in (root / "plain", root / "split"):
        with pytest.raises(UserError, match=message):
            load(place)


def test_one_folder_inside_each_class_or_different_ones_are_read(root: Path) -> None:
    for name in ("cat", "dog"):
        put_classes(root / "one" / name, names=("images",))
        put_classes(root / "mixed" / name, names=("indoors", "outdoors"))
        put(root / "mixed" / name / "0.png", picture(1))
    put_classes(root / "other" / "cat", names=("a", "b"))
    put_classes(root / "other" / "dog", names=("a", "c"))
    assert [len(load(root / place)) for place in ("one", "mixed", "other")] == [8, 18, 16]


# --- names in Unicode -------------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"


def test_a_class_has_its_composed_name(root: Path) -> None:
    put_classes(root, names=(DECOMPOSED, "dog"))
    assert load(root).classes == (COMPOSED, "dog")


def test_two_spellings_of_a_name_are_one_class(root: Path) -> None:
    put_classes(root, names=(COMPOSED, "cafz", DECOMPOSED))
    source = load(root)
    assert source.classes == ("cafz", COMPOSED)
    assert torch.bincount(require_labels(source)).tolist() == [4, 8]
    assert said_by(root)[0] == f"2 folders are one class, '{COMPOSED}': their names differ in Unicode composition only"


def test_a_class_is_the_same_in_both_splits_however_it_is_spelt(root: Path) -> None:
    put_classes(root / "train", names=(COMPOSED, "dog"))
    put_classes(root / "test", names=(DECOMPOSED, "dog"), count=1)
    assert load(root, "test").classes == load(root).classes == (COMPOSED, "dog")
    assert torch.equal(pixels(load(root, "test"))[0], png(root / "test" / DECOMPOSED / "0.png"))


@pytest.mark.parametrize(
    "other", ["cat ", "cat\N{NO-BREAK SPACE}", "c\N{ZERO WIDTH SPACE}at", "cat\N{VARIATION SELECTOR-16}"]
)
def test_names_that_look_the_same_are_refused(root: Path, other: str) -> None:
    put_classes(root, names=("cat", "dog", other))
    with pytest.raises(UserError, match=r"the class names 'cat.*' and 'c.*' look the same; rename one"):
        load(root)


def test_names_that_are_published_alike_are_refused(root: Path) -> None:
    put_classes(root, names=("cat", os.fsdecode(b"d\xe8g"), os.fsdecode(b"d\xe9g")))
    with pytest.raises(UserError, match="look the same"):
        load(root)
