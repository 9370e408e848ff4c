"""Paths as users and systems give them: homes, links, names that are too long."""

from __future__ import annotations

import os
import pwd
from hashlib import sha256
from pathlib import Path

import pytest

from dd_core import datasets, exchange, store
from dd_core.artefacts import cache_folder
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.testing import blobs

HOME = Path("/home/somebody")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch):
    """Set environment variables; one that is not named is not set."""

    def set_them(**values: str) -> None:
        for name in ("HOME", "DD_APPS_CACHE", "DD_APPS_DATA", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_them


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({}, HOME / ".cache/dd-apps"),
        ({"XDG_CACHE_HOME": "/caches"}, Path("/caches/dd-apps")),
        ({"XDG_CACHE_HOME": ""}, HOME / ".cache/dd-apps"),
        ({"XDG_CACHE_HOME": "relative"}, HOME / ".cache/dd-apps"),
        ({"XDG_CACHE_HOME": "/caches", "DD_APPS_CACHE": ""}, Path("/caches/dd-apps")),
        ({"XDG_CACHE_HOME": "/caches", "DD_APPS_CACHE": "/mine"}, Path("/mine")),
        ({"DD_APPS_CACHE": "~/mine"}, HOME / "mine"),
        ({"DD_APPS_CACHE": "~"}, HOME),
        ({"DD_APPS_CACHE": "here"}, Path("here")),
    ],
)
def test_where_the_cache_is(variables, given: dict[str, str], folder: Path):
    variables(HOME=str(HOME), **given)
    assert cache_folder() == folder


@pytest.mark.parametrize("home", ["", "somewhere"])
def test_a_home_that_is_no_whole_path_is_refused(variables, home: str):
    variables(HOME=home)
    with pytest.raises(UserError, match=rf"^HOME='{home}' is no whole path .*; set DD_APPS_CACHE to a folder for"):
        cache_folder()


def test_a_user_whom_the_system_does_not_know(variables, monkeypatch: pytest.MonkeyPatch, call, tmp_path: Path):
    """As in a container that runs as any number."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    variables()
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    line = f"user {os.getuid()} has no home folder: HOME is not set, and the system does not know the user; "
    with pytest.raises(UserError) as caught:
        cache_folder()
    assert str(caught.value) == f"{line}set DD_APPS_CACHE to a folder for caches and downloads"
    with pytest.raises(UserError, match=r"^folder:~/pictures: user .* has no home folder: .*; give the whole path"):
        datasets.load("folder:~/pictures")
    code, out, err = call("doctor")
    assert (code, err) == (4, "")
    assert "BAD   cache" in out
    assert line in out
    monkeypatch.chdir(tmp_path)
    assert call("distill", "random", "--data", "digits", "--ipc", "1", "--out", "a.safetensors")[0] == 0
    code, _, err = call("artefacts", "list")
    assert (code, err) == (2, f"error: {line}set DD_APPS_CACHE to a folder for caches and downloads\n")


@pytest.mark.parametrize(
    ("name", "variable"), [("folder:~nosuchuser/x", None), ("mnist", "DD_APPS_DATA"), ("mnist", "DD_APPS_CACHE")]
)
def test_a_user_who_is_not_there_is_named(variables, name: str, variable: str | None):
    variables(HOME=str(HOME), **({variable: "~nosuchuser/x"} if variable else {}))
    given = name if variable is None else f"{variable}=~nosuchuser/x"
    with pytest.raises(UserError) as caught:
        datasets.load(name)
    assert str(caught.value) == f"{given}: there is no user 'nosuchuser'; give the whole path of the folder"


# --- names ---------------------------------------------------------------------------------------------------


TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["distill", "random", "--data", f"folder:{TOO_LONG}", "--ipc", 1, "--out", "a.safetensors"], "too long"),
        (["distill", "random", "--data", TOO_LONG, "--ipc", 1, "--out", "a.safetensors"], "unknown data set"),
        (["distill", "random", "--data", "digits", "--ipc", 1, "--out", f"{TOO_LONG}.safetensors"], "too long"),
        (["run", f"{TOO_LONG}.toml"], "too long"),
        (["run", "quickstart", "--out", TOO_LONG], "too long"),
        (["import", TOO_LONG, "--format", "mtt", "--out", "a.safetensors"], "not a folder with images_best.pt"),
        (["inspect", f"{TOO_LONG}.safetensors"], "too long"),
    ],
)
def test_a_name_that_no_file_has_is_one_line(tmp_path: Path, monkeypatch, call, words: list[object], reason: str):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_a_programs_images_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="File name too long"):
        datasets.load(f"folder:{TOO_LONG}")
    with pytest.raises(UserError, match="not a folder with"):
        exchange.MttFiles.of(Path(TOO_LONG))


OPTIONS = RunOptions(threads=1)


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_name_that_a_file_can_have(tmp_path: Path, letter: str):
    """The temporary file beside it has a shorter one, which the next run finds and removes."""
    out = tmp_path / (letter * (243 // len(letter.encode())) + ".safetensors")
    ds = distill(method("random"), blobs(), Size(ipc=1), out=out, options=OPTIONS)
    assert store.read_set(out).digest() == ds.digest()
    out.unlink()
    (tmp_path / f".{sha256(os.fsencode(out.name)).hexdigest()}.1.tmp").write_bytes(b"of a writer that was killed")
    distill(method("random"), blobs(), Size(ipc=1), out=out, options=OPTIONS)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".run", ".safetensors"]


# --- links ---------------------------------------------------------------------------------------------------


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    link = tmp_path / "latest.safetensors"
    link.symlink_to("disk/set.safetensors")
    first = distill(method("random"), blobs(), Size(ipc=1), out=link, options=OPTIONS)  # the target is not there yet
    assert store.read_set(disk / "set.safetensors").digest() == first.digest()
    (disk / ".set.safetensors.1.tmp").write_bytes(b"of a writer that was killed")
    second = distill(method("random"), blobs(), Size(ipc=2), out=link, options=RunOptions(threads=1, fresh=True))
    assert store.read_set(disk / "set.safetensors").digest() == second.digest() != first.digest()
    assert link.readlink() == Path("disk/set.safetensors")
    assert [path.name for path in disk.iterdir()] == ["set.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "latest.run", "latest.safetensors"]


def test_a_link_to_nowhere_is_refused_before_anything_is_made(tmp_path: Path):
    link, circle = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    link.symlink_to("unmounted/a.safetensors")
    circle.symlink_to("b.safetensors")
    with pytest.raises(
        UserError, match=f"a link into a folder that is not there: {tmp_path}/unmounted; make that folder, or"
    ):
        distill(method("random"), blobs(), Size(ipc=1), out=link, options=OPTIONS)
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        distill(method("random"), blobs(), Size(ipc=1), out=circle, options=OPTIONS)
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        store.write_bytes(circle, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert (link.is_symlink(), circle.is_symlink()) == (True, True)
