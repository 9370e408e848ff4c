"""The recipes of CONTRIBUTING.md, each as another package: in an empty folder, found by its entry points."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = {
    "median": "methods",
    "patient": "protocols",
    "central": "methods",
    "perceptron": "networks",
    "sizes": "tasks",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed package that holds the files of all recipes."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for block in blocks("python"):
        first, _, _ = block.partition("\n")
        (folder / first.removeprefix("# ")).write_text(block)
    groups: dict[str, dict[str, str]] = {}
    for block in blocks("toml"):
        for group, points in tomllib.loads(block)["project"]["entry-points"].items():
            groups.setdefault(group, {}).update(points)
    described = folder / "recipes-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes\nVersion: 1\n")
    lines = [line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))]
    (described / "entry_points.txt").write_text("\n".join(lines))
    return folder


def python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (package, ROOT / "core", ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "DD_APPS_CACHE": str(package / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)


def test_each_recipe_has_a_module_a_test_and_an_entry_point(package: Path):
    files = {path.stem for path in package.glob("*.py")}
    assert files == {*RECIPES} | {f"test_{name}" for name in RECIPES}
    points = (package / "recipes-1.dist-info" / "entry_points.txt").read_text()
    assert all(f"{name} = {name}:" in points for name in RECIPES)


@pytest.fixture(scope="module")
def report(package: Path) -> str:
    """What pytest says of every test of every recipe; one process, because importing torch takes seconds."""
    done = python(package, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider")
    assert "error" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_passes_its_kit(report: str, recipe: str):
    results = re.findall(rf"^test_{recipe}\.py::\S+ (PASSED|FAILED|ERROR)", report, flags=re.MULTILINE)
    assert set(results) == {"PASSED"}, report
    assert len(results) >= 6, "a kit that runs nothing proves nothing"


@pytest.mark.parametrize("kind", sorted({*RECIPES.values()} - {"tasks"}))
def test_the_command_line_lists_it(package: Path, kind: str):
    done = python(package, "-m", "dd_apps.cli", "list", kind, "--json")
    names = {row["name"] for row in json.loads(done.stdout)[kind]}
    assert {name for name, of in RECIPES.items() if of == kind} <= names


def test_a_recipe_fits_on_a_screen():
    for block in blocks("python"):
        assert block.count("\n") <= 50, block.partition("\n")[0]
