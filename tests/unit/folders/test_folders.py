"""folder:PATH: sizes, channels, damaged files and streaming."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from image_trees import load, picture, pixels, png, put, put_classes

from dd_core.datasets.decoding import ImageFile
from dd_core.datasets.streaming import StreamedFolder
from dd_core.errors import UserError
from dd_core.images import LabelledImages, Source, require_labels

# --- sizes and modes -----------------------------------------------------------------------------------------


def test_mixed_sizes_need_an_image_size(root: Path) -> None:
    put_classes(root / "train", count=2)
    put_classes(root / "test", count=1)
    put(root / "train/cat/wide.png", picture(5, size=(40, 10)))
    with pytest.raises(UserError, match=r"images of 2 sizes, from 6 x 6 to 40 x 10 pixels.*image_size=6$"):
        load(root)
    assert load(root, image_size=8).image_shape == (3, 8, 8)


@pytest.mark.parametrize(("side", "advised"), [(20, 20), (32, 32), (63, 32), (100, 64), (348, 128)])
def test_photographs_of_several_sizes_are_advised_one_of_the_fields(root: Path, side: int, advised: int) -> None:
    for number, name in enumerate(("cat", "dog")):
        put(root / name / "large.png", picture(number, size=(side + 9, side + 5)))
        put(root / name / "small.png", picture(number, size=(side, side + 1)))
    with pytest.raises(UserError, match=rf"from {side} x {side + 1} to .*such as image_size={advised}$"):
        load(root)


def test_test_images_must_have_the_size_of_the_training_images(root: Path) -> None:
    put_classes(root / "train", count=2)
    for name in ("cat", "dog"):
        put(root / "test" / name / "0.png", picture(5, size=(9, 9)))
    assert load(root).image_shape == (3, 6, 6)
    with pytest.raises(UserError, match="from 6 x 6 to 9 x 9"):
        load(root, "test")


def test_images_need_not_be_square(root: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            put(root / name / f"{number}.png", picture(number, size=(8, 5)))
    assert load(root).image_shape == (3, 5, 8)


def test_all_grey_is_one_channel_and_anything_else_three(root: Path) -> None:
    for name in ("cat", "dog"):
        put(root / "train" / name / "l.png", picture(1, mode="L"))
        put(root / "train" / name / "la.png", picture(2, mode="LA"))
        put(root / "train" / name / "sixteen.png", picture(3, mode="I;16"))
        put(root / "train" / name / "bit.png", picture(4, mode="1"))
        put(root / "test" / name / "colour.png", picture(5))
    assert load(root).image_shape == (1, 6, 6)
    assert load(root, "test").image_shape == (1, 6, 6)  # as the training images are
    put(root / "train/cat/p.png", picture(6, mode="P"))
    assert load(root).image_shape == load(root, "test").image_shape == (3, 6, 6)


# --- damaged files -------------------------------------------------------------------------------------------


def truncate(path: Path, *, to: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * to)])


def test_a_truncated_image_is_named(root: Path) -> None:
    put_classes(root)
    put(root / "dog/cut.jpg", picture(1, size=(6, 6)))
    truncate(root / "dog/cut.jpg", to=0.95)
    with pytest.raises(UserError, match=r"my images: dog/cut.jpg: .*truncated.*skip_corrupt=True$") as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_damaged_images_are_left_out_and_counted_on_request(root: Path) -> None:
    put_classes(root / "train", count=4)
    put_classes(root / "test", count=1)
    truncate(root / "train/cat/2.png")
    (root / "train/dog/0.png").write_text("<html>404</html>")
    (root / "train/dog/empty.png").touch()
    with pytest.raises(UserError, match=r"train/cat/2.png: .*\(and 2 more like it\)"):
        load(root)
    for _ in range(2):  # from the index they are left out too
        said: list[str] = []
        source = load(root, skip_corrupt=True, progress=said.append)
        assert require_labels(source).tolist() == [0, 0, 0, 1, 1, 1]
        assert torch.equal(pixels(source)[2], png(root / "train/cat/3.png"))
        assert any("left out 3 unreadable images, the first of 3: train/cat/2.png: " in line for line in said)


def test_a_class_that_loses_all_its_images_is_named(root: Path) -> None:
    put_classes(root, count=2)
    for file in (root / "dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="no readable images in 'dog'"):
        load(root, skip_corrupt=True)


def test_a_repaired_image_is_read_again(root: Path) -> None:
    put_classes(root)
    (root / "dog/0.png").write_text("nothing")
    with pytest.raises(UserError, match=r"dog/0\.png: not an image"):
        load(root)
    put(root / "dog/0.png", picture(77))
    assert len(load(root)) == 8


def test_a_dangling_link_is_named(root: Path) -> None:
    put_classes(root)
    (root / "cat/gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(UserError, match=r"cat/gone\.png: No such file or directory"):
        load(root)


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [header, pixels, b"IEND"]
    body = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(root: Path, side: int) -> None:
    put_classes(root)
    (root / "cat/bomb.png").write_bytes(claimed(side, side))
    with pytest.raises(UserError, match=r"cat/bomb.png: .*pixels"):
        load(root)
    assert len(load(root, skip_corrupt=True)) == 8


def test_odd_file_names_neither_break_lines_nor_output(root: Path) -> None:
    put_classes(root, names=("cat", "d\nog"))
    strange = os.fsencode(root) + b"/cat/caf\xe9\n.png"
    with open(strange, "wb") as file:
        file.write(b"nothing")
    with pytest.raises(UserError, match="not an image") as caught:
        load(root)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
    assert load(root, skip_corrupt=True).classes == ("cat", "d\N{REPLACEMENT CHARACTER}og")


# --- streaming -----------------------------------------------------------------------------------------------


def put_mixture(root: Path) -> None:
    for index, mode in enumerate(("RGB", "L", "RGBA", "P", "LA", "I;16")):
        for name in ("cat", "dog"):
            put(root / name / f"{mode.replace(';', '')}.png", picture(index, size=(9 + index, 7), mode=mode))
            put(root / name / f"{index}.jpg", picture(index, size=(5, 11 + index)))


def test_streamed_pixels_are_the_cached_ones(root: Path) -> None:
    put_mixture(root)
    for split in ("train", "test"):
        cached = load(root, split, image_size=8)
        streamed = load(root, split, image_size=8, memory_limit=len(cached) * 3 * 8 * 8 - 1)
        assert isinstance(cached, LabelledImages)
        assert isinstance(streamed, StreamedFolder)
        assert isinstance(streamed, Source)
        assert torch.equal(pixels(cached), torch.cat(list(streamed.batches(5))))
        assert torch.equal(require_labels(cached), streamed.labels)
        some = torch.tensor([3, 0, 3])
        assert torch.equal(cached.take(some), streamed.take(some))
        assert torch.equal(cached.take(some), streamed.subset(some).take(torch.arange(3)))
        assert (streamed.name, streamed.classes) == (cached.name, cached.classes)
        assert streamed.image_shape == cached.image_shape


def test_a_folder_at_the_limit_is_in_memory(root: Path) -> None:
    put_classes(root)
    assert isinstance(load(root, memory_limit=8 * 3 * 6 * 6), LabelledImages)
    assert isinstance(load(root, memory_limit=8 * 3 * 6 * 6 - 1), StreamedFolder)


def test_the_fingerprint_of_a_stream_sees_what_a_method_sees(root: Path) -> None:
    put_classes(root)
    source = load(root, memory_limit=0)
    everything = torch.arange(len(source))
    assert source.subset(everything).fingerprint() == source.fingerprint()
    others = [
        source.subset(everything.flip(0)),
        source.subset(everything[1:]),
        load(root, memory_limit=0, image_size=5),
        load(root, "test", memory_limit=0),
    ]
    assert len({source.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_the_fingerprint_is_the_same_on_both_sides_of_the_limit(root: Path, tmp_path: Path) -> None:
    """What was distilled from a folder in memory can be resumed and evaluated where it streams."""
    put_classes(root)
    for split in ("train", "test"):
        for size in (None, 5):
            loaded, streamed = (load(root, split, image_size=size, memory_limit=limit) for limit in (10**6, 0))
            assert isinstance(loaded, LabelledImages)
            assert isinstance(streamed, StreamedFolder)
            assert loaded.fingerprint() == streamed.fingerprint()


def test_the_fingerprint_in_memory_sees_what_a_method_sees(root: Path, tmp_path: Path) -> None:
    put_classes(root)
    source = load(root)
    assert isinstance(source, LabelledImages)
    other_labels = tmp_path / "other labels"
    put_classes(other_labels, names=("cat", "dog"))
    (other_labels / "cat/0.png").rename(other_labels / "dog/9.png")
    other_names = tmp_path / "other names"
    put_classes(other_names, names=("cat", "owl"))
    grey = tmp_path / "grey"
    for file in root.rglob("*.png"):
        put(grey / file.relative_to(root), picture(0, mode="L"))
    everything = torch.arange(len(source))
    others = [
        load(root, "test"),
        load(root, image_size=5),
        load(other_labels),
        load(other_names),
        load(grey),
        source.subset(everything[1:]),
        source.subset(everything.flip(0)),
        source.of_classes([0]),
        source.of_classes([1, 0]),
        *source.split(0.5, seed=0),
    ]
    prints = {source.fingerprint(), *(other.fingerprint() for other in others)}
    assert len(prints) == 1 + len(others)


def test_a_file_that_changes_under_a_stream_is_noticed(root: Path) -> None:
    put_classes(root)
    source = load(root, memory_limit=0)
    assert isinstance(source, StreamedFolder)
    file: ImageFile = source.files[2]
    put(root / file.name, picture(12345))
    assert len(source.take(torch.tensor([0, 1]))) == 2
    with pytest.raises(UserError, match="its content changed"):
        source.take(torch.tensor([2]))


def test_taking_nothing_gives_nothing(root: Path) -> None:
    put_classes(root)
    assert load(root, memory_limit=0).take(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 6, 6)
