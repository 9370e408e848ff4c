"""A set as a line, as a page in a notebook, and as pictures."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import dd_core
from dd_core.distilled import DistilledSet, Manifest, Pixels, Provenance, Size, card
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.system.device import environment, resolve
from dd_core.testing import blobs


def a_set(images=None, *, classes=("ant", "bee", "cat"), space="raw", formation=1, **fields) -> DistilledSet:
    if images is None:
        images = np.linspace(-0.5, 1.5, 3 * 64, dtype=np.float32).reshape(3, 1, 8, 8)
    channels = images.shape[1]
    manifest = Manifest(
        classes=classes,
        pixels=Pixels(space=space, mean=(0.5,) * channels, std=(0.25,) * channels),
        formation=formation,
        recipe=Recipe(),
        **fields,
    )
    return DistilledSet(images, np.arange(len(images)) % len(classes), manifest)


def made(method: str = "dm", source: str = "digits") -> Provenance:
    return Provenance(
        source=source,
        fingerprint="f" * 64,
        source_images=100,
        method=method,
        config={"steps": 3},
        size=Size(ipc=1),
        seed=0,
        environments=(environment(resolve("cpu")),),
    )


def test_a_set_is_printed_as_one_line():
    ds = dd_core.distill("average", blobs(), 1, options=RunOptions(device="cpu"))
    assert repr(ds) == "DistilledSet(3 images 1 x 8 x 8 float32, 3 classes, average of blobs, 768 B)"
    assert str(ds.quantised().take([0, 1])) == "DistilledSet(2 images 1 x 8 x 8 uint8, 3 classes, 128 B)"


def test_the_line_stays_one_whatever_the_names_are():
    line = repr(a_set(provenance=made("d\nm", "x" * 500)))
    assert len(line) < 140
    assert "\n" not in line
    assert "d?m of xxx" in line


class Reader(HTMLParser):
    """What a browser makes of the page: its elements, its text, its images."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        else:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)


def page_of(ds: DistilledSet) -> Reader:
    reader = Reader()
    reader.feed(ds._repr_html_())
    assert reader.open == []
    return reader


def picture_of(page: Reader) -> Image.Image:
    (source,) = page.sources
    assert source.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def test_a_notebook_shows_the_images_and_the_card():
    ds = a_set(provenance=made())
    page = page_of(ds)
    facts = dict(zip(page.words, page.words[1:], strict=False))
    assert facts["digest"] == ds.digest()
    assert facts["classes"] == "3: ant, bee, cat"
    assert facts["mean"] == "0.5000"
    assert facts["learning_rate"] == "0.01"
    assert (facts["method"], facts["source"], facts["config.steps"]) == ("dm", "digits", "3")
    assert page.words[0] == repr(ds)
    picture = np.asarray(picture_of(page))
    assert picture.shape[0] >= 48
    assert {0, 255} <= {*picture.flatten().tolist()}  # black and white where pixels are beyond
    assert page_of(a_set()).words.count("provenance") == 0


def test_what_a_stranger_wrote_is_text_and_no_element():
    name = "<script>alert('x')</script><img src=x onerror=y>&amp;"
    page = page_of(a_set(classes=(name, "bee", "cat"), provenance=made(name, name)))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert f"3: {name}, bee, cat" in page.words
    assert name in page.words


def test_a_page_is_small_however_large_the_set_is():
    generator = np.random.default_rng(0)
    classes = tuple(f"class {index} {'x' * 300}" for index in range(300))
    images = generator.integers(0, 256, (600, 3, 96, 96), dtype=np.uint8)
    steps = tuple({"epoch": 0, "step": index, "learning_rate": 0.1} for index in range(2))
    recipe = Recipe(steps=steps * 500)
    ds = a_set(images, classes=classes)
    ds = replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe}))
    text = ds._repr_html_()
    assert len(text) < 3 * 2**20
    words = page_of(ds).words
    assert max(map(len, words)) <= 200
    left = len(card.recipe_of(ds)) - 40
    assert left > 2900
    assert f"and {left} more" in words
    assert page_of(ds).tags.count("tr") < 60
    assert picture_of(page_of(ds)).size[0] < 1000


def test_sets_of_every_kind_are_shown():
    colour = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    many = np.random.default_rng(0).random((2, 5, 8, 8)).astype(np.float32)
    unlabelled = DistilledSet(
        colour,
        None,
        Manifest(
            task="self-supervised",
            classes=(),
            pixels=Pixels(space="raw", mean=(0.0,) * 3, std=(1.0,) * 3),
            targets="features",
            recipe=Recipe(loss="mse"),
        ),
        np.zeros((4, 2), np.float32),
    )
    for ds in (a_set(colour), a_set(colour, formation=2), a_set(many), a_set(colour, space="normalised"), unlabelled):
        assert picture_of(page_of(ds)).size[0] > 8
        assert len(ds.to_pil()) == len(ds)
    assert repr(unlabelled) == "DistilledSet(4 images 3 x 8 x 8 float32, no classes, targets: features, 3.0 KiB)"
    assert "4: " not in card.overview(unlabelled)["classes"]


@pytest.mark.parametrize("space", ["raw", "normalised"])
def test_pictures_are_the_pixels_clipped_and_rounded(space):
    ds = a_set(space=space)
    std, mean = (0.25, 0.5) if space == "normalised" else (1, 0)
    stored = ds.images.astype(np.float64) * std + mean
    wanted = np.rint(np.clip(stored, 0, 1) * 255)
    found = np.stack([np.asarray(image) for image in ds.to_pil()])
    assert np.abs(found - wanted[:, 0]).max() <= 1  # float32 at a half
    assert (found != wanted[:, 0]).mean() < 0.02
    assert {image.mode for image in ds.to_pil()} == {"L"}


def test_pictures_of_three_channels_are_colour():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7)).astype(np.uint8)
    (first, second) = a_set(images, classes=("ant", "bee")).to_pil()
    assert (first.mode, first.size) == ("RGB", (7, 5))
    assert (np.asarray(second) == images[1].transpose(1, 2, 0)).all()


def test_a_sheet_is_shown():
    sheet = a_set().show()
    assert sheet.mode == "L"
    assert re.fullmatch(r"\d+x\d+", f"{sheet.width}x{sheet.height}")
    assert sheet.width > 3 * 64 * 0.5
