"""Each import contract of pyproject.toml is broken on purpose, in a small tree of the design's modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = ["artefacts", "datasets", "distilled", "errors", "images", "networks"]
ENGINE += ["parallel", "runner", "selection", "store", "streams"]
MODULES = [
    *("dd_core/__init__", "dd_core/methods/__init__", "dd_core/methods/dm", "dd_core/methods/random"),
    *(f"dd_core/{name}" for name in ENGINE),
    *("dd_apps/__init__", "dd_apps/cli", "dd_apps/scenario"),
    *(f"dd_apps/{name}/__init__" for name in ("continual", "nas", "transfer", "report")),
    "dd_apps/continual/memory",
]
ALLOWED = {
    "dd_apps/cli": "import rich, typer, dd_apps.scenario",
    "dd_apps/scenario": "import dd_apps.continual, dd_apps.nas, dd_apps.report",
    "dd_apps/continual/memory": "import avalanche, dd_core.runner",
    "dd_apps/nas/__init__": "import nni",
    "dd_apps/transfer/__init__": "import timm",
    "dd_core/runner": "import dd_core.artefacts, dd_core.store, dd_core.parallel, dd_core.images",
    "dd_core/methods/dm": "import dd_core.images, dd_core.selection, dd_core.networks, dd_core.errors",
    "dd_core/parallel": "import ray, dask",
    "dd_core/datasets": "import torchvision",
    "dd_core/networks": "import timm, torchvision",
}
APPLICATIONS = "cli -> scenario -> applications, which never import each other"
ENGINE_ALONE = "the engine knows nothing of the applications"
RUNNER = "runner -> artefacts, store, parallel -> values"
METHODS = "a method never imports another"
METHODS_LOW = "a method never imports the runner, the store or parallel"
FRAMEWORKS = "each framework is imported in its own place only"
FORBIDDEN = [
    ("dd_apps/continual/memory", "import dd_apps.nas", APPLICATIONS),
    ("dd_apps/nas/__init__", "import dd_apps.transfer", APPLICATIONS),
    ("dd_apps/report/__init__", "import dd_apps.continual", APPLICATIONS),
    ("dd_apps/scenario", "import dd_apps.cli", APPLICATIONS),
    ("dd_apps/transfer/__init__", "import dd_apps.scenario", APPLICATIONS),
    ("dd_core/store", "import dd_apps.report", ENGINE_ALONE),
    ("dd_core/store", "import dd_core.runner", RUNNER),
    ("dd_core/images", "import dd_core.artefacts", RUNNER),
    ("dd_core/errors", "import dd_core.streams", RUNNER),
    ("dd_core/methods/dm", "from dd_core.methods import random", METHODS),
    *(("dd_core/methods/random", f"import dd_core.{name}", METHODS_LOW) for name in ("runner", "store", "parallel")),
    ("dd_core/runner", "import avalanche", FRAMEWORKS),
    ("dd_core/runner", "def f():\n    import nni", FRAMEWORKS),
    ("dd_core/errors", "import rich", FRAMEWORKS),
    ("dd_core/errors", "import typer", FRAMEWORKS),
    ("dd_core/runner", "import ray", FRAMEWORKS),
    ("dd_core/artefacts", "import dask", FRAMEWORKS),
    ("dd_core/images", "import torchvision", FRAMEWORKS),
    ("dd_core/datasets", "import timm", FRAMEWORKS),
    ("dd_apps/continual/memory", "import nni", FRAMEWORKS),
    ("dd_apps/nas/__init__", "import avalanche", FRAMEWORKS),
    ("dd_apps/nas/__init__", "import timm", FRAMEWORKS),
]


def lint(folder: Path, sources: dict[str, str]) -> str:
    """import-linter's report on a tree in which the named modules hold `sources` and the others nothing."""
    for module in MODULES:
        file = folder / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(sources.get(module, ""))
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


def broken(report: str) -> set[str]:
    return {line.removesuffix(" BROKEN").strip() for line in report.splitlines() if " BROKEN" in line}


def test_what_the_design_allows_passes(tmp_path: Path):
    report = lint(tmp_path, ALLOWED)
    assert "0 broken" in report, report


@pytest.mark.parametrize(("module", "line", "contract"), FORBIDDEN)
def test_what_the_design_forbids_breaks_its_contract(module: str, line: str, contract: str, tmp_path: Path):
    report = lint(tmp_path, {**ALLOWED, module: f"{ALLOWED.get(module, '')}\n{line}\n"})
    assert any(name.startswith(contract) for name in broken(report)), report


def test_a_new_module_of_the_applications_needs_its_place(tmp_path: Path):
    (tmp_path / "dd_apps").mkdir()
    (tmp_path / "dd_apps" / "helpers.py").write_text("")
    assert broken(lint(tmp_path, {})) == {APPLICATIONS}
