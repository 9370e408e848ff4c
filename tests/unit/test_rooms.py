"""The shape of the house: no circle, few rooms, no long file, few late imports, each with its reason."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("rooms")


@pytest.mark.parametrize("package", ["dd_core", "dd_apps"])
def test_no_room_imports_one_that_imports_it(house: ModuleType, package: str):
    between = house.arrows(package)
    assert house.circles(between) == []
    assert {room for arrow in between for room in arrow} <= house.rooms(package)
    if package == "dd_core":
        assert ("runner", "distiller") in between
        assert ("distiller", "runner") not in between


def test_the_engine_has_few_rooms(house: ModuleType):
    assert len(house.rooms("dd_core")) <= house.MOST_ROOMS


def test_no_file_is_long(house: ModuleType):
    assert house.long_files() == []
    assert ("core/dd_core/artefacts.py", 100) not in house.long_files(100)
    assert "core/dd_core/artefacts.py" in dict(house.long_files(100))


def test_late_imports_are_few_and_each_has_its_reason(house: ModuleType):
    late = house.late_imports()
    assert len(late) <= house.MOST_LATE_IMPORTS
    assert [entry for entry in late if not entry.reason] == []


def test_circles_are_found(house: ModuleType):
    assert house.circles({("a", "b"), ("b", "c")}) == []
    assert house.circles({("a", "b"), ("b", "a"), ("b", "c")}) == [["a", "b"]]
    around = {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "f"), ("f", "e")}
    assert house.circles(around) == [["a", "b", "c"], ["e", "f"]]


SOURCE = """
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def load():
    import torch  # heavy

    class Inner:
        def load(self):
            from dd_core import images


async def wait():
    import asyncio
"""


def test_an_import_is_late_where_it_stands_in_a_function(house: ModuleType):
    late = list(house.late_imports_in(SOURCE, "a.py"))
    assert [(entry.line, entry.statement, entry.reason) for entry in late] == [
        (10, "import torch", "heavy"),
        (14, "from dd_core import images", ""),
        (18, "import asyncio", ""),
    ]
