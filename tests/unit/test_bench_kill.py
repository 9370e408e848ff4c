"""What `benchmarks/kill_search.py` says of the states between which a search was killed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
