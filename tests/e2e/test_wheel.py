"""The wheel works away from the checkout, started from an empty folder with a space in its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = os.pathsep.join([str(ROOT / "core"), str(ROOT)])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was unpacked into, which is all that installing a pure wheel does."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    target = tmp_path_factory.mktemp("site packages")
    zipfile.ZipFile(path).extractall(target)
    return target


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "an empty folder"
    folder.mkdir()
    return folder


def python(*arguments: str, path: str, cwd: Path) -> str:
    """What Python prints when started in `cwd` with `path` before everything that is installed."""
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_wheel_that_is_imported(installed: Path, empty: Path):
    code = "import dd_core, dd_apps; print(dd_core.__file__, dd_apps.__file__, sep='\\n')"
    files = python("-c", code, path=str(installed), cwd=empty).splitlines()
    assert [Path(file).parent for file in files] == [installed / "dd_core", installed / "dd_apps"]


def test_help(installed: Path, empty: Path):
    printed = python("-m", "dd_apps.cli", "--help", path=str(installed), cwd=empty)
    assert "quickstart" in printed
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("where", ["wheel", "checkout"])
def test_the_scenarios_are_found(where: str, installed: Path, empty: Path):
    path = str(installed) if where == "wheel" else CHECKOUT
    printed = python("-m", "dd_apps.cli", "list", "scenarios", path=path, cwd=empty)
    names = {scenario.stem for scenario in (ROOT / "scenarios").glob("*/*.toml")}
    assert names
    assert [name for name in names if name not in printed] == []


def test_the_scenarios_are_listed_as_json(installed: Path, empty: Path):
    printed = python("-m", "dd_apps.cli", "list", "scenarios", "--json", path=str(installed), cwd=empty)
    assert isinstance(json.loads(printed), dict)
    assert "quickstart" in printed
