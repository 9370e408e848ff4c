"""Views of images: cut out of the stored pixels, or of a file at its own size, as Pillow does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_trees import load, picture, put, spoil
from PIL import Image, ImageOps

from dd_core.augment.views import draw_boxes
from dd_core.datasets.streaming import StreamedFolder
from dd_core.errors import UserError
from dd_core.images import LabelledImages, Source
from dd_core.streams import generator

SIDES = ((40, 30), (9, 17), (64, 64), (1, 5))  # width and height


def put_photographs(root: Path) -> None:
    for index, name in enumerate(("cat", "dog")):
        for number, size in enumerate(SIDES):
            put(root / name / f"{number}.png", picture(10 * index + number, size=size))
        turned = picture(50 + index, size=(24, 10))
        turned.getexif()[274] = 6  # is seen turned by a quarter
        turned.save(root / name / "turned.jpg", exif=turned.getexif())
        put(root / name / "grey.png", picture(70 + index, size=(12, 11), mode="L"))


def streamed(root: Path, **options: object) -> StreamedFolder:
    source = load(root, image_size=8, memory_limit=0, **options)
    assert isinstance(source, StreamedFolder)
    return source


def by_pillow(image: Image.Image, box: list[int], *, flip: bool, size: tuple[int, int]) -> torch.Tensor:
    """Crop, then resize, then mirror an image in colour."""
    top, left, height, width = box
    view = image.crop((left, top, left + width, top + height)).resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(ImageOps.mirror(view) if flip else view)).permute(2, 0, 1)


def draws(source: Source, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "a test's views")
    boxes = draw_boxes(source.sizes(rows), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), generator=draw)
    return boxes, torch.rand(len(rows), generator=draw) < 0.5


@pytest.mark.parametrize("size", [(8, 8), (30, 11)])
def test_a_view_of_a_file_is_cut_out_of_it_at_its_own_size(root: Path, size: tuple[int, int]) -> None:
    put_photographs(root)
    source = streamed(root)
    images = [ImageOps.exif_transpose(Image.open(root / file.name)).convert("RGB") for file in source.files]
    assert source.sizes(torch.arange(len(source))).tolist() == [[image.height, image.width] for image in images]
    rows = torch.tensor([*range(len(source)), 3, 3, 0])
    boxes, flips = draws(source, rows)
    boxes[0] = torch.tensor([0, 0, *source.sizes(rows)[0]])  # all of an image
    assert 0 < flips.sum() < len(flips)
    shown = source.views(rows, boxes, flips=flips, size=size)
    for row, box, flip, view in zip(rows.tolist(), boxes.tolist(), flips.tolist(), shown, strict=True):
        assert torch.equal(view, by_pillow(images[row], box, flip=flip, size=size)), source.files[row].name


def test_sizes_follow_their_files(root: Path) -> None:
    put_photographs(root)
    source = streamed(root)
    some = torch.tensor([4, 0, 2])
    sizes = source.sizes(some)
    part = source.subset(some)
    assert part.sizes(torch.arange(3)).tolist() == sizes.tolist()
    boxes, flips = draws(part, torch.arange(3))
    views = part.views(torch.arange(3), boxes, flips=flips, size=(6, 6))
    assert torch.equal(views, source.views(some, boxes, flips=flips, size=(6, 6)))
    spoil(root)
    assert source.sizes(some).tolist() == sizes.tolist(), "a file was read"
    with pytest.raises(UserError, match="its content changed"):
        source.views(some, boxes, flips=flips, size=(6, 6))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_view_of_an_image_in_memory_is_cut_out_of_its_pixels(channels: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, channels, 14, 20), dtype=np.uint8))
    source = LabelledImages(pixels, torch.zeros(5, dtype=torch.int64), ("a",), "x")
    rows = torch.tensor([4, 0, 1, 1, 2, 3])
    assert source.sizes(rows).tolist() == [[14, 20]] * 6
    boxes, flips = draws(source, rows)
    shown = source.views(rows, boxes, flips=flips, size=(7, 9))
    for row, box, flip, view in zip(rows.tolist(), boxes.tolist(), flips.tolist(), shown, strict=True):
        filled = torch.cat([pixels[row], pixels[row][:1].expand(3 - channels, -1, -1)])  # Pillow knows three channels
        image = Image.fromarray(filled.permute(1, 2, 0).numpy())
        assert torch.equal(view, by_pillow(image, box, flip=flip, size=(7, 9))[:channels])
    nothing = source.views(rows[:0], boxes[:0], flips=flips[:0], size=(7, 9))
    assert (nothing.shape, nothing.dtype) == ((0, channels, 7, 9), torch.uint8)


@pytest.mark.parametrize("box", [(-1, 0, 3, 3), (0, -2, 3, 3), (0, 0, 0, 3), (0, 0, 3, 0), (6, 0, 3, 3), (0, 7, 3, 2)])
def test_a_box_beyond_its_image_is_refused(root: Path, box: tuple[int, ...]) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            put(root / name / f"{number}.png", picture(number, size=(8, 8)))
    boxes, rows = torch.tensor([(0, 0, 8, 8), box]), torch.tensor([1, 0])
    flips = torch.tensor([False, True])
    for source in (load(root), load(root, memory_limit=0)):
        with pytest.raises(UserError) as caught:
            source.views(rows, boxes, flips=flips, size=(4, 4))
        top, left, high, wide = box
        assert str(caught.value) == (
            f"box 1, {wide} x {high} pixels from column {left} and row {top} on, is not within its image of 8 x 8"
        )
