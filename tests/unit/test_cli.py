"""The verbs that need no torch, and what all verbs have in common. `main` runs in this process."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from dd_apps.cli import Terminated
from dd_apps.cli.terminal import TerminalReporter
from dd_apps.scenario import shipped
from dd_core import artefacts, methods, store
from dd_core.config import plain
from dd_core.datasets import DATASETS
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Diverged, Interrupted, OutOfResources, UserError
from dd_core.evaluation import protocols
from dd_core.methods.presets import PRESETS
from dd_core.recipe import Recipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DD_APPS_CACHE", str(folder))
    return folder


@pytest.fixture
def call_json(call) -> Callable[..., dict[str, Any]]:
    """Run a command line with --json: the object, after checking that it is the only thing on stdout."""

    def run(*words: object) -> dict[str, Any]:
        code, out, _ = call(*words, "--json")
        assert out.count("\n") == 1
        found = json.loads(out)
        assert found.get("exit_code", 0) == code
        return found

    return run


def a_set(*, names: tuple[str, ...] = ("cat", "dog")) -> DistilledSet:
    manifest = Manifest(
        classes=names, pixels=Pixels(space="raw", mean=(0.5,), std=(0.25,)), recipe=Recipe(network="lenet")
    )
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8)
    return DistilledSet(images, np.array([0, 1]), manifest)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a set.safetensors"
    store.write_set(path, a_set())
    return path


# --- inspect and verify --------------------------------------------------------------------------------------


def test_inspect_says_what_the_manifest_says(file: Path, call, call_json):
    found = call_json("inspect", file)
    assert found["manifest"] == plain(a_set().manifest)
    assert (found["images"], found["image_shape"], found["dtype"], found["bytes"]) == (2, [1, 8, 8], "uint8", 128)
    code, out, err = call("inspect", file)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("cat, dog", "lenet", "2 of 1 x 8 x 8, uint8", "128 B", "no", "recipe"))


def test_inspect_says_how_many_images_networks_see_of_a_formation(tmp_path: Path, call, call_json):
    plain_set = a_set()
    formed = replace(plain_set, manifest=plain_set.manifest.model_copy(update={"formation": 2}))
    store.write_set(tmp_path / "tiles.safetensors", formed)
    found = call_json("inspect", tmp_path / "tiles.safetensors", "--png", tmp_path / "sheet.png")
    assert (found["images"], found["decoded_images"], found["bytes"]) == (2, 8, 128)
    assert found["manifest"]["formation"] == 2
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height == 2 * 66 + 2, "the stored grids are drawn"
    assert "2: an image is 2 x 2 tiles, and networks see 8 images" in call("inspect", tmp_path / "tiles.safetensors")[1]
    store.write_set(tmp_path / "plain.safetensors", plain_set)
    assert "decoded_images" not in call_json("inspect", tmp_path / "plain.safetensors")


def test_inspect_draws(file: Path, tmp_path: Path, call_json):
    found = call_json("inspect", file, "--png", tmp_path / "sheet.png")
    assert found["png"] == str(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"
        assert image.height == 2 * 66 + 2


def test_inspect_writes_nothing_unasked(file: Path, call):
    before = sorted(file.parent.iterdir())
    call("inspect", file)
    assert sorted(file.parent.iterdir()) == before


def test_verify_a_good_file(file: Path, call, call_json):
    found = call_json("verify", file)
    assert found["ok"] is True
    assert found["sha256"] == store.file_sha256(file)
    assert store.file_sha256(file) in call("verify", file)[1]


def test_verify_a_damaged_file(file: Path, call, call_json):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = call_json("verify", file)
    assert found["ok"] is False
    assert found["exit_code"] == 2
    assert "checksum" in found["error"]
    code, out, err = call("verify", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {file}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["inspect", "verify", "evaluate"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\x00" * 100, b"\xff" * 100, b"{}" * 50])
def test_what_is_no_set_is_refused_in_one_line(tmp_path: Path, call, verb: str, content: bytes):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    code, out, err = call(verb, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1


def test_a_name_cannot_steer_the_terminal(tmp_path: Path, call):
    path = tmp_path / "x.safetensors"
    store.write_set(path, a_set(names=("\x1b[2J\x1b]0;owned\x07", "[red]two\nlines[/red]")))
    code, out, _ = call("inspect", path)
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[2J" in out
    assert "[red]two\\nlines[/red]" in out


def test_png_must_be_called_so(file: Path, call):
    code, _, err = call("inspect", file, "--png", "sheet.jpg")
    assert (code, err) == (2, "error: --png sheet.jpg: expected a name that ends in .png\n")


# --- list ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("datasets", list(DATASETS)),
        ("methods", methods.names()),
        ("protocols", protocols.names()),
        ("scenarios", list(shipped())),
    ],
)
def test_lists_name_everything_with_its_meaning(kind: str, names: list[str], call, call_json):
    rows = call_json("list", kind)[kind]
    assert [row["name"] for row in rows] == names
    assert all(len(row["meaning"]) > 10 for row in rows)
    printed = call("list", kind)[1]
    assert [row for row in rows if row["name"] not in printed or row["meaning"] not in printed] == []


@pytest.mark.parametrize("name", methods.names())
def test_a_method_is_listed_with_every_setting(name: str, call_json):
    config = methods.load(name)
    settings = {row["key"]: row for row in call_json("list", "methods", name)["settings"]}
    assert {key.partition(".")[0] for key in settings} == set(config.model_fields)
    fields = {".".join(key.split(".")[:2]) for key in settings}  # of nested ones, such as views, the first name
    assert {f"recipe.{key}" for key in Recipe.model_fields} <= fields
    assert all(row["type"] and row["default"] for row in settings.values())
    assert [key for key, row in settings.items() if "." not in key and not row["meaning"]] == []


def test_defaults_of_nested_settings_are_the_methods_own(call_json):
    settings = {row["key"]: row["default"] for row in call_json("list", "methods", "dm")["settings"]}
    own = methods.method("dm").recipe
    assert json.loads(settings["recipe.network"]) == own.network
    assert json.loads(settings["recipe.epochs"]) == own.epochs


def test_a_nested_setting_given_in_part_leaves_the_methods_own_defaults_alone():
    assert methods.method("dm", recipe={"network": "lenet"}).recipe == methods.method("dm").recipe.model_copy(
        update={"network": "lenet"}
    )
    training = methods.method("ftd", training={"batch_size": 12, "sharpness": {"alpha": 1.0}}).training
    own = methods.method("ftd").training
    assert training.augmentation == own.augmentation == "auto"
    assert (training.batch_size, training.sharpness.alpha, training.sharpness.rho) == (12, 1.0, own.sharpness.rho)
    assert methods.method("ftd", training={"sharpness": None}).training.sharpness is None


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("networks", "convnet-4-w64-batchnorm", {"depth": 4, "width": 64, "norm": "batch"}),
        ("networks", "timm:resnet18", {"family": "timm"}),
        ("protocols", "plain-300", {"epochs": 300, "batch_size": 256}),
        ("protocols", "wang-grid", {"momentum": 0.0, "epochs": [1, 3, 5, 10, 30, 50]}),
        ("presets", "photos", {"meaning": PRESETS["photos"]}),
        ("datasets", "digits", {"meaning": DATASETS["digits"]}),
        ("scenarios", "digits-dm", {"task": "distill"}),
    ],
)
def test_one_of_a_kind(kind: str, name: str, expected: Mapping[str, Any], call, call_json):
    found = call_json("list", kind, name)
    assert {key: found[key] for key in expected} == expected
    assert call("list", kind, name)[0] == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["list"], "list what? One of datasets, methods, networks, presets, protocols, scenarios"),
        (["list", "method"], "unknown kind of list 'method'; did you mean 'methods'?"),
        (["list", "methods", "herdin"], "unknown method 'herdin'; did you mean 'herding'?"),
        (["list", "datasets", "cifar"], "unknown data set 'cifar'; did you mean 'cifar10'?"),
        (["list", "presets", "photo"], "unknown preset 'photo'; did you mean 'photos'?"),
        (["list", "networks", "convnet-3-batchnrm"], "did you mean 'batchnorm'?"),
        (["list", "protocols", "plain300"], "unknown protocol 'plain300'; did you mean 'plain-300'?"),
        (["list", "scenarios", "quickstat"], "unknown scenario 'quickstat'; did you mean 'quickstart'?"),
        (["inspct", "x"], "No such command 'inspct'. Did you mean 'inspect'"),
        (["inspect"], "Missing argument 'FILE.safetensors' (see dd-apps inspect --help)"),
        (["verify", "x", "--jsn"], "No such option: --jsn"),
        (["distill", "dm", "--data", "digits", "--out", "x.safetensors", "--ipc", "two"], "--ipc"),
        (["distill", "dm", "--data", "digits", "--out", "x.safetensors", "--ipc", "0"], "--ipc"),
        (
            ["evaluate", "x.safetensors", "--network", "lenet, resnet-8"],
            "--network lenet, resnet-8: one network each time; type --network lenet --network resnet-8",
        ),
        (["artefacts"], "Missing command (see dd-apps artefacts --help)"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], line: str, call, call_json):
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert line in err
    found = call_json(*words)
    assert found["exit_code"] == 2
    assert found["error"]


def test_the_version(call):
    from dd_core import __version__

    assert call("--version") == (0, f"dd-apps {__version__}\n", "")


def test_methods_are_told_in_a_users_words(call_json):
    rows = {row["name"]: row["meaning"] for row in call_json("list", "methods")["methods"]}
    assert rows == {name: methods.load(name).summary for name in methods.names()}
    assert "Zhao and Bilen 2023" in rows["dm"]
    assert not any(word in text for text in rows.values() for word in ("Hyper-parameters", "uint8", "float32"))


def test_help(call):
    code, out, _ = call("--help")
    verbs = ["quickstart", "run", "distill", "evaluate", "inspect", "verify", "list", "nas", "artefacts", "doctor"]
    assert code == 0
    assert [verb for verb in verbs if f"\n  {verb} " not in out] == []
    assert call() == (0, out, "")


@pytest.mark.parametrize("verb", ["quickstart", "run", "distill", "evaluate", "inspect", "verify", "list", "doctor"])
def test_every_verb_has_help_and_json(verb: str, call):
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert "--json" in out


# --- exit codes ----------------------------------------------------------------------------------------------


def failing_after(signalled: BaseException) -> Exception:
    """What a library raises that was interrupted and cannot clean up."""
    error = RuntimeError("cannot join thread before it is started")
    error.__context__ = signalled
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no\nsuch thing"), 2),
        (Diverged("loss is nan"), 3),
        (OutOfResources("no memory"), 4),
        (Interrupted("stopped; to go on: x", 2), 130),
        (Interrupted("stopped; to go on: x", 15), 143),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (failing_after(KeyboardInterrupt()), 130),
        (failing_after(Terminated()), 143),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 4),
        (OSError(errno.EIO, "Input/output error", "/x"), 4),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "/x"), 4),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), 1),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 4),
        (ImportError("No module named 'x'"), 1),
        (RuntimeError("can't start new thread"), 4),
        (RuntimeError("boom"), 1),
    ],
)
def test_each_failure_has_its_exit_code(error: BaseException, code: int, file: Path, call, call_json, monkeypatch):
    def fail(path: Path) -> DistilledSet:
        raise error

    monkeypatch.setattr(store, "read_set", fail)
    found, out, err = call("inspect", file)
    assert (found, out) == (code, "")
    lines = err.splitlines()
    assert lines[-1].startswith("error: ")
    assert ("Traceback" in err) == (code == 1)
    assert ("please report" in lines[-1]) == (code == 1)
    assert code == 1 or len(lines) == 1
    again = call_json("inspect", file)
    assert again == {"error": again["error"], "exit_code": code}
    assert again["error"].removesuffix(" --json") == lines[-1][7:]


def test_what_libraries_print_does_not_mix_with_json(file: Path, call, monkeypatch):
    read = store.read_set

    def talkative(path: Path) -> DistilledSet:
        sys.stdout.write("from python\n")
        os.write(1, b"from C\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return read(path)

    monkeypatch.setattr(store, "read_set", talkative)
    code, out, err = call("inspect", file, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 2
    assert [line for line in ("from python", "from C", "from a child") if line not in err] == []


# --- artefacts -----------------------------------------------------------------------------------------------


class Square(artefacts.ArtefactSpec):
    """Something quick to make."""

    kind: ClassVar[str] = "square"
    uses_torch: ClassVar[bool] = False
    side: int

    def parts(self) -> int:
        return 2

    def make_part(self, index: int, *, resources: Any, progress: artefacts.Progress):
        if index == resources:
            raise UserError("enough")
        return {"square": np.zeros((self.side, self.side))}, {}


def test_artefacts_are_listed_and_pruned(cache: Path, call, call_json):
    whole = artefacts.get(Square(side=3))
    with pytest.raises(UserError, match="enough"):
        artefacts.get(Square(side=4), resources=1)
    rows = {row["digest"]: row for row in call_json("artefacts", "list")["artefacts"]}
    half = Square(side=4).digest()
    assert {digest: row["complete"] for digest, row in rows.items()} == {whole.digest: True, half: False}
    assert str(cache) in call("artefacts", "list")[1]
    assert [row["digest"] for row in call_json("artefacts", "prune")["removed"]] == [half]
    assert [row["digest"] for row in call_json("artefacts", "list")["artefacts"]] == [whole.digest]
    assert "removed 1 artefacts" in call("artefacts", "prune", "--all")[1]
    assert call_json("artefacts", "list")["artefacts"] == []
    assert "none" in call("artefacts", "list")[1]


# --- progress ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bar", [True, False])
def test_messages_come_through_with_and_without_a_bar(*, bar: bool, capfd):
    reporter = TerminalReporter(bar=bar)
    reporter.message("before [b]")
    with reporter.stage("dm", first=2, total=4) as stage:
        stage.advance({"loss": 1.5})
        reporter.message("between \x1b[2J")
        stage.advance({"loss": 0.5})
    reporter.message("after")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "before [b]\n" in captured.err
    assert "between \\x1b[2J" in captured.err
    assert "after\n" in captured.err
    assert ("4/4" in captured.err) == bar


def test_progress_in_a_log_says_how_long_it_will_take(capfd, monkeypatch):
    reporter = TerminalReporter(bar=False)
    clock = iter([0.0, 5.0, 12.0, 13.0, 30.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with reporter.stage("dm", total=10) as stage:
        for _ in range(4):
            stage.advance({"loss": 0.25})
    assert capfd.readouterr().err.splitlines() == [
        "dm: 2 of 10, 48 s left  loss 0.25",
        "dm: 4 of 10, 45 s left  loss 0.25",
    ]


def test_a_log_says_where_a_stage_within_a_stage_is_and_what_is_left_of_it(capfd, monkeypatch):
    reporter = TerminalReporter(bar=False)
    clock = iter([0.0, 20.0, 100.0, 111.0, 130.0, 140.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with reporter.stage("networks", total=2) as outer:
        outer.advance()
        with reporter.stage("experts", total=5, first=1) as inner:
            inner.advance({"loss": 0.5})
            inner.advance()
        outer.advance()
    assert capfd.readouterr().err.splitlines() == [
        "networks: 1 of 2, 20 s left",
        "networks: 1 of 2, experts: 2 of 5, 33 s left  loss 0.5",
        "networks: 1 of 2, experts: 3 of 5, 30 s left",
        "networks: 2 of 2, 0 s left",
    ]


def test_a_stage_within_a_stage_has_a_bar_of_its_own_while_it_lasts(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    reporter = TerminalReporter(bar=True)
    with reporter.stage("networks", total=3) as outer:
        outer.advance()
        with suppress(RuntimeError), reporter.stage("experts", total=5) as inner:
            inner.advance({"loss": 0.5})
            reporter.message("between")
            raise RuntimeError
        outer.advance({"accuracy": 0.25})
        reporter.message("behind")
    lines = capfd.readouterr().err.splitlines()
    assert "between" in lines
    last = lines[lines.index("behind") + 1 :]
    assert [line.split()[0] for line in last] == ["networks"]
    assert "2/3" in last[0]
    assert "accuracy 0.25" in last[0]
