"""What the benchmarks say of a lead, a gain or a claim goes by a test, and one value has no deviation."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def scored(ours: float, twin: float, **facts: Any) -> dict[str, Any]:
    means = {"accuracy": {"mean": ours, "std": 0.01}, "random_real": {"mean": twin, "std": 0.02}}
    return {"seconds": 1.0, "evaluation": means, **facts}


def test_a_presets_lead_over_its_twin_is_tested_over_seeds(bench: Callable[[str], ModuleType]):
    summary = bench("trajectories").summary
    # d = 4, 5, 6 points: t = 5 * sqrt(3) = 8.66 with 2 degrees of freedom, p = 0.0131
    found = summary("mtt", 10, [scored(0.94, 0.9), scored(0.95, 0.9), scored(0.96, 0.9)])
    assert (found["verdict"]["word"], found["met"]) == ("ahead", True)
    assert found["verdict"]["p"] == pytest.approx(0.0131, abs=1e-4)
    # d = 12, -3, 6 points: five points too, t = 1.15
    found = summary("mtt", 10, [scored(0.95, 0.83), scored(0.87, 0.9), scored(0.96, 0.9)])
    assert found["ahead"] == pytest.approx(0.05)
    assert found["verdict"]["word"] == "no difference"
    one = summary("mtt", 10, [scored(0.94, 0.9)])
    assert (one["accuracy"]["std"], one["random_real"]["std"], one["verdict"]["word"]) == (None, None, None)


def test_a_variants_gain_on_datm_is_tested_over_sets(bench: Callable[[str], ModuleType]):
    def several(name: str, *accuracies: float) -> list[dict[str, Any]]:
        facts = {"name": name, "range": [0, 30], "protocol": "challenge-2024"}
        return [scored(accuracy, 0.8, **facts) for accuracy in accuracies]

    records = [
        *several("DATM", 0.90, 0.91, 0.92),
        *several("DATM + M1", 0.94, 0.96, 0.98),  # d = 4, 5, 6 points
        *several("DATM + M2", 0.95, 0.90, 0.94),  # d = 5, -1, 2 points: t = 1.15
    ]
    found = {one["name"]: one for one in bench("m_datm").summaries(records)}
    assert {name: one["gain"] for name, one in found.items()} == {"DATM": 0.0, "DATM + M1": 5.0, "DATM + M2": 2.0}
    words = {name: one["verdict"]["word"] for name, one in found.items()}
    assert words == {"DATM": "no difference", "DATM + M1": "ahead", "DATM + M2": "no difference"}


def test_a_claim_about_flat_experts_is_tested_over_experts(bench: Callable[[str], ModuleType]):
    figures = bench("flatness_figures")

    def points(kind: str, values: list[float]) -> list[Any]:
        followed = ("accumulated error", "distance", "growth")
        changed = [
            f"{name} on {split} images, {whose}"
            for name in ("accuracy", "loss")
            for split in ("training", "test")
            for whose in ("expert at epoch 4", "student", *map(figures.as_trained, figures.FLAT))
        ]
        return [
            figures.Point(kind, quantity, expert, x, value if x else 0.0)
            for expert, value in enumerate(values)
            for quantity in (*(f"{what}, from epoch {start}" for what in followed for start in (0, 2)), *changed)
            for x in (0.0, 1.0)
        ]

    clearly, hardly = [0.5, 0.4, 0.3], [1.2, 0.6, 1.1]  # d = -0.5, -0.7, -0.7 and 0.2, -0.5, 0.1 against plain
    measured = [*points("plain", [1.0, 1.1, 1.0]), *points(figures.FLAT[0], clearly), *points(figures.FLAT[1], hardly)]
    found = [one for one in figures.claims(measured, 4) if "distance, from epoch 0" in one["claim"]]
    assert [(one["held"], one["verdict"]["word"]) for one in found] == [(True, "behind"), (True, "no difference")]
    assert figures.deviation([1.0]) is None
    assert figures.deviation([1.0, 3.0]) == round(2**0.5, 5)
