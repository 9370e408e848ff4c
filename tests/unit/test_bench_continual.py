"""The benchmark of continual learning on a CPU: which rows it runs, and what it makes of their figures."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dd_apps.continual import ContinualScenario
from dd_core.config import decode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("continual_cpu")


@pytest.mark.parametrize("case", ["digits", "mnist", "cifar10"])
def test_every_case_is_a_scenario_at_equal_bytes(bench: ModuleType, case: str):
    made = bench.Bench(argparse.Namespace(case=case, data=None, small=False, workers=2))
    for images in made.case.memories:
        rows = [row for row in made.case.rows if made._fits(row, images)]
        scenario = decode(ContinualScenario, made.table(images, rows) | {"orders": 3})
        for row in rows:
            kept = scenario.images_of_class(row, image_bytes=made.case.image_bytes, classes=10)
            most = images * made.case.image_bytes // (made.case.image_bytes + 40) if row == "der" else images
            assert kept == most
        assert ("der" in rows) == ("der" in made.case.rows and images > 1)


def test_remedies_are_rows_of_one_table(bench: ModuleType):
    made = bench.Bench(argparse.Namespace(case="digits", data=None, small=False, workers=2))
    table = made.table(5, ["distilled", *bench.REMEDIES]) | {"protocols": ["replay"]}
    scenario = decode(ContinualScenario, table)
    assert {row: scenario.tables_of(row) for row in bench.REMEDIES} == dict.fromkeys(bench.REMEDIES, ("replay",))


def test_the_two_best_of_each_kind_in_each_table_are_measured_again_and_bounds_are_none(bench: ModuleType):
    def row(name: str, last: float):
        return {"row": name, "after_9": {"mean": 1.0}, "after_10": {"mean": last}}

    tables = {
        "retraining": [row("dm", 0.9), row("real", 0.5), row("hybrid", 0.6), row("dm-tiles", 0.7), row("none", 1.0)],
        "replay": [
            row("dm", 0.7),
            row("real", 0.6),
            row("der", 0.75),
            row("icarl", 0.2),
            row("dm-er-ace", 0.8),
            row("hybrid", 0.1),
            row("lwf", 1.0),
        ],
    }
    verdicts = {"retraining": {"dm": 0, "hybrid": 0, "dm-tiles": 0}, "replay": {"dm": 0, "dm-er-ace": 0, "hybrid": 0}}
    best = bench.best_memories(SimpleNamespace(tables=tables, verdicts=verdicts))
    assert best == ["distilled", "dm-tiles", "real", "dm-er-ace", "der"]


def test_finals_weigh_experiences_by_their_test_images(bench: ModuleType):
    def trial(order: int, network: int, last: list[float]):
        return {
            "row": "dm",
            "table": "replay",
            "order": order,
            "network": network,
            "matrix": [[1], last],
            "counts": [3, 1],
        }

    trials = [trial(0, 0, [0.5, 1.0]), trial(0, 1, [0.1, 0.1]), trial(1, 0, [0.0, 1.0])]
    assert bench.finals(SimpleNamespace(trials=trials)) == {"replay": {"dm": [[0.625, 0.1], [0.25]]}}
