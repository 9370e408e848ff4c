"""What the benchmarks of kills say of the states between which a search was killed, and of what a job left."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dd_core import store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def kill_search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kill_search

    return kill_search


def samples(*numbers: int) -> list[dict[str, Any]]:
    return [{"width": number} for number in numbers]


def records(*numbers: int) -> list[dict[str, Any]]:
    return [{"index": index, "sample": sample, "value": 0.5} for index, sample in enumerate(samples(*numbers))]


@pytest.mark.parametrize(
    ("recorded", "ended", "expected"),
    [
        ([(), (1, 2), (1, 2, 3)], [(), (1, 2), (1, 2, 3)], (0, 0, 0)),
        ([(), (1, 2), (1, 2, 3)], [(), (2, 1), (2, 1, 3, 1)], (0, 1, 0)),
        ([(), (1,), (1,), (1, 2)], [(), (1, 2), (1, 2), (1, 2, 2)], (0, 0, 1)),
        ([(), (1, 2), (1,)], [(), (1, 2), (1, 2)], (1, 0, 0)),
        ([(), (1, 2), (1, 3)], [(), (1, 2), (1, 2, 3)], (1, 0, 0)),
    ],
)
def test_a_recorded_trial_may_neither_go_nor_run_again(
    kill_search: ModuleType,
    recorded: list[tuple[int, ...]],
    ended: list[tuple[int, ...]],
    expected: tuple[int, int, int],
):
    pairs = zip(recorded, ended, strict=True)
    states = [kill_search.State(records(*numbers), samples(*others)) for numbers, others in pairs]
    assert tuple(kill_search.judged(states).values()) == expected


def test_a_journal_that_ends_within_a_line_is_told(kill_search: ModuleType, tmp_path: Path):
    (tmp_path / "journal").mkdir()
    assert kill_search.state(tmp_path) == kill_search.State([], [])
    (tmp_path / "journal" / "records.jsonl").write_text('{"index": 0}\n{"ind')
    assert kill_search.state(tmp_path) == kill_search.State([{"index": 0}], [], cut=True)
    (tmp_path / "journal" / "records.jsonl").write_text('{"index": 0}\n')
    assert not kill_search.state(tmp_path).cut


def test_what_a_job_left_is_told_but_for_how_long_it_took(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kill_everything

    part = tmp_path / "cache" / "artefacts" / "truth" / "x" / "part-00000.safetensors"
    part.parent.mkdir(parents=True)

    def left(*, seconds: float = 1.0, value: float = 0.5, memory: str = "hybrid", logits: int = 1, score: float = 0.9):
        arrays = {"t0": np.array([value], np.float32)}
        body = {"artefact": "x", "index": 0, "facts": {"seconds": seconds}}
        store.write_container(part, store.ARTEFACT, arrays, body)
        row = {"memory": memory, "logits": logits, "time": seconds, "training": seconds, "score": score}
        (tmp_path / "results.json").write_text(json.dumps({"tables": [row], "core_seconds": seconds}))
        return kill_everything.outcome(tmp_path)

    plain = left()
    assert sorted(Path(name).name for name in plain) == ["part-00000.safetensors", "results.json"]
    assert left(seconds=2.0) == plain
    for change in ({"value": 0.25}, {"memory": "reservoir"}, {"logits": 2}, {"score": 0.8}):
        assert left(**change) != plain, change


def test_growth_is_judged_by_its_last_points(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import growth

    def judged(*seconds: float, mib: tuple[float, ...] = (100.0, 100.0, 110.0)) -> dict[str, Any]:
        curve = growth.Curve((1, 2, 4), lambda size, folder: None, linear=("seconds",), flat=("mib",))
        points = [
            {"size": size, "seconds": each, "mib": amount}
            for size, each, amount in zip(curve.sizes, seconds, mib, strict=True)
        ]
        return growth.judged(curve, points)

    linear = judged(1.5, 2.5, 4.5)
    assert linear["ratios"] == {"seconds, a unit of the last over one before": 1.0, "mib, the last over the first": 1.1}
    assert linear["met"] is True
    assert judged(1.5, 2.5, 4.8)["met"] is False
    assert judged(1.5, 2.5, 4.5, mib=(100.0, 100.0, 111.0))["met"] is False
