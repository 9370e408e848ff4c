"""folder:PATH: what is kept between two loads, and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from image_trees import ONE, load, picture, pixels, put, put_classes, spoil

from dd_core import artefacts
from dd_core.datasets import decoding, folder_index, folder_pixels, folders
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


@pytest.mark.parametrize(
    "names", [[], ["cat/0.png"], ["dog/1.png", "cat/10.png", "cat/9.png", 'a"b/\u00fc\udcff.png', "A/{}.png"]]
)
def test_the_index_is_one_json_text_in_order(names: list[str]) -> None:
    header = decoding.Header(True, 3, 4, False, True, 77, "00ff")
    stats = {name: (100 + row, 1_700_000_000_000_000_000 + row) for row, name in enumerate(names)}
    facts = {name: (f"{row:064x}", header._replace(width=5 + row)) for row, name in enumerate(names)}
    rows = {name: [*stats[name], facts[name][0], *facts[name][1]] for name in names}
    whole = {"version": [2, decoding.VERSION], "pillow": PIL.__version__, "files": rows}
    text = b"".join(folder_index._text(stats, facts)).decode()
    assert text == json.dumps(whole, sort_keys=True, separators=(",", ":"))


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
FACTS = ["x", False, 6, 6, False, False, 7, "00ff"]  # as they should be
STRANGE_FACTS: list[list[object]] = [[], FACTS[:4], [*FACTS, 6]]
STRANGE_FACTS += [
    [*FACTS[:place], wrong, *FACTS[place + 1 :]]
    for place, wrong in [(0, 7), (1, 0), (2, "6"), (2, 0), (3, -6), (4, 1), (5, None), (6, True), (7, 0), (7, "0")]
]
STRANGE_FACTS += [[*FACTS[:7], "xyz!"]]


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
    content = json.loads(index.read_text())
    for version in (1, [content["version"][0] - 1, content["version"][1]], [content["version"][0], 1]):
        index.write_text(json.dumps({**content, "version": version}))
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
