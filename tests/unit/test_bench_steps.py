"""What `benchmarks/steps.py` says of two engines: which is the faster, what is asked, and which cases are meant."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from dd_core.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import steps

    return steps


def side(seconds: float) -> dict[str, object]:
    """Figures of an engine whose median is twice its least."""
    times = {"min": seconds, "median": 2 * seconds}
    return {"cpu_seconds": times, "seconds": times, "excess_mib": 100 * seconds}


def test_a_ratio_above_one_says_that_the_new_engine_takes_less(steps: ModuleType):
    ratios = steps.compared("dm-ipc10-w128", side(1.5), side(1.0))["old_over_new"]
    assert ratios["cpu_seconds"] == ratios["seconds"] == {"min": 1.5, "median": 1.5}
    assert ratios["excess_mib"] == 1.5


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("mtt-full-ipc1-w128", {"asked": 1.1, "met": True}),
        ("tesla-ipc1-w128", {"asked": 1.2, "met": False}),
        ("mtt-full-ipc1-w32", {}),
        ("m-datm-ipc1-w128", {}),
    ],
)
def test_something_is_asked_of_some_cases_at_width_128(steps: ModuleType, name: str, claim: dict[str, object]):
    found = steps.compared(name, side(1.15), side(1.0))
    assert {key: found[key] for key in ("asked", "met") if key in found} == claim


def test_a_case_is_meant_by_its_name_or_by_how_it_begins(steps: ModuleType):
    assert steps.chosen(["expert-sgd"]) == ["expert-sgd-w32", "expert-sgd-w128"]
    assert steps.chosen(["dataset-distillation-w32", "dm"])[0] == "dm-ipc10-w32"
    assert steps.chosen([]) == list(steps.CASES)
    with pytest.raises(UserError, match="unknown case 'exper'"):
        steps.chosen(["exper"])


def test_a_folder_that_is_no_checkout_is_refused(steps: ModuleType, tmp_path: Path):
    with pytest.raises(UserError, match="no checkout of this project"):
        steps.commit(tmp_path)
