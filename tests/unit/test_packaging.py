"""What is inside the wheel, and that the source distribution alone can make it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the source distribution that is built from this checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_top_level_names_are_ours_alone(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dd_core", "dd_apps"}
    assert len(tops) == 3


def test_every_module_is_inside(wheel: zipfile.ZipFile):
    engine = {p.relative_to(ROOT / "core").as_posix() for p in (ROOT / "core").rglob("*.py")}
    applications = {p.relative_to(ROOT).as_posix() for p in (ROOT / "dd_apps").rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == engine | applications


def test_every_scenario_and_page_is_inside_and_nothing_else(wheel: zipfile.ZipFile):
    scenarios = {f"dd_apps/_scenarios/{p.parent.name}/{p.name}" for p in (ROOT / "scenarios").glob("*/*.toml")}
    assert scenarios
    others = {name for name in wheel.namelist() if not name.endswith(".py") and ".dist-info/" not in name}
    assert others == scenarios | {"dd_core/py.typed", "dd_apps/py.typed", "dd_apps/report/page.html"}


def test_every_extra_is_in_the_readme():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "README.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| extra |"))
    rows = [line.split("|")[1].strip(" `") for line in lines[start + 2 : start + 3 + len(extras)]]
    assert sorted(rows) == sorted(["none", *extras])
    whole = {name for name in extras if name != "all"}
    assert extras["all"] == [f"dd-apps[{','.join(name for name in extras if name in whole)}]"]


def test_the_command_and_the_licence_are_declared(wheel: zipfile.ZipFile):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert "dd-apps = dd_apps.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    assert message_from_string(wheel.read(f"{info}/METADATA").decode())["License-Expression"] == "Apache-2.0"
