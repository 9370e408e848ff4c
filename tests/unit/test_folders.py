"""folder:PATH: layouts, splits, shapes, modes, damaged files, the index, the cache and streaming."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dd_core import artefacts, datasets, folders
from dd_core.decoding import ImageFile, Unreadable, decode, examine
from dd_core.errors import UserError
from dd_core.images import LabelledImages, Source, require_labels
from dd_core.parallel import Engine, Workers
from dd_core.streaming import StreamedFolder

ONE = Workers(count=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DD_APPS_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my images"


def picture(seed: int, *, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65536, size[::-1], dtype=np.uint16))
    return Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def put(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def put_classes(folder: Path, *, count: int = 5, names: tuple[str, ...] = ("cat", "dog"), first: int = 0) -> None:
    for index, name in enumerate(names):
        for number in range(count):
            put(folder / name / f"{number}.png", picture(first + 100 * index + number))


def load(root: Path, split: str = "train", **options: object) -> Source:
    settings: dict[str, object] = {"workers": ONE, **options}
    return datasets.load(f"folder:{root}", split=split, **settings)  # pyright: ignore[reportArgumentType]


def pixels(source: Source) -> torch.Tensor:
    return torch.cat(list(source.batches(64)))


def png(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


# --- layouts and splits --------------------------------------------------------------------------------------


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


# --- sizes and modes -----------------------------------------------------------------------------------------


def test_mixed_sizes_need_an_image_size(root: Path) -> None:
    put_classes(root / "train", count=2)
    put_classes(root / "test", count=1)
    put(root / "train/cat/wide.png", picture(5, size=(40, 10)))
    with pytest.raises(UserError, match=r"images of 2 sizes, from 6 x 6 to 40 x 10 pixels.*--image-size 6$"):
        load(root)
    assert load(root, image_size=8).image_shape == (3, 8, 8)


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


def test_the_centre_of_the_shorter_side_is_kept(root: Path) -> None:
    """12 x 4 to 4 x 4 needs no resizing, only the middle third; 8 x 8 to 4 x 4 only resizing."""
    wide, square = picture(1, size=(12, 4)), picture(2, size=(8, 8))
    for image, expected in [
        (wide, wide.crop((4, 0, 8, 4))),
        (square, square.resize((4, 4), Image.Resampling.BICUBIC)),
    ]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found = decode(buffer.getvalue(), shape=(3, 4, 4))
        assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))


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


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_modes_become_what_pillow_says(mode: str) -> None:
    image = picture(3, mode=mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(255)
    found = decode(encoded(image), shape=(3, 6, 6))
    assert np.array_equal(found.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb() -> None:
    data = encoded(picture(3).convert("CMYK"), "TIFF")
    expected = picture(3).convert("CMYK").convert("RGB")
    assert np.array_equal(decode(data, shape=(3, 6, 6)).transpose(1, 2, 0), np.asarray(expected))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(levels))
    assert decode(data, shape=(1, 1, 4)).tolist() == [[[0, 1, 128, 255]]]
    assert decode(data, shape=(3, 1, 4)).tolist() == [[[0, 1, 128, 255]]] * 3


def test_transparency_is_laid_on_black() -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 0))
    assert decode(encoded(image), shape=(3, 1, 2)).tolist() == [[[200, 0]], [[100, 0]], [[50, 0]]]
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    assert decode(encoded(palette, transparency=0), shape=(3, 1, 2)).tolist() == [[[0, 200]], [[0, 100]], [[0, 50]]]
    grey = Image.new("LA", (2, 1), (80, 255))
    grey.putpixel((1, 0), (80, 0))
    assert decode(encoded(grey), shape=(1, 1, 2)).tolist() == [[[80, 0]]]


def test_orientation_is_applied() -> None:
    upright = picture(3, size=(6, 4))
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by a quarter, clockwise, to be seen as it was taken
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=tag)
    assert (examine(data).width, examine(data).height) == (6, 4)
    assert np.array_equal(decode(data, shape=(3, 4, 6)).transpose(1, 2, 0), np.asarray(upright))


# --- damaged files -------------------------------------------------------------------------------------------


def truncate(path: Path, *, to: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * to)])


def test_a_truncated_image_is_named(root: Path) -> None:
    put_classes(root)
    put(root / "dog/cut.jpg", picture(1, size=(6, 6)))
    truncate(root / "dog/cut.jpg", to=0.95)
    with pytest.raises(UserError, match=r"my images: dog/cut.jpg: .*truncated.*--skip-corrupt$") as caught:
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


def test_other_formats_in_disguise_are_not_opened() -> None:
    """PostScript would be handed to another program."""
    postscript = encoded(picture(0), "EPS")
    with pytest.raises(Unreadable, match="not an image, whatever its name says"):
        examine(postscript)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(Unreadable, match="floating-point"):
        examine(encoded(Image.fromarray(np.ones((3, 3), dtype=np.float32)), "TIFF"))


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


# --- the index and the cache ---------------------------------------------------------------------------------


def spoil(root: Path) -> None:
    """Replace the content of every file; its size and time stay."""
    for file in root.rglob("*.png"):
        stat = file.stat()
        file.write_bytes(b"\0" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_second_load_reads_no_image(root: Path) -> None:
    put_classes(root)
    first = [load(root), load(root, "test")]
    spoil(root)
    said: list[str] = []
    second = [load(root, progress=said.append), load(root, "test", progress=said.append)]
    assert [s.fingerprint() for s in first] == [s.fingerprint() for s in second]
    assert said == []


def test_a_touched_file_is_read_again(root: Path) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    os.utime(root / "cat/0.png")
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert said == ["reading 1 images for the first time"]
    put(root / "cat/0.png", picture(999))
    put(root / "cat/1.png", picture(998))  # one of the two is in the training split
    assert load(root).fingerprint() != before


def test_a_content_that_changed_unseen_is_never_cached_under_the_old_name(root: Path) -> None:
    put_classes(root)
    load(root)
    spoil(root)
    with pytest.raises(UserError, match=r"0\.png: its content changed since it was examined; touch it"):
        load(root, image_size=3)  # has to decode again


def test_a_removed_file_is_forgotten(root: Path) -> None:
    put_classes(root, count=5)
    load(root)
    (root / "cat/3.png").unlink()
    assert len(load(root)) + len(load(root, "test")) == 9


def test_a_damaged_index_is_made_again(root: Path, cache: Path) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    for content in (b"", b"{}", b"[1]", index.read_bytes()[:-9], b"\xff\xfe", b'{"version":1}'):
        index.write_bytes(content)
        assert load(root).fingerprint() == before


def with_files(index: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "files": change(content["files"])}))


@pytest.mark.parametrize("files", [None, 5, [], [["cat/0.png", 1]], "rows"], ids=str)
def test_an_index_without_a_table_is_made_again(root: Path, cache: Path, files: object) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    with_files(index, lambda _: files)
    assert load(root).fingerprint() == before


STRANGE_ROWS: list[object] = [None, 5, "row", [], {}, [1], [1] * 6, [[1, 2], 3, "x", True, 6, 6]]
STRANGE_FACTS: list[list[object]] = [[], ["x", False], [7, False, 6, 6], ["x", 0, 6, 6], ["x", False, "6", 6]]
STRANGE_FACTS += [["x", False, 0, 6], ["x", False, 6, -6], ["x", False, 6, 6, 6]]


@pytest.mark.parametrize("row", STRANGE_ROWS, ids=str)
def test_rows_that_are_none_are_made_again(root: Path, cache: Path, row: object) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    with_files(index, lambda rows: dict.fromkeys(rows, row))
    assert load(root).fingerprint() == before


@pytest.mark.parametrize("facts", STRANGE_FACTS, ids=str)
def test_rows_of_unchanged_files_with_strange_facts_are_made_again(
    root: Path, cache: Path, facts: list[object]
) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    with_files(index, lambda rows: {name: [*row[:2], *facts] for name, row in rows.items()})
    assert load(root).fingerprint() == before


def test_a_damaged_part_is_decoded_again(root: Path, cache: Path) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (part,) = cache.glob("artefacts/folder/*/part-00000.safetensors")
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert "checksum" in said[0]


def test_an_interrupted_making_goes_on_where_it_stopped(root: Path, cache: Path) -> None:
    put_classes(root)
    source = load(root, memory_limit=0)
    assert isinstance(source, StreamedFolder)
    spec = folders.pixels_of(source).model_copy(update={"part_size": 3})
    files = folders.Files(source.folder, source.files)
    sixth = root / source.files[5].name
    data = sixth.read_bytes()
    sixth.unlink()
    with pytest.raises(UserError, match=f"{sixth.name}: No such file"):
        artefacts.get(spec, resources=files, workers=ONE)
    folder = cache / "artefacts/folder" / spec.digest()
    assert sorted(file.name for file in folder.glob("[!l]*")) == ["part-00000.safetensors"]
    done = (folder / "part-00000.safetensors").stat().st_mtime_ns
    sixth.write_bytes(data)
    made = artefacts.get(spec, resources=files, workers=ONE)
    assert (folder / "part-00000.safetensors").stat().st_mtime_ns == done
    assert [len(tensors["images"]) for tensors, _ in made] == [3, 3, 2]
    joined = np.concatenate([tensors["images"] for tensors, _ in made])
    assert np.array_equal(joined, pixels(source).numpy())


def test_an_unusable_cache_costs_time_and_nothing_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "file/cache"))
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert any("every image will be read again next time" in line for line in said)
    assert any("decoding without a cache" in line for line in said)


def test_processes_give_the_same_as_one(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More files than one job examines, and an error that comes back out of another process."""
    for index, name in enumerate(("cat", "dog")):
        for number in range(300):
            put(root / name / f"{number:03}.png", picture(1000 * index + number, size=(2, 2)))
    alone = load(root)
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "another cache"))
    assert load(root, workers=Workers(count=2)).fingerprint() == alone.fingerprint()
    streamed = load(root, memory_limit=0)
    assert isinstance(streamed, StreamedFolder)
    spec = folders.pixels_of(streamed).model_copy(update={"part_size": 240})
    spoil(root)
    with pytest.raises(UserError, match="content changed"):
        artefacts.get(spec, resources=folders.Files(streamed.folder, streamed.files), workers=Workers(count=2))


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_cluster_is_not_asked_for_files_of_this_machine(
    root: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    """Its nodes need not have the folder; and here neither Ray nor Dask can be imported."""
    for name in ("ray", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    for index, name in enumerate(("cat", "dog")):
        for number in range(300):
            put(root / name / f"{number:03}.png", picture(1000 * index + number, size=(2, 2)))
    source = load(root, memory_limit=0, workers=Workers(count=2, engine=engine))
    assert isinstance(source, StreamedFolder)
    monkeypatch.setattr(folders, "_PART_BYTES", 240 * 12)  # two parts
    loaded = folders.in_memory(source, workers=Workers(count=2, engine=engine), progress=lambda _: None)
    assert torch.equal(pixels(loaded), pixels(source))


def test_workers_do_not_import_torch() -> None:
    """It takes seconds, and decoding needs none of it."""
    code = "import sys, dd_core.folders, dd_core.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
