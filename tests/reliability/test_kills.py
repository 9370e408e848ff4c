"""kill -9 at any moment and the same command again: the same bytes, and nothing left lying about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import Server, Walks, counting, distilling, draws, making, moments

from dd_core import artefacts, methods, store
from dd_core.artefacts import ArtefactSpec
from dd_core.recipe import Recipe, StartingPool
from dd_core.training.starts import spec_of

KILLED = -9
DM: dict[str, Any] = {"name": "dm", "steps": 4, "batch_real": 6, "recipe": {"network": "convnet-1-w4"}}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "herding": {"name": "herding"},
    "k-means": {"name": "k-means"},
    "average": {"name": "average"},
    "dm": DM,
    "dc": {"name": "dc", "steps": 3, "outer": 2, "inner": 1, "batch_real": 6, "recipe": {"network": "convnet-1-w4"}},
    "dsa": {**DM, "name": "dsa", "steps": 3, "outer": 2, "inner": 1, "formation": 2, "clamp": True},
    "dataset-distillation": {
        "name": "dataset-distillation",
        "steps": 4,
        "epochs": 2,
        "batch_real": 6,
        "gradient": "adjoint",
        "recipe": {"network": "convnet-1-w4"},
    },
    "sre2l": {
        "name": "sre2l",
        "teacher": {"network": "convnet-1-w4-batchnorm", "epochs": 2, "batch_size": 12},
        "recover": {"iterations": 3, "batch_size": 2},
        "recipe": {"network": "convnet-1-w4"},
    },
    "rded": {
        "name": "rded",
        "teacher": {"network": "convnet-1-w4-batchnorm", "epochs": 1, "batch_size": 12},
        "mosaic": {"images": 12, "crops": 2},
        "recipe": {"network": "convnet-1-w4"},
    },
    "krr-st": {
        "name": "krr-st",
        "steps": 4,
        "batch_real": 6,
        "networks": 2,
        "online_steps": 2,
        "teacher": {"network": "convnet-1-w4-batchnorm", "epochs": 1, "batch_size": 12, "warmup": 0},
        "recipe": {"network": "convnet-1-w4-batchnorm"},
    },
    "pretrained": {
        "name": "dataset-distillation",
        "steps": 3,
        "epochs": 2,
        "batch_real": 6,
        "start": "random-pretrained",
        "pool": 2,
        "pretraining": {"epochs": 1},
        "recipe": {"network": "convnet-1-w4"},
    },
    "mtt": {
        "name": "mtt",
        "steps": 4,
        "syn_steps": 2,
        "experts": 2,
        "gradient": "adjoint",
        "training": {"batch_size": 12},
        "recipe": {"network": "convnet-1-w4"},
    },
    "ftd": {
        "name": "ftd",
        "steps": 4,
        "syn_steps": 2,
        "experts": 1,
        "last_epoch": 1,
        "training": {"batch_size": 12, "sharpness": {}},
        "recipe": {"network": "convnet-1-w4"},
    },
    "datm": {
        "name": "datm",
        "steps": 4,
        "syn_steps": 2,
        "experts": 1,
        "last_epoch": 2,
        "range_start": 1,
        "range_below": 0.99,
        "zca": True,
        "training": {"batch_size": 12, "epochs": 4},
        "recipe": {"network": "convnet-1-w4"},
    },
    "m-datm": {
        "name": "m-datm",
        "steps": 4,
        "syn_steps": 2,
        "experts": 1,
        "last_epoch": 1,
        "training": {"batch_size": 12, "epochs": 2},
        "recipe": {"network": "convnet-1-w4"},
    },
    "tesla": {
        "name": "tesla",
        "steps": 4,
        "syn_steps": 2,
        "experts": 1,
        "last_epoch": 1,
        "training": {"batch_size": 12},
        "recipe": {"network": "convnet-1-w4"},
    },
    "optimized": {
        "name": "optimized",
        "steps": 4,
        "networks": 1,
        "batch_real": 6,
        "recipe": {"network": "convnet-1-w4", "epochs": 2},
    },
}


class Reference:
    """An undisturbed run: its bytes, and the moments at which one can be killed."""

    def __init__(self, server: Server, folder: Path, table: dict[str, Any]) -> None:
        folder.mkdir()
        self.table = table
        out = folder / "reference.safetensors"
        assert server.run(moments, out, table, folder / "counts.json") == 0
        self.sha256 = store.file_sha256(out)
        counts = json.loads((folder / "counts.json").read_text())
        self.disk: list[str] = counts["disk"]
        self.calls: int = counts["calls"]


@pytest.fixture(scope="module")
def reference(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    folder, made = tmp_path_factory.mktemp("references"), dict[str, Reference]()

    def of(name: str) -> Reference:
        if name not in made:
            made[name] = Reference(server, folder / name, METHODS[name])
        return made[name]

    return of


def is_whole(out: Path, reference: Reference) -> None:
    """The very bytes, every step logged once and in order, no checkpoint and no temporary file left."""
    assert store.file_sha256(out) == reference.sha256
    lines = (out.with_suffix(".run") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(reference.table.get("steps", 0)))
    assert {path.name for path in out.with_suffix(".run").iterdir()} == {"lock", "metrics.jsonl", "run.json"}
    assert {path.name for path in out.parent.iterdir()} == {out.name, out.with_suffix(".run").name}
    assert json.loads((out.with_suffix(".run") / "run.json").read_text())["sha256"] == reference.sha256


@pytest.mark.parametrize("name", METHODS)
def test_three_kills_of_each_method(name: str, server: Server, tmp_path: Path, reference: Callable[[str], Reference]):
    whole, draw = reference(name), draws(len(name))
    last_replace = max(index for index, what in enumerate(whole.disk) if what == "before replace")
    kills = [
        ("call", draw.randrange(whole.calls)),
        ("disk", draw.randrange(len(whole.disk))),
        ("disk", last_replace + draw.randrange(2)),
    ]
    for number, kill in enumerate(kills):
        out = tmp_path / str(number) / "set.safetensors"
        assert server.run(distilling, out, whole.table, 0, kill) == KILLED
        assert server.run(distilling, out, whole.table, 0, None) == 0
        is_whole(out, whole)


def test_no_method_is_left_out():
    assert {table["name"] for table in METHODS.values()} == methods.METHODS.keys()


def test_another_seed_gives_another_file(server: Server, tmp_path: Path, reference: Callable[[str], Reference]):
    for name in METHODS.keys() - {"herding"}:  # which draws nothing
        out = tmp_path / name / "set.safetensors"
        assert server.run(distilling, out, METHODS[name], 1, None) == 0
        assert store.file_sha256(out) != reference(name).sha256


def test_a_kill_at_every_moment_of_a_save(server: Server, tmp_path: Path, reference: Callable[[str], Reference]):
    """Each moment of the second checkpoint, and of the final file."""
    whole = reference("dm")
    replaces = [index for index, what in enumerate(whole.disk) if what == "before replace"]
    aims = [index for place in (replaces[2], replaces[-1]) for index in range(place - 6, place + 5)]
    for index in aims:
        out = tmp_path / str(index) / "set.safetensors"
        assert server.run(distilling, out, whole.table, 0, ("disk", index)) == KILLED, whole.disk[index]
        assert server.run(distilling, out, whole.table, 0, None) == 0
        is_whole(out, whole)


def test_many_kills_of_one_run(server: Server, tmp_path: Path, reference: Callable[[str], Reference]):
    """The same command again and again, killed again and again, until it gets through."""
    whole, draw, kills = reference("dm"), draws(0), 0
    out = tmp_path / "set.safetensors"
    for _ in range(60):
        kill = draw.choice([("call", draw.randrange(whole.calls // 2)), ("disk", draw.randrange(len(whole.disk) // 3))])
        code = server.run(distilling, out, whole.table, 0, kill)
        if code == 0:
            break
        assert code == KILLED
        kills += 1
    else:
        assert server.run(distilling, out, whole.table, 0, None) == 0
    assert kills >= 5
    is_whole(out, whole)


SPECS: dict[str, ArtefactSpec] = {
    "weights": spec_of(
        Recipe(network="convnet-1-w4"), (1, 8, 8), 2, StartingPool(distribution="default", count=4, seed=3)
    ),
    "walks": Walks(count=3, strides=4),
}


@pytest.mark.parametrize("name", SPECS)
def test_an_artefact_survives_kills(name: str, server: Server, tmp_path: Path):
    spec, log = SPECS[name], tmp_path / "log"
    assert server.run(counting, spec, tmp_path / "whole", log, tmp_path / "counts.json") == 0
    whole = artefacts.get(spec, cache=tmp_path / "whole")
    disk: list[str] = json.loads((tmp_path / "counts.json").read_text())
    undisturbed = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)

    draw, kills, done = draws(1), 0, dict[Path, int]()
    cache = tmp_path / "killed"
    for _ in range(30):
        kill = ("disk", draw.randrange(len(disk) // 4))
        code = server.run(making, spec, cache, log, kill)
        for path, made in done.items():
            assert path.stat().st_mtime_ns == made, "a part was made twice"
        done = {path: path.stat().st_mtime_ns for path in cache.rglob("part-*.safetensors")}
        if code == 0:
            break
        assert code == KILLED
        kills += 1
        assert not list(cache.rglob("complete.json")) or len(done) == spec.parts()
    else:
        assert server.run(making, spec, cache, log, None) == 0
    assert kills >= 3
    again = artefacts.get(spec, cache=cache)
    assert again.content == whole.content
    names = {path.name for path in again.folder.iterdir()}
    assert names == {"lock", "complete.json"} | {f"part-{index:05d}.safetensors" for index in range(spec.parts())}
    if name == "walks":  # a kill costs at most the stride under way
        strides = log.read_text().splitlines()
        assert set(strides) == set(undisturbed)
        assert len(strides) <= len(undisturbed) + kills
