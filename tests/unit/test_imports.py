"""What may be loaded, and when. One interpreter answers all questions about torch-free modules."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "torchvision", "avalanche", "nni", "timm", "matplotlib", "sklearn", "ray", "joblib")
LIGHT = [
    "dd_core",
    "dd_core.errors",
    "dd_core.config",
    "dd_core.streams",
    "dd_core.distilled",
    "dd_core.recipe",
    "dd_core.distiller",
    "dd_core.store",
    "dd_core.whitening",
    "dd_core.zca",
    "dd_core.artefacts",
    "dd_core.system.parallel",
    "dd_core.augment",
    "dd_core.evaluation",
    "dd_core.networks",
    "dd_core.runner",
    "dd_core.training",
    "dd_core.methods.trajectory_matching.config",
    "dd_apps.data",
    "dd_apps.scoring",
    "dd_apps.distillation",
    "dd_apps.study",
    "dd_apps.scenario",
    "dd_apps.nas",
    "dd_apps.nas.measures",
    "dd_apps.nas.measures.table",
    "dd_apps.nas.ranking",
    "dd_apps.nas.strategies",
    "dd_apps.nas.trials",
    "dd_apps.nas.truth",
    "dd_core.evaluation.protocols",
    "dd_core.evaluation.protocols.challenge",
    "dd_core.evaluation.protocols.recipes",
    "dd_core.evaluation.protocols.wang",
    "dd_core.evaluation.results",
    "dd_core.system.reporter",
    "dd_core.exchange",
    "dd_core.exchange.formats",
    "dd_core.networks.names",
    "dd_core.augment.names",
    "dd_core.datasets",
    "dd_core.datasets.folder_pixels",
    "dd_core.methods",
    "dd_core.methods.average",
    "dd_core.selection",
    "dd_core.methods.dataset_distillation.config",
    "dd_core.methods.dm.config",
    "dd_core.methods.herding",
    "dd_core.methods.k_means",
    "dd_core.methods.optimized.config",
    "dd_core.methods.random",
    "dd_core.methods.trajectory_matching.config",
]
ASK = """
import importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    found[name] = [heavy for heavy in json.loads(sys.argv[2]) if heavy in sys.modules]
print(json.dumps(found))
"""


def _loaded_by(*names: str) -> dict[str, list[str]]:
    command = [sys.executable, "-c", ASK, json.dumps(names), json.dumps(HEAVY)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_light_modules_load_nothing_heavy():
    assert _loaded_by(*LIGHT) == {name: [] for name in LIGHT}


def test_the_engine_loads_torch_and_none_of_the_applications_libraries():
    loaded = _loaded_by("dd_core.runner.loop", "dd_core.evaluation.evaluation", "dd_core.training.fitting")
    assert set().union(*loaded.values()) <= {"torch", "joblib"}
    assert "torch" in loaded["dd_core.runner.loop"]


def test_every_public_name_is_there():
    import dd_core

    assert set(dd_core._HOME) == set(dd_core.__all__)
    for name in dd_core.__all__:
        assert getattr(dd_core, name) is not None
    assert dd_core.__version__
