"""The conformance kit of tasks.

    from dd_apps.testing import TaskConformance

    class TestMine(TaskConformance):
        scenario = 'task = "mine"\\ndata = "digits"\\n'       # a scenario's file whose run takes seconds

Needs pytest.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dd_apps import scenario as scenarios
from dd_apps.report.page import html_page, markdown_page
from dd_apps.report.tables import MEASURED_BY_CLOCKS
from dd_apps.task import Outcome, TaskScenario
from dd_core.config import canonical, decode, describe, plain
from dd_core.errors import UserError
from dd_core.runner import RunOptions
from dd_core.store import set_bytes

HEAVY = ("torch", "torchvision", "avalanche", "nni", "timm", "matplotlib", "sklearn")
ASK = (
    "import importlib, sys; importlib.import_module(sys.argv[1]); print([n for n in sys.argv[2:] if n in sys.modules])"
)


class TaskConformance:
    """Tests that every task has to pass: subclass this class and set `scenario` to the text of a small scenario."""

    scenario: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))

    @pytest.fixture
    def values(self, tmp_path: Path) -> TaskScenario:
        """The scenario as `dd-apps run FILE.toml` decodes it."""
        (tmp_path / "mine.toml").write_text(self.scenario)
        return scenarios.load(str(tmp_path / "mine.toml")).values

    def test_the_title_is_one_line(self, values: TaskScenario):
        assert values.title.strip()
        assert values.title.isprintable()

    def test_every_key_has_a_meaning_and_survives_json(self, values: TaskScenario):
        assert [row["key"] for row in describe(type(values)) if not row["meaning"]] == []
        assert decode(type(values), json.loads(canonical(values))) == values

    def test_an_unknown_key_is_refused_by_its_name(self, values: TaskScenario):
        with pytest.raises(UserError, match="surely_no_key: unknown key"):
            decode(type(values), {**plain(values), "surely_no_key": 1})

    def test_the_values_are_checked_without_loading_torch(self, values: TaskScenario):
        command = [sys.executable, "-c", ASK, type(values).__module__, *HEAVY]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_equal_values_give_equal_figures_in_a_new_folder_and_in_the_same(
        self, values: TaskScenario, tmp_path: Path
    ):
        options = RunOptions(device="cpu", threads=1)
        first = _figures(values.run(tmp_path / "first", options))
        assert _figures(values.run(tmp_path / "first", options)) == first
        assert _figures(values.run(tmp_path / "second", options)) == first

    def test_the_outcome_can_be_reported_and_written(self, values: TaskScenario, tmp_path: Path):
        outcome = values.run(tmp_path / "work", RunOptions(device="cpu", threads=1))
        assert outcome.tables
        assert len({table.title for table in outcome.tables}) == len(outcome.tables), "figures are kept by the title"
        for page in (markdown_page, html_page):
            text = page("title", "origin", outcome.sections)
            assert all(section.title in text for section in outcome.sections)
        canonical(dict(outcome.details))  # raises for what JSON cannot hold, NaN and infinities among them
        assert all(ds.manifest.provenance is not None for ds in outcome.sets.values()), (
            "a kept set says how it was made"
        )


def _figures(outcome: Outcome) -> dict[str, Any]:
    """All figures of an outcome that two equal runs share; columns in seconds are left out."""
    tables = {
        table.title: [
            {column: value for column, value in row.items() if table.units.get(column) not in MEASURED_BY_CLOCKS}
            for row in table.rows
        ]
        for table in outcome.tables
    }
    sets = {name: hashlib.sha256(set_bytes(ds)).hexdigest() for name, ds in outcome.sets.items()}
    others = sorted(section.title for section in outcome.sections)
    return {"tables": tables, "sets": sets, "sections": others}
