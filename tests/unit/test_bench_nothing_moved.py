"""What `benchmarks/nothing_moved.py` calls a difference between two checkouts, and what it lets pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dd_core
from dd_core import DistilledSet, Manifest, Recipe, UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")

RESULTS: dict[str, Any] = {
    "answers": [{"seconds": 1.5, "accuracy": {"mean": 0.5, "per_network": [0.25, 0.75]}}],
    "sets": {"set.safetensors": {"images": "uint8 10x1x8x8 ab", "recipe": {"epochs": 300, "momentum": 0.9}}},
    "losses": {"set.run/metrics.jsonl": [{"step": 0, "loss": 0.0}, {"step": 1, "loss": 2.5}]},
    "artefacts": {"experts": [{"t0": "float32 3x90 cd"}]},
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import nothing_moved

    return nothing_moved


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import moved_side

    return moved_side


@pytest.fixture
def verdict(bench: ModuleType) -> Callable[..., dict[str, Any]]:
    def of(old: dict[str, Any], new: dict[str, Any], *, exempt: str = "") -> dict[str, Any]:
        return bench.verdict(bench.Case("sets", "dm", (), exempt=exempt), old, new)

    return of


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The results with one value replaced."""
    found = copy.deepcopy(RESULTS)
    *way, last = path
    at: Any = found
    for key in way:
        at = at[key]
    at[last] = to
    return found


def test_equal_results_are_the_same(verdict):
    assert verdict(RESULTS, copy.deepcopy(RESULTS)) == {"word": "same", "counts": False, "what": [], "only_in_new": []}


@pytest.mark.parametrize(
    ("path", "to", "where"),
    [
        (("sets", "set.safetensors", "images"), "uint8 10x1x8x8 ac", "sets.set.safetensors.images"),
        (("sets", "set.safetensors", "recipe"), {"epochs": 300}, "sets.set.safetensors.recipe.momentum is gone"),
        (("losses", "set.run/metrics.jsonl", 1, "loss"), 2.5000000000000004, "losses.set.run/metrics.jsonl[1].loss"),
        (("losses", "set.run/metrics.jsonl", 0, "loss"), -0.0, "losses.set.run/metrics.jsonl[0].loss"),
        (("answers", 0, "accuracy", "per_network"), [0.5], "answers[0].accuracy.per_network: 2 of them, now 1"),
        (("artefacts",), {}, "artefacts.experts is gone"),
    ],
)
def test_a_bit_that_moves_is_noticed_and_counts(verdict, path, to, where):
    found = verdict(RESULTS, changed(*path, to=to))
    assert (found["word"], found["counts"], found["what"]) == ("MOVED", True, [where])


def test_seconds_may_differ_and_fields_may_be_added(verdict):
    assert verdict(RESULTS, changed("answers", 0, "seconds", to=9.0))["word"] == "same"
    added = changed("sets", "set.safetensors", "recipe", to={"epochs": 300, "momentum": 0.9, "betas": [0.9, 0.99]})
    found = verdict(RESULTS, added)
    assert (found["word"], found["only_in_new"]) == ("same", ["sets.set.safetensors.recipe.betas"])
    assert verdict(added, RESULTS)["what"] == ["sets.set.safetensors.recipe.betas is gone"]


def test_a_case_that_fails_is_a_difference_on_one_side_and_no_proof_on_both(verdict):
    failure = {"failure": "distill has exit code 2: error: unknown method 'dm'"}
    found = verdict(RESULTS, failure)
    assert (found["word"], found["counts"], found["what"]) == ("only in old", True, [f"new: {failure['failure']}"])
    assert verdict(failure, RESULTS)["word"] == "only in new"
    assert [verdict(failure, failure)[key] for key in ("word", "counts")] == ["FAILED", True]


def test_an_exempt_case_is_shown_and_does_not_count(bench: ModuleType, verdict):
    moved = changed("answers", 0, "accuracy", "mean", to=0.75)
    found = verdict(RESULTS, moved, exempt="a network with dropout")
    assert (found["word"], found["counts"]) == ("MOVED", False)
    assert verdict(RESULTS, moved)["counts"]
    case = bench.Case("scores", "dropout", (), exempt="a network with dropout")
    assert bench.said(case, found) == "MOVED (answers[0].accuracy.mean) [exempt: a network with dropout]"


def test_each_method_and_part_has_a_case_and_each_name_is_its_own(bench: ModuleType):
    from dd_core import methods

    made = {words[1] for case in bench.CASES for words in case.commands if words[0] == "distill"}
    assert made >= set(methods.METHODS)
    assert {case.part for case in bench.CASES} == set(bench.PARTS)
    assert len({case.name for case in bench.CASES}) == len(bench.CASES)
    assert [case.name for case in bench.CASES if case.exempt] == ["dropout"]


def a_set(pixel: int) -> DistilledSet:
    """Two images, of which the first has one pixel of this value."""
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    images[0, 0, 0, 0] = pixel
    pixels = {"space": "raw", "mean": (0.5,), "std": (0.25,)}
    manifest = Manifest(classes=("a", "b"), pixels=pixels, recipe=Recipe(network="lenet"))  # type: ignore[arg-type]
    return DistilledSet(images, np.array([0, 1]), manifest)


def test_a_pixel_of_a_set_and_a_loss_are_read(side: ModuleType, verdict, tmp_path: Path):
    found: list[dict[str, Any]] = []
    for name, pixel, loss in (("one", 1, 0.5), ("same", 1, 0.5), ("other", 2, 0.25)):
        folder = tmp_path / name
        (folder / "set.run").mkdir(parents=True)
        dd_core.write_set(folder / "set.safetensors", a_set(pixel))
        (folder / "set.run" / "metrics.jsonl").write_text(f'{{"step": 0, "loss": {loss}}}\n')
        found.append(side.contents(folder))
    assert verdict(found[0], found[1])["word"] == "same"
    assert verdict(found[0], found[2])["what"] == [
        "sets.set.safetensors.images",
        "losses.set.run/metrics.jsonl[0].loss",
    ]


def test_a_case_is_run_with_the_sets_that_it_scores(bench: ModuleType):
    assert [case.name for case in bench.chosen(["knn", "dm"])] == ["dm", "plain-set", "knn"]
    assert [case.name for case in bench.chosen(["trained"])] == ["plain-set", "soft-set", "trained"]
    assert {case.part for case in bench.chosen(["experts"])} == {"experts"}
    assert bench.chosen([]) == list(bench.CASES)
    with pytest.raises(UserError, match=r"unknown part or case 'set' \(parts: sets, experts"):
        bench.chosen(["set"])


def test_a_folder_that_is_no_checkout_is_refused(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("sys.argv", ["nothing_moved.py", "--old", str(tmp_path), "sets"])
    with pytest.raises(UserError, match="no checkout of this project"):
        bench.run(bench.parse())
    monkeypatch.setattr("sys.argv", ["nothing_moved.py"])
    with pytest.raises(UserError, match="--old DIR is missing"):
        bench.run(bench.parse())
