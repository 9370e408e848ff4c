"""Files of the first format, which are read, scored and gone on from forever.

`golden/expected.json` has what is in each set and the command line that made it; sets and run folders are of commit
b7b0fdb, and are never written again. A new format gets files of its own beside them. `golden/digests.json` has the
digests of artefact specs at that commit, for comparing; they may change where an artefact's version does.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dd_core import DistilledSet, read_set, write_set

GOLDEN = Path(__file__).parent / "golden"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
SETS, RUNS = EXPECTED["sets"], EXPECTED["runs"]
ROUNDING = 1e-4  # of pixels in units of their deviation, between processors; a step moves some by 0.01 to 1


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def stopped(tmp_path: Path, cache: Path) -> Callable[[str], list[str]]:
    """Put the folder of a stopped run beside `set.safetensors`, and what it began with into the cache."""

    def put(name: str) -> list[str]:
        folder = tmp_path / "set.run"
        folder.mkdir()
        for file in ("checkpoint-00000003.safetensors", "metrics.jsonl"):
            shutil.copy(GOLDEN / name / file, folder)
        if (experts := GOLDEN / name / "experts").exists():
            shutil.copytree(experts, cache / "artefacts" / "experts")
        return [*shlex.split(RUNS[name]["command"]), "--out", "set.safetensors"]

    return put


def path_of(name: str) -> Path:
    return GOLDEN / f"{name}.safetensors"


def assert_kept(old: Any, new: Any, where: str = "") -> None:
    """All of `old` is in `new`, floats to rounding; a field that came later has its default, and is not in `old`."""
    if isinstance(old, dict):
        for key, value in old.items():
            assert key in new, f"{where}.{key} is gone"
            assert_kept(value, new[key], f"{where}.{key}")
    elif isinstance(old, list):
        assert len(old) == len(new), where
        for index, pair in enumerate(zip(old, new, strict=True)):
            assert_kept(*pair, f"{where}[{index}]")
    else:
        assert new == (pytest.approx(old, rel=1e-5) if isinstance(old, float) else old), where


def assert_same_arrays(one: DistilledSet, other: DistilledSet, atol: float = 0.0) -> None:
    for name in ("images", "labels", "targets"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_what_it_was(name: str):
    expected, ds = SETS[name], read_set(path_of(name))
    images = ds.images
    assert [images.dtype.name, list(images.shape)] == [expected["images"][key] for key in ("dtype", "shape")]
    assert hashlib.sha256(images.tobytes()).hexdigest() == expected["images"]["sha256"]
    assert images[3, 0, 4, 2:6].tolist() == expected["images"]["pixels"]
    assert ds.labels is not None
    assert ds.labels.tolist() == expected["labels"]
    assert (ds.targets is None) == ("target_row" not in expected)
    assert ds.targets is None or ds.targets[3].tolist() == expected["target_row"]
    assert (ds.whitening is None) == ("whitening" not in expected)
    assert ds.whitening is None or ds.whitening.matrix[20, 18:23].tolist() == expected["whitening"]
    manifest = ds.manifest.model_dump(mode="json")
    for part in ("pixels", "targets", "recipe", "attack", "provenance"):
        assert_kept(expected[part], manifest[part], part)
    assert ds.classes == tuple("0123456789")


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_verified_and_written_again_without_loss(name: str, tmp_path: Path, call_json):
    assert call_json("verify", path_of(name))["sha256"] == SETS[name]["sha256"]
    ds = read_set(path_of(name))
    write_set(tmp_path / "again.safetensors", ds)
    again = read_set(tmp_path / "again.safetensors")
    assert_same_arrays(again, ds)
    assert again.manifest == ds.manifest


def test_networks_are_fed_what_the_pixels_are():
    """Raw pixels are normalised on their way, by the set's own mean and deviation; others are inputs already."""
    raw, whitened, normalised = (read_set(path_of(name)) for name in ("random", "mtt-zca", "fixed"))
    mean, std = SETS["random"]["pixels"]["mean"][0], SETS["random"]["pixels"]["std"][0]
    inputs = raw.as_dataset().tensors[0].numpy()
    np.testing.assert_allclose(inputs, (raw.images / np.float32(255) - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(whitened.as_dataset().tensors[0].numpy(), whitened.images)
    np.testing.assert_array_equal(normalised.as_dataset().tensors[0].numpy(), normalised.images)
    assert whitened.whitening is not None
    undone = whitened.raw().reshape(10, -1) - whitened.whitening.offset
    np.testing.assert_allclose(undone @ whitened.whitening.matrix, whitened.images.reshape(10, -1), atol=1e-3)


@pytest.mark.parametrize("name", SETS)
def test_a_set_scores_what_it_scored(name: str, call_json):
    """Its networks start where they are meant to (`fixed`: from the very weights) and learn by its recipe."""
    found, expected = call_json("evaluate", path_of(name), "--nets", 1, "--device", "cpu"), SETS[name]["score"]
    for key in ("accuracy", "random_real"):
        assert found[key]["mean"] == pytest.approx(expected[key], abs=0.03), key
    if "success" in expected:
        assert found["attack"]["success"]["mean"] == pytest.approx(expected["success"], abs=0.1)
    recipe = SETS[name]["recipe"]
    assert (found["network"], found["made_for"]) == (recipe["network"], recipe["initialisation"])
    assert found["as_meant"]
    assert found["warnings"] == []


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_to_the_set_of_one_that_was_not_stopped(name: str, tmp_path: Path, call, stopped):
    command, whole = stopped(name), read_set(GOLDEN / name / "whole.safetensors")
    code, _, err = call(*command)
    assert code == 0, err
    assert "resumed at step 3 of 6" in err
    assert "making" not in err
    ds = read_set(tmp_path / "set.safetensors")
    assert_same_arrays(ds, whole, atol=ROUNDING)
    expected = whole.manifest.model_dump(mode="json")
    del expected["provenance"]["environments"]  # this machine's are added
    assert_kept(expected, ds.manifest.model_dump(mode="json"))
    lines = (tmp_path / "set.run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(6))
    assert lines[:3] == (GOLDEN / name / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_is_no_other_run_but_for_what_is_changed(name: str, call, stopped):
    """The command that made it is the same run, whatever fields came later; with another seed it is another."""
    code, _, err = call(*stopped(name), "--seed", 1)
    assert code == 2
    assert "holds a run with other settings (seed: 0 -> 1);" in err


def test_a_folder_of_results_is_of_the_same_scenario_but_for_what_is_changed(tmp_path: Path, call):
    shutil.copytree(GOLDEN / "continual", tmp_path / "out", ignore=shutil.ignore_patterns("*.toml"))
    code, _, err = call("run", GOLDEN / "continual" / "continual.toml", "--out", "out", "--set", "seed=1")
    assert code == 2
    assert "out: holds results of other settings (seed: 0 -> 1);" in err
