"""What `benchmarks/nas_throughput.py` says of what searches took."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import nas_throughput

    return nas_throughput


def test_a_summary_is_the_median_of_the_rounds_and_its_ratios_are_of_one_round(throughput: ModuleType):
    def turn(one: float, two: float) -> dict[str, object]:
        return {kind: throughput.Run(wall, 10.0, []) for kind, wall in (("one", one), ("two", two), ("nni", 40.0))}

    rows = throughput.summary([turn(12.0, 6.0), turn(10.0, 8.0), turn(20.0, 5.0)])
    assert rows["one"] == {"seconds": 12.0, "own_seconds": 10.0, "over_own": 1.2, "speed_up": 1.0}
    assert rows["two"] == {"seconds": 6.0, "own_seconds": 10.0, "over_own": 0.6, "speed_up": 2.0}
    assert rows["nni"]["speed_up"] == 0.3


def test_a_claim_holds_for_every_strategy_or_not_at_all(throughput: ModuleType):
    def row(over: float, speed: float) -> dict[str, dict[str, float]]:
        return {"one": {"over_own": over, "speed_up": 1.0}, "two": {"over_own": 9.0, "speed_up": speed}}

    held = throughput.claims({"random": row(1.1, 1.8), "tpe": row(1.0, 1.9)})
    assert held == {
        "one_process": {"asked": 1.1, "over_own": 1.1, "held": True},
        "two_workers": {"asked": 1.8, "speed_up": 1.8, "held": True},
    }
    lost = throughput.claims({"random": row(1.0, 1.95), "tpe": row(1.101, 1.799)})
    assert [(claim["held"], claim["asked"]) for claim in lost.values()] == [(False, 1.1), (False, 1.8)]


def test_every_kind_of_search_runs_the_same_trials(throughput: ModuleType):
    trial = throughput.Trial(1)
    for name in throughput.STRATEGIES:
        runs = throughput.turns(name, trial, throughput.Pool(uses_torch=False), 2, first=1)
        assert [*runs] == ["two", "nni", "one"]
        assert all(len(run.values) == 2 and None not in run.values and 0 < run.own < run.wall for run in runs.values())
