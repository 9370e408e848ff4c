"""Each import contract of pyproject.toml is broken on purpose, in a small tree of the design's modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# the rooms of the engine, the lowest ones last
ROOMS = [
    ["testing"],
    ["exchange/__init__"],
    ["evaluation/__init__", "runner/__init__"],
    ["methods/__init__", "methods/dm", "methods/random", "methods/sre2l/distiller"],
    ["datasets/torchvision_files", "distiller", "training/__init__", "zca"],
    ["artefacts"],
    ["selection", "store/__init__", "synthetic", "unroll"],
    ["distilled"],
    ["recipe"],
    ["augment/__init__", "networks/models"],
    ["images"],
    ["formation", "whitening"],
    ["system/parallel/engines", "system/device"],
    ["config"],
    ["errors", "lazy", "streams"],
]
MODULES = [
    "dd_core/__init__",
    *(f"dd_core/{name}" for rooms in ROOMS for name in rooms),
    *("dd_apps/__init__", "dd_apps/cli", "dd_apps/scenario", "dd_apps/study", "dd_apps/data", "dd_apps/scoring"),
    *(f"dd_apps/{name}/__init__" for name in ("compare", "continual", "nas", "transfer", "report")),
    "dd_apps/continual/memory",
]
ALLOWED = {
    "dd_apps/cli": "import rich, typer, dd_apps.scenario",
    "dd_apps/scenario": "import dd_apps.continual, dd_apps.nas, dd_apps.report, dd_apps.scoring",
    "dd_apps/study": "import dd_apps.data, dd_apps.scoring, dd_apps.report",
    "dd_apps/continual/memory": "import avalanche, dd_core.runner",
    "dd_apps/nas/__init__": "import nni",
    "dd_apps/transfer/__init__": "import timm",
    "dd_core/runner/__init__": "import dd_core.artefacts, dd_core.store, dd_core.system.parallel, dd_core.images",
    "dd_core/methods/dm": "import dd_core.images, dd_core.selection, dd_core.networks, dd_core.errors",
    "dd_core/methods/sre2l/distiller": "import dd_core.training, dd_core.system.device",
    "dd_core/system/parallel/engines": "import ray, dask",
    "dd_core/datasets/torchvision_files": "import torchvision",
    "dd_core/networks/models": "import timm, torchvision",
}
TASKS = "cli -> scenario -> tasks, which never import each other -> what they share"
ENGINE_ALONE = "the engine knows nothing of the applications"
UPWARDS = "every room of the engine imports only rooms below it"
METHODS = "a method never imports another"
METHODS_LOW = "a method never imports the runner, the store or parallel"
FRAMEWORKS = "each framework is imported in its own place only"


def dotted(module: str) -> str:
    return module.removesuffix("/__init__").replace("/", ".")


# from each floor up to the floor above it, and once from the ground to the top
STAIRS = [
    (f"dd_core/{low[0]}", f"import dd_core.{dotted(high[0])}", UPWARDS)
    for high, low in [*pairwise(ROOMS), (ROOMS[0], ROOMS[-1])]
]
FORBIDDEN = [
    ("dd_apps/continual/memory", "import dd_apps.nas", TASKS),
    ("dd_apps/nas/__init__", "import dd_apps.transfer", TASKS),
    ("dd_apps/report/__init__", "import dd_apps.continual", TASKS),
    ("dd_apps/scenario", "import dd_apps.cli", TASKS),
    ("dd_apps/data", "import dd_apps.continual", TASKS),
    ("dd_apps/scoring", "import dd_apps.study", TASKS),
    ("dd_apps/transfer/__init__", "import dd_apps.scenario", TASKS),
    ("dd_core/store/__init__", "import dd_apps.report", ENGINE_ALONE),
    *STAIRS,
    ("dd_core/methods/dm", "from dd_core.methods import random", METHODS),
    ("dd_core/methods/dm", "import dd_core.methods.sre2l.distiller", METHODS),
    *(
        ("dd_core/methods/random", f"import dd_core.{name}", METHODS_LOW)
        for name in ("runner", "store", "system.parallel")
    ),
    ("dd_core/runner/__init__", "import avalanche", FRAMEWORKS),
    ("dd_core/runner/__init__", "def f():\n    import nni", FRAMEWORKS),
    ("dd_core/errors", "import rich", FRAMEWORKS),
    ("dd_core/errors", "import typer", FRAMEWORKS),
    ("dd_core/runner/__init__", "import ray", FRAMEWORKS),
    ("dd_core/system/device", "import dask", FRAMEWORKS),
    ("dd_core/images", "import torchvision", FRAMEWORKS),
    ("dd_core/datasets/torchvision_files", "import timm", FRAMEWORKS),
    ("dd_apps/continual/memory", "import nni", FRAMEWORKS),
    ("dd_apps/nas/__init__", "import avalanche", FRAMEWORKS),
    ("dd_apps/nas/__init__", "import timm", FRAMEWORKS),
]


def lint(folder: Path, sources: dict[str, str]) -> str:
    """import-linter's report on a tree in which the named modules hold `sources` and the others nothing."""
    for module in MODULES:
        file = folder / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder_between in (file.parent, *file.parent.parents):
            if folder_between == folder:
                break
            (folder_between / "__init__.py").touch()
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
    assert broken(lint(tmp_path, {})) == {TASKS}


def test_a_new_room_of_the_engine_needs_its_place(tmp_path: Path):
    (tmp_path / "dd_core").mkdir()
    (tmp_path / "dd_core" / "helpers.py").write_text("")
    assert broken(lint(tmp_path, {})) == {UPWARDS}
