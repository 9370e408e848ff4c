"""Files made to hurt: each is refused in one line with exit code 2, and with bounded work."""

from __future__ import annotations

import io
import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hostile_files import PLACES, Hostile, catalogue, set_with, valid_set, whitened_with

from dd_apps.cli import main
from dd_core import store
from dd_core.errors import UserError
from dd_core.store import files as files_of_store


class CountingFile(io.BufferedReader):
    """A file that counts what is asked of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.header, self.tensors, self.tensor_bytes = 0, 0, 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.header += len(found)
        return found

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.tensors += 1
        count = super().readinto(buffer)
        self.tensor_bytes += count
        return count


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[CountingFile]:
    """Every file that the store opens, counted."""
    files: list[CountingFile] = []

    def counting(path: Path, mode: str, **options: object) -> CountingFile:
        assert mode == "rb"
        files.append(CountingFile(path))
        return files[-1]

    monkeypatch.setattr(files_of_store, "open", counting, raising=False)
    return files


def refusal(path: Path) -> str:
    """The one line with which `read_set` refuses a file."""
    with pytest.raises(UserError) as caught:
        store.read_set(path)
    line = str(caught.value)
    assert caught.value.exit_code == 2
    assert line.isprintable(), line[:300]
    assert line.startswith(str(path))
    assert len(line) < len(str(path)) * 2 + 300, line[:300]
    return line


def test_hundreds_of_hostile_files_are_refused_with_bounded_work(tmp_path: Path, opened: list[CountingFile]):
    canary, path = tmp_path / "canary", tmp_path / "hostile.safetensors"
    kinds: Counter[str] = Counter()
    seen: set[tuple[bytes, int]] = set()
    for one in catalogue(canary):
        one.write(path)
        _refused(one, path)
        file = opened.pop()
        assert file.header <= 8 + store.SET.header_bytes, one
        assert file.header + file.tensor_bytes <= max(one.size, len(one.data)), one
        assert file.tensors <= one.tensors, f"{one.kind}: {one.name}: {file.tensors} tensors were touched"
        kinds[one.kind] += 1
        seen.add((one.data, one.size))
    assert not canary.exists(), "a pickle was executed"
    assert len(seen) >= 300
    assert len(kinds) == 20
    assert min(kinds.values()) >= 5


def _refused(one: Hostile, path: Path) -> None:
    try:
        refusal(path)
    except BaseException as error:
        raise AssertionError(f"{one.kind}: {one.name}") from error


def test_three_hundred_thousand_tensors_cost_eight_bytes(tmp_path: Path, opened: list[CountingFile]):
    crowd = next(one for one in catalogue(tmp_path) if one.name == "300,000 empty tensors")
    path = tmp_path / "crowd.safetensors"
    path.write_bytes(crowd.data)
    assert "is the limit" in refusal(path)
    assert (opened[0].header, opened[0].tensors) == (8, 0)


def test_the_file_that_all_of_them_are_made_from_is_readable(tmp_path: Path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(set_with())
    assert np.array_equal(store.read_set(path).images, valid_set().images)
    (tmp_path / "whitened.safetensors").write_bytes(whitened_with())
    assert np.allclose(store.read_set(tmp_path / "whitened.safetensors").raw(), valid_set().images / 2 + 0.5)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert {name: tuple(header[name]["data_offsets"]) for name in PLACES} == PLACES
    assert store.write_set(tmp_path / "again.safetensors", valid_set()) == store.file_sha256(path)


def test_every_change_of_one_byte_is_refused(tmp_path: Path):
    whole, path, draw = set_with(), tmp_path / "changed.safetensors", random.Random(0)
    for _ in range(500):
        place = draw.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        refusal(path)


def test_random_surgery_is_refused(tmp_path: Path):
    """Slices removed, doubled, moved, overwritten: never accepted, unless the bytes are the same after all."""
    whole, path, draw = set_with(), tmp_path / "cut.safetensors", random.Random(1)
    done = 0
    while done < 300:
        first, second = sorted(draw.sample(range(len(whole)), 2))
        second = min(second, first + draw.choice([1, 4, 8, 64, 1024]))
        piece, place = whole[first:second], draw.randrange(len(whole))
        changed = draw.choice(
            [
                whole[:first] + whole[second:],
                whole[:second] + piece + whole[second:],
                whole[:place] + piece + whole[place:],
                whole[:first] + draw.randbytes(len(piece)) + whole[second:],
                whole[:first] + b" " * len(piece) + whole[second:],
                whole[:first] + piece[::-1] + whole[second:],
            ]
        )
        if changed == whole:
            continue
        path.write_bytes(changed)
        refusal(path)
        done += 1


def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name, reason in {
        "pipe": "no regular file",
        "folder": "Is a directory",
        "loop": "symbolic links",
        "dangling": "No such file",
        "zero": "no regular file",
        "x" * 300: "File name too long",
    }.items():
        assert reason in refusal(tmp_path / f"{name}.safetensors")


def test_a_link_to_a_set_is_a_set(tmp_path: Path):
    (tmp_path / "good.safetensors").write_bytes(set_with())
    (tmp_path / "link.safetensors").symlink_to("good.safetensors")
    assert len(store.read_set(tmp_path / "link.safetensors")) == 4


TEN = (
    "cut at 700",
    "6 GiB that agree with themselves",
    "data of images at 160",
    "a tensor '../../etc/passwd'",
    "300,000 empty tensors",
    "float32 images with nan",
    "manifest with 'evil\\nkey'",
    'manifest: "version":1e999',
    "pickle protocol 2",
    ".pt with pickle protocol 4",
)


def test_ten_of_them_through_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    canary, path = tmp_path / "canary", tmp_path / "hostile.safetensors"
    found = {one.name: one for one in catalogue(canary)}
    found["cut at 700"] = Hostile("cut", "cut at 700", set_with()[:700])
    for name in TEN:
        found[name].write(path)
        for words in (["inspect"], ["verify"], ["inspect", "--png", str(tmp_path / "out.png")]):
            assert main([words[0], str(path), *words[1:]]) == 2, name
            output = capfd.readouterr()
            (line,) = output.err.splitlines()
            assert line.startswith(f"error: {path}"), name
            assert output.out == "", name
        assert main(["verify", str(path), "--json"]) == 2
        answer = json.loads(capfd.readouterr().out)
        assert (answer["ok"], answer["exit_code"]) == (False, 2)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}, "no canary, no picture"
    assert len(TEN) == 10
