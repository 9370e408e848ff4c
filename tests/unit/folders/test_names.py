"""Which files are images, what is passed over and what is counted, and results of our own inside the data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_trees import encoded, load, picture, pixels, png, put, put_classes

from dd_core.datasets.folder_names import SUFFIXES, counted, is_image, suffix_of
from dd_core.errors import UserError
from dd_core.images import require_labels


def left_out(root: Path) -> list[str]:
    said: list[str] = []
    load(root, progress=said.append)
    return [line for line in said if line.startswith("left out")]


def write(path: Path, data: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


FORMATS = {
    **dict.fromkeys(("jfif", "jpe", "jpeg", "jpg", "JPG"), "JPEG"),
    **dict.fromkeys(("pbm", "pgm", "pnm", "ppm"), "PPM"),
    **dict.fromkeys(("jp2", "jpx"), "JPEG2000"),
    **dict.fromkeys(("png", "apng"), "PNG"),
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **{"avif": "AVIF", "bmp": "BMP", "dib": "BMP", "gif": "GIF", "ico": "ICO", "mpo": "MPO", "pcx": "PCX"},
    **{"qoi": "QOI", "sgi": "SGI", "tga": "TGA", "webp": "WEBP"},
}


def test_every_suffix_that_is_read_can_be_read(root: Path) -> None:
    put_classes(root / "train", count=1)
    put_classes(root / "test", count=1)
    for index, (suffix, kind) in enumerate(FORMATS.items()):
        write(root / "train/cat" / f"{index}.{suffix}", encoded(picture(index, size=(16, 16)), kind))
    said: list[str] = []
    assert len(load(root, image_size=16, progress=said.append)) == len(FORMATS) + 2
    assert said == [f"reading {len(FORMATS) + 2} images for the first time"]
    assert {suffix.lower() for suffix in FORMATS} <= {*SUFFIXES}


@pytest.mark.parametrize("suffix", ["", ".png ", ".jpg_large", ".jpg:large", ".jpeg?w=100", ".png!d", ".0001"])
def test_an_image_without_a_usual_suffix_is_read(root: Path, suffix: str) -> None:
    put_classes(root / "train", count=2)
    put_classes(root / "test", count=1)
    write(root / "train/cat" / f"more{suffix}", encoded(picture(8)))
    write(root / "train/cat" / f"not{suffix}", b"BM and P5 begin texts, too")
    for memory_limit in (10**9, 0):
        source = load(root, memory_limit=memory_limit)
        assert require_labels(source).tolist() == [0, 0, 0, 1, 1]
        assert torch.equal(pixels(source)[2], png(root / "train/cat" / f"more{suffix}"))
    assert len(left_out(root)) == 1


def test_files_that_are_not_read_are_counted_by_suffix(root: Path) -> None:
    put_classes(root)
    for number in range(18):
        write(root / "cat" / f"{number}.HEIC", encoded(picture(number), "AVIF"))
    write(root / "dog/deep/README", b"words")
    write(root / "dog/more", b"")
    write(root / "dog/labels.txt")
    write(root / "dog/0.png~", encoded(picture(1)))
    write(root / "dog/0.jpg_original", encoded(picture(1)))
    expected = "left out 23 files that are not read: 18 .heic, 2 without a suffix, 1 .jpg_original, 1 .png~, 1 .txt"
    assert left_out(root) == left_out(root) == [expected]
    assert len(load(root)) == 8
    said: list[str] = []
    load(root, memory_limit=0, progress=said.append)
    assert expected in said


def test_one_file_and_the_folder_it_is_in(root: Path) -> None:
    put_classes(root / "train")
    put_classes(root / "test")
    write(root / "test/cat/0.heic")
    assert left_out(root) == []
    said: list[str] = []
    load(root, "test", progress=said.append)
    assert said[-1] == "left out 1 file that is not read in test: 1 .heic"


def test_images_beside_the_class_folders_are_counted(root: Path) -> None:
    put_classes(root)
    put(root / "7.png", picture(7))
    write(root / "8", encoded(picture(8)))
    write(root / "README.md", b"words")
    assert left_out(root) == ["left out 2 images beside the class folders: in no class"]
    assert len(load(root)) == 8


@pytest.mark.parametrize(
    "name", ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "lost+found", "#recycle", ".thumbnails"]
)
def test_what_systems_leave_behind_is_no_image_and_no_class(root: Path, name: str) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    for place in (root / name, root / "cat" / name, root / "cat" / name / "0.png"):
        put(place / "thumbnail.png", picture(9))
    for file in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        write(root / "cat" / file, encoded(picture(9)))
        write(root / file)
    assert load(root).fingerprint() == before
    assert left_out(root) == []


def test_a_suffix_is_letters_and_short() -> None:
    names = ["a.heic", "b.HEIC", "img.0001", "Mr. Smith", "plain", "c.tar.gz", "d.png "]
    assert counted(Counter(map(suffix_of, names))) == "4 without a suffix, 2 .heic, 1 .gz"


def test_a_folder_with_an_images_name_is_no_image(root: Path) -> None:
    (root / "0.heic").mkdir(parents=True)
    (root / "1").mkdir()
    assert not is_image("1", root)
    os.mkfifo(root / "2")
    assert not is_image("2", root)  # and nobody waits for it


# --- results of our own inside the data -------------------------------------------------------------------------


def run_folder(path: Path) -> None:
    for name in ("lock", "metrics.jsonl", "run.json"):
        write(path / name, b"{}")


def begun(path: Path) -> None:
    write(path / "lock")
    write(path / "checkpoint-00000005.safetensors", b"x")


def scenario(path: Path) -> None:
    for name in ("lock", "scenario.json", "results.json", "report.md", "dm.safetensors"):
        write(path / name, b"{}")
    put(path / "dm.png", picture(1))
    run_folder(path / "work" / "dm.run")


def sets(path: Path) -> None:
    write(path / "first.safetensors", b"x")
    run_folder(path / "first.run")


def many(path: Path) -> None:
    scenario(path / "quickstart")
    sets(path / "distill")


OURS: list[Callable[[Path], None]] = [run_folder, begun, lambda path: write(path / "lock"), scenario, sets, many]


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("place", ["set.run", "runs", "cat/results"])
def test_results_inside_the_data_are_no_class_and_no_images(
    root: Path, make: Callable[[Path], None], place: str
) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    make(root / place)
    after = load(root)
    assert (after.classes, after.fingerprint()) == (("cat", "dog"), before)
    assert left_out(root) == []


def test_a_class_with_a_lock_in_it_is_a_class(root: Path) -> None:
    put_classes(root)
    write(root / "cat/lock")
    put_classes(root / "dog" / "deeper", names=("x",))
    assert require_labels(load(root)).tolist().count(0) == 4
    assert left_out(root) == ["left out 1 file that is not read: 1 without a suffix"]


def test_the_cache_inside_the_data_is_no_class(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_classes(root)
    monkeypatch.setenv("DD_APPS_CACHE", str(root / "expensive"))
    first = load(root)
    assert (root / "expensive/index").is_dir()
    assert load(root).fingerprint() == first.fingerprint()
    assert load(root).classes == ("cat", "dog")


def test_the_same_command_twice_and_evaluate(
    root: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_classes(root)
    monkeypatch.chdir(root)
    command = ("distill", "random", "--data", "folder:.", "--ipc", "1", "--out", "set.safetensors")
    command += ("--set", "recipe.epochs=2", "--set", "recipe.network=convnet-1-w8")
    assert [call(*command)[0] for _ in range(2)] == [0, 0]
    code, _, err = call("evaluate", "set.safetensors", "--data", "folder:.", "--nets", "1")
    assert code == 0
    # what holds for both splits is said once
    assert err.count("2 of 10 images, a fifth of each class, are held out as the test split") == 1


def test_an_empty_class_is_still_refused(root: Path) -> None:
    put_classes(root)
    (root / "bird").mkdir()
    with pytest.raises(UserError, match="no images in 'bird'"):
        load(root)
