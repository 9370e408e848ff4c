"""folder:PATH: what is kept between two loads, and processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from image_trees import ONE, encoded, load, picture, pixels, put, put_classes, spoil
from PIL import Image

from dd_core import artefacts, store
from dd_core.datasets import decoding, file_rows, folder_index, folder_pixels, folders
from dd_core.datasets.streaming import StreamedFolder
from dd_core.errors import UserError
from dd_core.system.parallel import Engine, Workers

HELD_OUT = "2 of 10 images, a fifth of each class, are held out as the test split"


def test_the_second_load_reads_no_image(root: Path) -> None:
    put_classes(root)
    first = [load(root), load(root, "test")]
    spoil(root)
    said: list[str] = []
    second = [load(root, progress=said.append), load(root, "test", progress=said.append)]
    assert [s.fingerprint() for s in first] == [s.fingerprint() for s in second]
    assert said == [HELD_OUT, HELD_OUT]


def test_a_touched_file_is_read_again(root: Path) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    os.utime(root / "cat/0.png")
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert said == ["reading 1 images for the first time", HELD_OUT]
    put(root / "cat/0.png", picture(999))
    put(root / "cat/1.png", picture(998))  # one of the two is in the training split
    assert load(root).fingerprint() != before


def test_a_content_that_changed_unseen_is_never_cached_under_the_old_name(root: Path) -> None:
    put_classes(root)
    load(root)
    spoil(root)
    with pytest.raises(UserError, match=r"0\.png: its content changed since it was examined; touch it"):
        load(root, image_size=3)  # has to decode again


def known_names(cache: Path) -> list[str]:
    """The names in the one index, read by the rule that it is written by: each text ends where `ends` says."""
    (index,) = (cache / "index").iterdir()
    tensors, _ = store.read_container(index, folder_index._INDEX)
    block, ends = tensors["names"].tobytes(), [0, *tensors["ends"].tolist()]
    return [os.fsdecode(block[begin:end]) for begin, end in pairwise(ends)]


def test_names_are_in_order_in_the_index_and_class_by_class_in_the_source(root: Path, cache: Path) -> None:
    classes = ("cat", "cat big", "cat-2")  # as paths, 'cat/' comes after the others
    put_classes(root / "train", count=3, names=classes)
    put_classes(root / "test", count=3, names=classes)
    source = load(root, memory_limit=0)
    assert isinstance(source, StreamedFolder)
    names = [f"{name}/{number}.png" for name in classes for number in range(3)]
    assert [file.name for file in source.files] == names
    assert known_names(cache) == sorted(names)
    said: list[str] = []
    assert load(root, memory_limit=0, progress=said.append).fingerprint() == source.fingerprint()
    again = load(root, labelled=False, memory_limit=0, progress=said.append)  # whose names are in order
    assert isinstance(again, StreamedFolder)
    assert [file.name for file in again.files] == sorted(names)
    assert not any("for the first time" in line for line in said)
    assert {*again.files} == {*source.files}
    assert [len(Image.open(root / "train" / file.name).tobytes()) for file in again.files] == [108] * 9


@pytest.mark.parametrize("new", ["ant/5.png", "cat/00.png", "cat/9.png", "dog/z.png", "cat/a/0.png"])
def test_only_new_files_are_read(root: Path, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_classes(root, names=("ant", "cat", "dog"))
    load(root)
    spoil(root)
    monkeypatch.setattr(folder_index, "_TOGETHER", 4)
    put(root / new, picture(77))
    said: list[str] = []
    source = load(root, memory_limit=0, progress=said.append)
    assert said[0] == "reading 1 images for the first time"
    assert isinstance(source, StreamedFolder)
    facts = {file.name: file.sha256 for file in source.files}
    known = {f"{name}/{n}.png": 100 * i + n for i, name in enumerate(("ant", "cat", "dog")) for n in range(5)}
    for name, sha256 in facts.items():  # each row is of its own file
        image = encoded(picture(known.get(name, 77)))
        assert sha256 == hashlib.sha256(image).hexdigest(), name


def test_times_after_the_year_2262_are_compared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take more than 63 bits, and not every file system has them: here `os.stat` says so."""
    put_classes(root)
    real = folder_index._stat
    late = {"0.png": 2**63 + 5}

    def stat(path: str) -> Any:
        found = real(path)
        return SimpleNamespace(st_size=found.st_size, st_mtime_ns=late.get(Path(path).name, found.st_mtime_ns))

    monkeypatch.setattr(folder_index, "_stat", stat)
    before = load(root).fingerprint()
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert said == [HELD_OUT]
    late["0.png"] += 1
    load(root, progress=said.append)
    assert said[1] == "reading 2 images for the first time"


def test_the_index_of_an_earlier_version_gives_way(root: Path, cache: Path) -> None:
    put_classes(root)
    load(root)
    (index,) = (cache / "index").iterdir()
    index.with_suffix(".json").write_text("{}")
    index.unlink()
    load(root)
    assert [*(cache / "index").iterdir()] == [index]


def test_a_removed_file_is_forgotten(root: Path) -> None:
    put_classes(root, count=5)
    load(root)
    (root / "cat/3.png").unlink()
    said: list[str] = []
    assert len(load(root, progress=said.append)) + len(load(root, "test")) == 9
    assert not any("for the first time" in line for line in said)


def test_a_damaged_index_is_made_again(root: Path, cache: Path) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    for content in (b"", b"{}", b"[1]", index.read_bytes()[:-9], b"\xff\xfe", b'{"version":1}'):
        index.write_bytes(content)
        assert load(root).fingerprint() == before


def change(index: Path, tensors: Mapping[str, np.ndarray], **body: object) -> None:
    """Replace tensors of an index, or take out those that are None."""
    before, rest = store.read_container(index, folder_index._INDEX)
    after = {name: array for name, array in {**before, **tensors}.items() if array is not None}
    body = {"examined": rest["examined"], **body}
    store.write_container(index, folder_index._INDEX, after, body)


NUMBERS = np.arange(10)
BLOCK = b"".join(f"{name}/{number}.png".encode() for name in ("cat", "dog") for number in range(5))
STRANGE: dict[str, dict[str, Any]] = {
    **{f"no {name}": {name: None} for name in ("names", "ends", "stats", "sha256", "headers", "levels", "level_ends")},
    "a name too few": {"ends": NUMBERS[:9]},
    "names that end before they begin": {"ends": NUMBERS[::-1].copy()},
    "names that begin before the block": {"ends": np.array([-5, *range(18, 91, 9)])},
    "names that go on behind the block": {"ends": NUMBERS + 10**6},
    "names that do not fill the block": {"names": np.frombuffer(BLOCK + b"x", np.uint8)},
    "ends that are floats": {"ends": NUMBERS.astype(np.float64)},
    "ends in a table": {"ends": NUMBERS.reshape(5, 2)},
    "one end": {"ends": np.array(7)},
    "names that are numbers": {"names": NUMBERS},
    "sizes without times": {"stats": NUMBERS},
    "times that are floats": {"stats": np.zeros((10, 2))},
    "short checksums": {"sha256": np.zeros((10, 20), np.uint8)},
    "few checksums": {"sha256": np.zeros((9, 32), np.uint8)},
    "headers of another length": {"headers": np.ones((10, 7), np.uint8)},
    "headers in a row": {"headers": np.ones(10 * file_rows.HEADER.itemsize, np.uint8)},
    "levels that are no digits": {"levels": np.frombuffer(b"xyz!", np.uint8), "level_ends": np.array([4])},
    "levels that are there twice": {"levels": np.array([], np.uint8), "level_ends": np.array([0, 0])},
    "levels without ends": {"levels": np.frombuffer(b"00ff", np.uint8), "level_ends": np.array([], np.int64)},
}


@pytest.mark.parametrize("tensors", STRANGE.values(), ids=STRANGE)
def test_a_strange_index_is_made_again(root: Path, cache: Path, tensors: dict[str, Any]) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    change(index, tensors)
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert said[0] == "reading 10 images for the first time"


HEADERS = [("height", 0), ("height", -6), ("width", 0), ("levels", 1), ("levels", -1), ("grey", 2), ("constant", 255)]


@pytest.mark.parametrize(("field", "value"), HEADERS)
def test_an_index_with_one_strange_header_is_made_again(root: Path, cache: Path, field: str, value: int) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    headers = store.read_container(index, folder_index._INDEX)[0]["headers"].copy()
    column = headers.view(file_rows.HEADER)[field]
    (column.view(np.uint8) if column.dtype == bool else column)[3] = value
    change(index, {"headers": headers})
    said: list[str] = []
    assert load(root, progress=said.append).fingerprint() == before
    assert said[0] == "reading 10 images for the first time"


def test_an_index_whose_names_are_out_of_order_gives_no_file_anothers_facts(root: Path, cache: Path) -> None:
    put_classes(root)
    before = load(root).fingerprint()
    (index,) = (cache / "index").iterdir()
    names = file_rows.Names.of(known_names(cache)[::-1])
    change(index, {"names": names.block, "ends": names.ends})
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
    assert "checksum" in said[1]


def test_an_interrupted_making_goes_on_where_it_stopped(root: Path, cache: Path) -> None:
    put_classes(root)
    source = load(root, memory_limit=0)
    assert isinstance(source, StreamedFolder)
    spec = folder_pixels.pixels_of(source).model_copy(update={"part_size": 3})
    files = folder_pixels.Files(source.folder, source.files)
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
    spec = folder_pixels.pixels_of(streamed).model_copy(update={"part_size": 240})
    spoil(root)
    with pytest.raises(UserError, match="content changed"):
        artefacts.get(spec, resources=folder_pixels.Files(streamed.folder, streamed.files), workers=Workers(count=2))


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
    monkeypatch.setattr(folder_pixels, "_PART_BYTES", 240 * 12)  # two parts
    loaded = folders.in_memory(source, workers=Workers(count=2, engine=engine), progress=lambda _: None)
    assert torch.equal(pixels(loaded), pixels(source))


def test_workers_do_not_import_torch() -> None:
    """It takes seconds, and decoding needs none of it."""
    code = "import sys, dd_core.datasets.folder_pixels, dd_core.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_index_of_another_decoding_counts_as_empty(root: Path, cache: Path) -> None:
    put_classes(root)
    load(root)
    (index,) = (cache / "index").iterdir()
    version, pillow = folder_index._EXAMINED
    for examined in (None, [], [version - 1, pillow], [version, "1.0"], [version]):
        change(index, {}, examined=examined)
        said: list[str] = []
        load(root, progress=said.append)
        assert said[0] == "reading 10 images for the first time"


def test_pixels_cached_by_another_decoding_are_not_used(root: Path) -> None:
    put_classes(root)
    source = load(root, memory_limit=0)
    assert isinstance(source, StreamedFolder)
    spec = folder_pixels.pixels_of(source)
    assert spec.decoding == decoding.VERSION
    assert spec.digest() != spec.model_copy(update={"decoding": spec.decoding - 1}).digest()
