"""Lines about images with transparency, of one colour, all the same, of few grey levels; how messages name a folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from image_trees import load, picture, put, put_classes
from PIL import Image

from dd_core.errors import UserError
from dd_core.images import LabelledImages, called
from dd_core.selection import members_of


def put_all(root: Path, *images: Image.Image, names: tuple[str, ...] = ("cat", "dog")) -> None:
    """The images as training images of each class; test images are ordinary."""
    for name in names:
        for number, image in enumerate(images):
            put(root / "train" / name / f"{number}.png", image)
        put(root / "test" / name / "0.png", picture(7))


def notes(root: Path, **options: object) -> list[str]:
    """What a second load says, in memory and streamed, where no file is read again."""
    load(root, **options)
    for file in (root / "train").rglob("*.png"):
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    heard: list[list[str]] = []
    for memory_limit in (10**9, 0):
        said: list[str] = []
        load(root, memory_limit=memory_limit, progress=said.append, **options)
        heard.append([line for line in said if "above the limit" not in line])
    assert heard[0] == heard[1]
    return heard[0]


def grey(*levels: int, width: int = 6) -> Image.Image:
    return Image.fromarray(np.resize(np.array(levels, dtype=np.uint8), (6, width)))


def drawing(ink: int, *, ground: int = 0, place: int = 2, mode: str = "RGBA") -> Image.Image:
    """Ink on a ground of that opacity."""
    pixels = np.zeros((6, 6, 4), dtype=np.uint8)
    pixels[..., 3] = ground
    pixels[place : place + 2] = (ink, ink, ink, 255)
    return Image.fromarray(pixels).convert(mode)


def test_ordinary_images_need_no_word(root: Path) -> None:
    put_all(root, picture(1), picture(2), picture(3).convert("RGBA"))
    assert notes(root) == []


def test_images_with_transparency_are_counted(root: Path) -> None:
    put_all(root, picture(1), drawing(200), drawing(90, ground=254), picture(3).convert("RGBA"))
    assert notes(root) == ["transparency in 4 of 8 images is laid on black"]


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("test", 2)])
@pytest.mark.parametrize("memory_limit", [10**9, 0])
def test_images_of_the_other_split_are_not_counted(root: Path, split: str, count: int, memory_limit: int) -> None:
    for name in ("cat", "dog"):
        for number in range(5):
            put(root / name / f"{number}.png", drawing(50 + number))
    said: list[str] = []
    load(root, split, memory_limit=memory_limit, progress=said.append)
    assert f"transparency in {count} of {count} images is laid on black" in said


def test_images_that_transparency_empties_are_counted(root: Path) -> None:
    flat = Image.new("RGB", (6, 6), (1, 2, 3))  # of one colour, and opaque
    put_all(root, flat, drawing(200), drawing(0), drawing(0, place=4))
    assert notes(root) == [
        "transparency in 6 of 8 images is laid on black; 4 of them are of one colour after that",
    ]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("memory_limit", [10**9, 0])
def test_drawings_that_transparency_empties_are_refused(root: Path, mode: str, memory_limit: int) -> None:
    put_all(root, drawing(0, mode=mode), drawing(0, place=3, mode=mode))
    for _ in range(2):  # from the index, too
        with pytest.raises(UserError, match=r"my images: transparency is laid on black, and then each of the 4 images"):
            load(root, memory_limit=memory_limit)
    assert len(load(root, "test")) == 2
    put(root / "train/cat/9.png", picture(1))
    assert len(load(root, memory_limit=memory_limit)) == 5


def test_black_drawings_in_a_palette_are_refused(root: Path) -> None:
    image = drawing(0).getchannel("A").point(lambda opacity: opacity > 0 and 1).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    for name in ("cat", "dog"):
        for number in range(3):
            (root / name).mkdir(parents=True, exist_ok=True)
            image.save(root / name / f"{number}.png", transparency=0)
    with pytest.raises(UserError, match="save them on a ground of another colour, white for instance"):
        load(root)


def test_images_of_one_colour_each_are_told(root: Path) -> None:
    put_all(root, Image.new("RGB", (6, 6), (1, 2, 3)), Image.new("RGB", (6, 6), (200, 2, 3)))
    assert notes(root) == ["each of the 4 images is of one colour: there is nothing in them to learn from"]


def test_images_that_are_all_the_same_are_told(root: Path) -> None:
    put_all(root, picture(1), picture(1))
    Image.open(root / "train/cat/0.png").save(root / "train/cat/0.png", compress_level=0)  # other bytes, other sha256
    assert notes(root) == ["the 4 images are all the same"]


def test_a_large_image_is_looked_at_whole(root: Path) -> None:
    """One pixel of 300 x 300 differs, in the last row."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    other = pixels.copy()
    other[-1, -1] ^= 1
    put_all(root, Image.fromarray(pixels), Image.fromarray(other))
    assert notes(root) == []
    flat = np.full((300, 300), 7, dtype=np.uint8)
    flat[-1, -1] = 255
    put_all(root / "flat", Image.fromarray(flat), grey(9, 8, width=300))
    assert notes(root / "flat", image_size=6) == [
        "the images have 4 grey levels only: 7, 8, 9, 255 (black is 0, white 255)"
    ]


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        (
            [0, 1],
            "the images have 2 grey levels only: 0, 1 (black is 0, white 255), so all are nearly black; if the "
            "highest stands for white, spread the levels over 0 to 255 first",
        ),
        (
            [*range(10)],
            "the images have 10 grey levels only: 0 to 9 (black is 0, white 255), so all are nearly black; if",
        ),
        ([0, 255], "the images have 2 grey levels only: 0, 255 (black is 0, white 255)"),
        (
            [*range(0, 256, 17)],
            "the images have 16 grey levels only: 0, 17, 34, 51, 68, ... 255 (black is 0, white 255)",
        ),
        ([*range(32)], "the images have 32 grey levels only: 0 to 31 (black is 0, white 255), so all are nearly black"),
        ([*range(33)], ""),
    ],
    ids=["0-1", "0-9", "0-255", "steps", "32", "33"],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_few_grey_levels_are_told(root: Path, levels: list[int], line: str, mode: str) -> None:
    first, second = grey(*levels).convert(mode), grey(*levels[::-1]).convert(mode)
    put_all(root, first, second)
    found = notes(root)
    assert len(found) == bool(line)
    assert "".join(found).startswith(line)


def test_levels_are_those_of_all_images_together(root: Path) -> None:
    put_all(root, grey(0, 1), grey(0, 2), grey(5, 0))
    assert notes(root)[0].startswith("the images have 4 grey levels only: 0, 1, 2, 5 (")
    put_all(root / "colour", grey(0, 1).convert("RGB"), Image.new("RGB", (6, 6), (1, 0, 0)))
    assert notes(root / "colour") == []


def test_wide_samples_that_use_few_of_their_bits_are_told(root: Path) -> None:
    """Twelve bits in sixteen, as cameras write them: 4095 of 65535 is level 16."""
    put_all(root, *(Image.fromarray(np.resize(np.arange(0, 4096, 64, dtype=np.uint16), (8, 8))) for _ in range(2)))
    assert "the images have 17 grey levels only: 0 to 16" in notes(root)[-1]


# --- what messages call a folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_limit", [10**9, 0])
def test_a_message_names_the_folder_and_what_is_held_out(root: Path, memory_limit: int) -> None:
    put_classes(root, count=5)
    source = load(root, memory_limit=memory_limit)
    held = r"2 of 10 images, a fifth of each class, are held out as the test split"
    message = rf"^folder:{root} \({held}\): class 'dog' has 4 images, and 5 are asked for; ask for fewer$"
    with pytest.raises(UserError, match=message):
        members_of(source, [4, 5])
    with pytest.raises(UserError, match=message):
        members_of(source.subset(torch.arange(8)), [4, 5])
    assert source.name == source.subset(torch.arange(3)).name == "folder"


def test_parts_of_a_folder_are_called_like_it(root: Path) -> None:
    put_classes(root / "train", count=5)
    put_classes(root / "test", count=1)
    source = load(root)
    assert isinstance(source, LabelledImages)
    parts = [source, *source.split(0.2, seed=0), source.of_classes([1]), source.with_label_noise(0.5, seed=0)]
    assert [called(part) for part in parts] == [f"folder:{root}"] * 5
    assert [part.name for part in parts] == ["folder"] * 5


def test_a_source_without_an_origin_goes_by_its_name() -> None:
    images = LabelledImages(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None, ("a",), "blobs")
    assert called(images) == "blobs"
