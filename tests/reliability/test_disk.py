"""Disks that are full, read-only or shared: one line, nothing lost, and the run goes on when it can."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from faulty_disk import Counter, FailAt, watched
from killing import Server, ended, patient, wait_for

from dd_apps.cli import main
from dd_core import store
from dd_core.distilled import Size
from dd_core.errors import DDError, OutOfResources, UserError
from dd_core.methods import decode_method
from dd_core.runner import RunOptions, Silent, distill
from dd_core.testing import blobs
from dd_core.training import bank

DM: dict[str, Any] = {"name": "dm", "steps": 4, "batch_real": 4, "recipe": {"network": "convnet-1-w4"}}


def run(out: Path, *, seed: int = 0, fresh: bool = False, ipc: int = 1, table: dict[str, Any] | None = None) -> None:
    options = RunOptions(threads=1, checkpoint_seconds=0.0, fresh=fresh)
    distill(decode_method(table or DM), blobs(), Size(ipc=ipc), seed=seed, out=out, options=options)


@pytest.fixture(scope="module")
def sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reference") / "set.safetensors"
    run(out)
    return store.file_sha256(out)


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.with_suffix(".run").glob("checkpoint-*"))


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but the lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def one_line(error: DDError) -> str:
    assert str(error).isprintable()
    return str(error)


# --- a disk that fails --------------------------------------------------------------------------------------


FAULTS = {errno.ENOSPC: (OutOfResources, 4), errno.EDQUOT: (OutOfResources, 4), errno.EROFS: (UserError, 2)}
FAULTS |= {errno.EACCES: (UserError, 2), errno.EIO: (OutOfResources, 4)}


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_a_fault_at_every_call_that_writes(tmp_path: Path, sha256: str, number: int):
    """Every open, write, fsync and rename of a run fails once, alone and for good; the run then goes on."""
    kind, exit_code = FAULTS[number]
    counter = Counter()
    with watched(counter):
        run(tmp_path / "counted" / "set.safetensors")
    moments = [index for index, what in enumerate(counter.moments) if not what.startswith("after")]
    assert {counter.moments[index] for index in moments} >= {
        "before open",
        "within write",
        "before fsync",
        "before replace",
    }
    assert len(moments) > 50
    for index in moments if number == errno.ENOSPC else moments[::7]:
        out = tmp_path / str(index) / "set.safetensors"
        with pytest.raises(kind) as caught, watched(FailAt(index, number, for_good=index % 2 == 0)):
            run(out)
        assert caught.value.exit_code == exit_code
        one_line(caught.value)
        assert not list(out.parent.rglob(".*.tmp"))
        for path in checkpoints(out)[-2:]:
            store.read_state(path)
        if index > moments[len(moments) // 2]:
            assert checkpoints(out) or out.exists(), "the checkpoint before is still there"
        run(out)
        assert store.file_sha256(out) == sha256
        steps = [record["step"] for record in store.read_lines(out.with_suffix(".run") / "metrics.jsonl")]
        assert steps == [0, 1, 2, 3]
        assert checkpoints(out) == []


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own; skips where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here ({done.stderr.strip()}); faults are injected in the test above")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class FillsTheDisk(Silent):
    """Somebody else's file takes all the room after the second step."""

    def __init__(self, ballast: Path) -> None:
        self.ballast, self.steps = ballast, 0

    def advance(self, metrics: object = None) -> None:
        self.steps += 1
        if self.steps == 2:
            with suppress(OSError), open(self.ballast, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass


def test_a_disk_that_is_really_full(tmp_path: Path, sha256: str):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as folder:
        out, ballast = folder / "set.safetensors", folder / "ballast"
        options = RunOptions(threads=1, checkpoint_seconds=0.0, reporter=FillsTheDisk(ballast))
        with pytest.raises(OutOfResources, match="No space left on device; nothing that was there") as caught:
            distill(decode_method(DM), blobs(), Size(ipc=1), out=out, options=options)
        one_line(caught.value)
        (kept,) = checkpoints(out)
        assert store.read_state(kept)[1]["step"] == 1
        ballast.unlink()
        run(out)
        assert store.file_sha256(out) == sha256


def test_a_folder_that_is_really_read_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        run(folder / "old.safetensors")
        before = contents(folder)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for name in ("new", "old", "sub/new"):
            with pytest.raises(UserError, match="Read-only file system") as caught:
                run(folder / f"{name}.safetensors")
            assert one_line(caught.value).startswith(str(folder))
        words = ["distill", "random", "--data", "digits", "--ipc", "1", "--out", str(folder / "cli.safetensors")]
        assert main(words) == 2
        assert [line[:7] for line in capfd.readouterr().err.splitlines()] == ["error: "]
        assert contents(folder) == before


@pytest.mark.parametrize("name", ["x" * 300, "file/set", "taken"], ids=["too long", "below a file", "folder is a file"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    (tmp_path / "taken.run").touch()
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        run(tmp_path / f"{name}.safetensors")
    one_line(caught.value)
    assert contents(tmp_path) == before


# --- a teacher's labels -------------------------------------------------------------------------------------


def test_a_full_disk_during_relabelling_keeps_the_parts_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The disk fails at calls that write the bank, alone and for good; the same command then goes on."""
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bank, "PART_BYTES", 1000)  # two epochs of ten views, of 45 bytes each
    out = tmp_path / "set.safetensors"
    assert main(["distill", "random", "--data", "digits", "--ipc", "1", "--out", str(out)]) == 0
    teacher = ("network=convnet-1-w4-batchnorm", "epochs=1", "views.crop=none")
    settings = [word for setting in teacher for word in ("--teacher", setting)]
    command = ["relabel", str(out), "--data", "digits", "--device", "cpu", "--epochs", "5", "--json", *settings]
    assert main([*command, "--seed", "1"]) == 0  # trains the teacher, which is kept
    capfd.readouterr()
    counter = Counter()
    with watched(counter):
        assert main(command) == 0
    folder = Path(json.loads(capfd.readouterr().out)["path"])
    whole = contents(folder)
    assert len([path for path in whole if path.name.startswith("part-")]) == 3
    moments = [index for index, what in enumerate(counter.moments) if not what.startswith("after")]
    kept: set[int] = set()
    for index in moments[::5]:
        shutil.rmtree(folder)
        with watched(FailAt(index, errno.ENOSPC, for_good=index % 2 == 0)):
            assert main(command) == 4
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "No space left on device" in line
        parts = {path: data for path, data in contents(folder).items() if path.name.startswith("part-")}
        assert all(whole[path] == data for path, data in parts.items())
        kept.add(len(parts))
        assert main(command) == 0
        assert contents(folder) == whole
    assert kept >= {0, 1, 2}


# --- two writers --------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_and_the_first_goes_on(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    begun, go, said = tmp_path / "begun", tmp_path / "go", tmp_path / "said"
    first, alone = tmp_path / "shared.safetensors", tmp_path / "alone.safetensors"
    process = server.start(patient, first, begun, go, said)
    wait_for(begun.exists, process)
    before = contents(tmp_path)
    for fresh in (False, True):
        with pytest.raises(UserError, match="another run is at work here") as caught:
            run(first, fresh=fresh)
        one_line(caught.value)
    assert main(["distill", "random", "--data", "digits", "--ipc", "1", "--out", str(first)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("another run is at work here; wait for it, or use another --out")
    assert contents(tmp_path) == before
    go.touch()
    assert ended(process) == 0
    assert server.run(patient, alone, begun, go, said) == 0
    assert store.file_sha256(first) == store.file_sha256(alone)


# --- a folder of another run --------------------------------------------------------------------------------


def half_done(out: Path) -> None:
    """A run that a full disk stopped after two checkpoints."""
    counter = Counter()
    with watched(counter):
        run(out.with_name("counted.safetensors"))
    with pytest.raises(OutOfResources), watched(FailAt(len(counter.moments) * 3 // 5, errno.ENOSPC, for_good=True)):
        run(out)
    assert len(checkpoints(out)) == 2


CHANGES: dict[str, dict[str, Any]] = {
    r"\(config.batch_real: 4 -> 5\)": {"table": {**DM, "batch_real": 5}},
    r"\(config.recipe.network: 'convnet-1-w4' -> 'convnet-1-w5'; seed: 0 -> 7\)": {
        "table": {**DM, "recipe": {"network": "convnet-1-w5"}},
        "seed": 7,
    },
    r"\(size.ipc: 1 -> 2\)": {"ipc": 2},
    r"method: 'dm' -> 'random'": {"table": {"name": "random"}},
}


@pytest.mark.parametrize("finished", [False, True], ids=["half done", "finished"])
@pytest.mark.parametrize("expected", CHANGES)
def test_a_changed_setting_is_refused_key_by_key(tmp_path: Path, sha256: str, *, finished: bool, expected: str):
    out = tmp_path / "set.safetensors"
    (run if finished else half_done)(out)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=expected) as caught:
        run(out, **CHANGES[expected])
    assert one_line(caught.value).endswith("use another out, or fresh=True to start over")
    assert contents(tmp_path) == before
    run(out)
    assert store.file_sha256(out) == sha256


def test_fresh_starts_over(tmp_path: Path, sha256: str):
    out, alone = tmp_path / "set.safetensors", tmp_path / "alone.safetensors"
    half_done(out)
    run(out, seed=7, fresh=True)
    run(alone, seed=7)
    assert store.file_sha256(out) == store.file_sha256(alone) != sha256
    run(out, fresh=True)
    assert store.file_sha256(out) == sha256


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", bytes(5000)], ids=["empty", "pickle", "zeros"])
def test_an_unreadable_result_is_refused_and_replaced_only_when_asked(tmp_path: Path, sha256: str, content: bytes):
    out = tmp_path / "set.safetensors"
    out.write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable dd-apps.set file.*or fresh=True to replace it") as caught:
        run(out)
    one_line(caught.value)
    assert out.read_bytes() == content
    run(out, fresh=True)
    assert store.file_sha256(out) == sha256
