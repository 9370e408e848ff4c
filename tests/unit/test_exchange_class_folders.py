"""SRe2L's layout out and in: names, pixels, and folders that are none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dd_core import exchange
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.recipe import Recipe

PIXELS = Pixels(space="raw", mean=(0.5,) * 3, std=(0.2,) * 3)
CLASSES = ("cat", "dog", "eel")


def smooth(count: int, channels: int = 3, side: int = 16) -> np.ndarray:
    """Images that JPEG keeps well."""
    slopes = np.random.default_rng(0).uniform(2, 8, (count, channels, 1, 1))
    return (40 + slopes * np.arange(side) + 2 * np.arange(side)[:, None]).astype(np.uint8)


def a_set(channels: int = 3) -> DistilledSet:
    pixels = Pixels(space="raw", mean=(0.5,) * channels, std=(0.2,) * channels)
    manifest = Manifest(classes=CLASSES, pixels=pixels, recipe=Recipe(network="convnet-2"))
    return DistilledSet(smooth(6, channels), np.array([0, 0, 1, 1, 2, 2]), manifest)


def imported(path: Path, **options: object) -> DistilledSet:
    return exchange.import_sre2l(path, pixels=PIXELS, classes=CLASSES, **options)  # type: ignore[arg-type]


def test_a_set_goes_out_and_comes_back(tmp_path: Path):
    ds, out = a_set(), tmp_path / "out"
    export = exchange.export_sre2l(ds, out)
    export.write()
    assert list(export.files)[:3] == [
        "new000/class000_id000.jpg",
        "new000/class000_id001.jpg",
        "new001/class001_id000.jpg",
    ]
    back = imported(out)
    assert back.labels is not None
    assert back.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert abs(back.images.astype(int) - ds.images).max() <= 3, "but for what JPEG rounds away"
    assert (back.classes, back.manifest.pixels) == (CLASSES, PIXELS)
    assert (back.manifest.recipe.optimiser, back.manifest.recipe.teacher) == ("adamw", "none")
    assert any("JPEG of quality 95" in line for line in export.lost)


def test_grey_images_stay_grey(tmp_path: Path):
    exchange.export_sre2l(a_set(1), tmp_path / "out").write()
    grey = Pixels(space="raw", mean=(0.5,), std=(0.2,))
    back = exchange.import_sre2l(tmp_path / "out", pixels=grey, classes=CLASSES)
    assert back.images.shape == (6, 1, 16, 16)


def test_folders_come_by_their_numbers_and_else_by_name(tmp_path: Path):
    for position, name in enumerate(("new2", "new10", "new1")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), 10 * position, dtype=np.uint8)).save(tmp_path / name / "a.png")
    (tmp_path / "readme.txt").write_text("not a class")
    assert imported(tmp_path).images[:, 0, 0, 0].tolist() == [20, 0, 10], "1, 2, 10"
    for old, new in (("new2", "n-b"), ("new10", "n-c"), ("new1", "n-a")):
        (tmp_path / old).rename(tmp_path / new)
    assert imported(tmp_path).images[:, 0, 0, 0].tolist() == [20, 0, 10]


def test_a_recipe_of_ones_own_is_kept(tmp_path: Path):
    exchange.export_sre2l(a_set(), tmp_path / "out").write()
    assert imported(tmp_path / "out", recipe={"epochs": 7}).manifest.recipe.epochs == 7


def test_what_is_no_such_folder_is_refused(tmp_path: Path):
    exchange.export_sre2l(a_set(), tmp_path / "out").write()
    with pytest.raises(UserError, match="has 3 class folders, and 2 classes are named"):
        exchange.import_sre2l(tmp_path / "out", pixels=PIXELS, classes=("a", "b"))
    Image.fromarray(np.zeros((4, 5, 3), dtype=np.uint8)).save(tmp_path / "out" / "new002" / "z.png")
    with pytest.raises(UserError, match="is colour of 5 x 4 pixels, and the images before are colour of 16 x 16"):
        imported(tmp_path / "out")
    (tmp_path / "out" / "new002" / "z.png").write_text("no image")
    with pytest.raises(UserError, match=r"z.png: not an image"):
        imported(tmp_path / "out")
    with pytest.raises(UserError, match="No such file"):
        imported(tmp_path / "nowhere")
    for name in ("a", "b", "c"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="hold no image"):
        imported(tmp_path / "empty")
    os.mkfifo(tmp_path / "empty" / "a" / "pipe.jpg")
    with pytest.raises(UserError, match="is no regular file"):
        imported(tmp_path / "empty")


def test_channels_that_no_jpeg_has_are_refused(tmp_path: Path):
    pixels = Pixels(space="raw", mean=(0.5,) * 2, std=(0.2,) * 2)
    manifest = Manifest(classes=("a",), pixels=pixels, recipe=Recipe())
    ds = DistilledSet(np.zeros((1, 2, 4, 4), dtype=np.uint8), np.array([0]), manifest)
    with pytest.raises(UserError, match="1 or 3 channels, and these images have 2"):
        exchange.export_sre2l(ds, tmp_path)


def test_the_command_line_asks_for_what_the_files_do_not_say(tmp_path: Path, call, call_json):
    exchange.export_sre2l(a_set(), tmp_path / "out").write()
    out = tmp_path / "set.safetensors"
    words = ("import", tmp_path / "out", "--format", "sre2l", "--out", out)
    fields = call_json(*words, "--classes", "cat,dog,eel", "--like", "imagenet", "--set", "recipe.network=resnet-8")
    assert (fields["images"], fields["manifest"]["recipe"]["network"]) == (6, "resnet-8")
    assert fields["manifest"]["pixels"]["space"] == "raw"
    code, _, err = call(*words, "--classes", "cat,dog,eel")
    assert (code, "--like NAME or --mean and --std" in err) == (2, True)
    code, _, err = call(*words, "--classes", "a,b,c", "--like", "imagenet", "--images", "x.pt")
    assert (code, "is a folder of class folders" in err) == (2, True)
