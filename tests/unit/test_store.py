"""Containers, sets and states on disk. Hostile files have a file of their own under reliability/."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save

from dd_core import store
from dd_core.distilled import DistilledSet, Pixels, Size
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.runner import distill
from dd_core.store import files
from dd_core.testing import blobs


@pytest.fixture
def ds():
    return distill(method("average"), blobs(), Size(ipc=1))


def test_a_set_is_a_safetensors_file_with_one_metadata_key(tmp_path, ds):
    sha256 = store.write_set(tmp_path / "s.safetensors", ds)
    assert hashlib.sha256((tmp_path / "s.safetensors").read_bytes()).hexdigest() == sha256
    with safe_open(tmp_path / "s.safetensors", framework="np") as file:
        assert set(file.keys()) == {"images", "labels"}
        assert list(file.metadata()) == ["manifest"]
        assert np.array_equal(file.get_tensor("images"), ds.images)
        manifest = json.loads(file.metadata()["manifest"])
    assert set(manifest) == {"body", "sha256"}
    assert manifest["body"]["manifest"]["provenance"]["method"] == "average"


def test_equal_sets_are_equal_bytes_and_a_set_comes_back_whole(tmp_path, ds):
    store.write_set(tmp_path / "a.safetensors", ds)
    store.write_set(tmp_path / "b.safetensors", store.read_set(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_nothing_in_a_set_says_when_or_where_it_was_made(tmp_path, ds, monkeypatch):
    store.write_set(tmp_path / "a.safetensors", ds)
    text = (tmp_path / "a.safetensors").read_bytes()
    assert str(tmp_path).encode() not in text
    monkeypatch.chdir(tmp_path)
    assert store.write_set(tmp_path / "b.safetensors", distill(method("average"), blobs(), Size(ipc=1))) == (
        hashlib.sha256(text).hexdigest()
    )


def test_a_state_comes_back_as_what_it_was(tmp_path):
    state = {
        "tensor": torch.arange(4.0),
        "half": torch.ones(2, dtype=torch.float16),
        "scalar": torch.tensor(3),
        "array": np.array([1, 2], dtype=np.int32),
        "empty": torch.zeros(0, 3),
        "nested": {0: [1, 1 / 3, (None, True)], "inf": float("inf"), "text": "ü"},
    }
    store.write_state(tmp_path / "c", state, {"step": 3})
    back, body = store.read_state(tmp_path / "c")
    assert body == {"step": 3}
    assert back["nested"] == state["nested"]
    for name in ("tensor", "half", "scalar", "empty"):
        assert torch.equal(back[name], state[name])
        assert back[name].dtype == state[name].dtype
    assert np.array_equal(back["array"], state["array"])


def test_an_optimisers_state_survives(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    optimiser.step()
    store.write_state(tmp_path / "c", {"optimiser": optimiser.state_dict()}, {})
    other = torch.optim.Adam([weight], lr=0.5)
    other.load_state_dict(store.read_state(tmp_path / "c")[0]["optimiser"])
    assert str(other.state_dict()) == str(optimiser.state_dict())


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    """What a power cut leaves is what was synced: all bytes before the file is renamed, the folder's entry after."""
    path, done = tmp_path / "set", []
    store.write_bytes(path, iter([b"o", b"", b"ld"]))
    assert path.read_bytes() == b"old"

    def fsync(handle: int) -> None:
        there = os.fstat(handle)
        done.append(("folder", None) if stat.S_ISDIR(there.st_mode) else ("file", (there.st_ino, there.st_size)))
        os.fsync(handle)

    def replace(source: Path, target: Path) -> None:
        done.append(("replace", (os.stat(source).st_ino, os.stat(source).st_size)))
        os.replace(source, target)

    monkeypatch.setattr(files, "os", SimpleNamespace(**{**vars(os), "fsync": fsync, "replace": replace}))
    store.write_bytes(path, bytes(100_000))
    whole = (path.stat().st_ino, 100_000)
    assert done == [("file", whole), ("replace", whole), ("folder", None)]


def test_a_state_of_objects_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(TypeError, match="tensors and plain values, not object"):
        store.write_state(tmp_path / "c", {"x": object()}, {})
    assert not (tmp_path / "c").exists()


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        store.read_set(tmp_path / "no.safetensors")
    assert str(caught.value) == f"{tmp_path / 'no.safetensors'}: No such file or directory"


def test_a_caller_decides_how_many_bytes_a_set_may_have(tmp_path, ds):
    path = tmp_path / "s.safetensors"
    store.write_set(path, ds)
    size = path.stat().st_size
    assert len(store.read_set(path, file_bytes=size)) == len(ds)
    with pytest.raises(UserError, match=f"it has {size:,} bytes, and {size - 1:,} is the limit"):
        store.read_set(path, file_bytes=size - 1)


def peak_of(read: Callable[[], object]) -> int:
    """Most bytes held while `read` runs."""
    tracemalloc.start()
    read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_reading_holds_every_array_once(tmp_path, ds):
    pixels = np.zeros((32, 1, 512, 512), np.float32)
    manifest = ds.manifest.model_copy(update={"pixels": Pixels(space="raw", mean=(0.0,), std=(1.0,))})
    store.write_set(tmp_path / "s.safetensors", DistilledSet(pixels, np.zeros(32, np.int64), manifest))
    assert peak_of(lambda: store.read_set(tmp_path / "s.safetensors")) < 1.5 * pixels.nbytes
    store.write_state(tmp_path / "c", {"array": pixels[:16], "tensor": torch.from_numpy(pixels[16:])}, {})
    assert peak_of(lambda: store.read_state(tmp_path / "c")) < 1.1 * pixels.nbytes


def test_tensors_that_come_back_can_be_written_to(tmp_path):
    store.write_state(tmp_path / "c", {"a": torch.zeros(2), "scalar": torch.tensor(3)}, {})
    back, _ = store.read_state(tmp_path / "c")
    back["a"] += 1
    back["scalar"] += 1
    assert (back["a"].tolist(), back["scalar"].item()) == ([1, 1], 4)


def test_json_lines_survive_a_cut_and_can_be_shortened(tmp_path):
    path = tmp_path / "m.jsonl"
    for step in range(4):
        store.append_line(path, {"step": step})
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in store.read_lines(path)] == [0, 1, 2, 3]
    store.keep_lines(path, lambda record: record["step"] < 2)
    store.append_line(path, {"step": 2})
    assert [record["step"] for record in store.read_lines(path)] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_a_container_has_the_bytes_that_safetensors_writes(seed: int):
    draw = np.random.default_rng(seed)
    names = ["int64", "float64", "float32", "int32", "float16", "int16", "uint8", "bool"]
    arrays = {f"t{i}": draw.integers(0, 2, (i % 4, 3)).astype(draw.choice(names)) for i in range(12)}
    arrays |= {"t90": np.array(2.5, dtype=np.float32), "t91": np.zeros((0, 2), dtype=np.int16)}
    state = {"state": {"text": 'quotes " and \\ and \u00e4\n'}, "body": {}}
    data = store.container_bytes(store.CHECKPOINT, arrays, state)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert data == save(arrays, metadata=header["__metadata__"])


def test_a_set_is_written_without_a_copy_of_it(tmp_path: Path, ds: DistilledSet):
    large = replace(ds, images=np.zeros((len(ds), ds.images.shape[1], 1000, 1000), dtype=np.uint8))
    tracemalloc.start()
    store.write_set(tmp_path / "s.safetensors", large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < large.images.nbytes / 20
    assert store.read_set(tmp_path / "s.safetensors").digest() == large.digest()


def test_a_set_without_holes_is_read_however_large_and_a_sparse_one_is_not(
    tmp_path: Path, ds: DistilledSet, monkeypatch: pytest.MonkeyPatch
):
    pixels = np.zeros((len(ds), ds.images.shape[1], 600, 600), np.float32)
    path, hollow = tmp_path / "s.safetensors", tmp_path / "hollow.safetensors"
    store.write_set(path, replace(ds, images=pixels))
    whole = path.read_bytes()
    hollow.write_bytes(whole[: -pixels.nbytes])
    os.truncate(hollow, len(whole))
    assert hollow.read_bytes() == whole
    assert len(store.read_set(hollow)) == len(ds), "it is small enough"
    monkeypatch.setattr(files, "SET", replace(files.SET, file_bytes=len(whole) - 1))
    assert len(store.read_set(path)) == len(ds), "as large as a file is: it is all there"
    limit = f"it has {len(whole):,} bytes, some of them in holes, .* and {len(whole) - 1:,} is the limit"
    with pytest.raises(UserError, match=limit):
        store.read_set(hollow)
    assert len(store.read_set(hollow, file_bytes=len(whole))) == len(ds), "the caller is ready for it"
    hollow.write_bytes(hollow.read_bytes())
    assert len(store.read_set(hollow)) == len(ds), "a copy without holes"


def test_what_is_done_before_a_set_is_there_knows_its_sha256(tmp_path: Path, ds: DistilledSet):
    path, seen = tmp_path / "s.safetensors", []
    sha256 = store.write_set(path, ds, before=lambda digest: seen.append((digest, path.exists())))
    assert seen == [(store.file_sha256(path), False)]
    assert sha256 == store.file_sha256(path)


def test_mapped_tensors_are_those_that_are_read(tmp_path: Path):
    path = tmp_path / "part-00000.safetensors"
    several = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.empty((0, 4), dtype=np.float32),
        "c": np.arange(3 << 18, dtype=np.float32),  # three mebibytes: its checksum is of several pieces
    }
    store.write_container(path, store.ARTEFACT, several, {"artefact": "0", "index": 0, "facts": {}})
    read, body = store.read_container(path, store.ARTEFACT)
    mapped, same = store.read_container(path, store.ARTEFACT, mapped=True)
    assert body == same
    assert list(mapped) == list(read)
    for name, array in mapped.items():
        np.testing.assert_array_equal(array, several[name])
        assert not array.flags.writeable or array.size == 0
        assert isinstance(array, np.memmap) == (array.size > 0)
