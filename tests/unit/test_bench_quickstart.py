"""The quickstart's benchmark and the choice of its settings: which images decide, and what a verdict is read off."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dd_apps import scenario
from dd_apps.continual import ContinualScenario, run
from dd_core import datasets
from dd_core.config import plain

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import quickstart

    return quickstart


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import quickstart_choice

    return quickstart_choice


def images_of(name: str, split: str) -> Counter[tuple[int, bytes]]:
    """How often each labelled image is there."""
    source = datasets.load(name, split=split)
    assert source.labels is not None
    pixels = source.take(torch.arange(len(source)))
    return Counter((int(label), image.numpy().tobytes()) for image, label in zip(pixels, source.labels, strict=True))


def test_settings_are_chosen_on_training_images_alone(choice: ModuleType, tmp_path: Path):
    choice.write_images(tmp_path)
    kept, held = (images_of(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert kept + held == images_of("digits", "train")  # every training image once, and no other
    assert held.total() == pytest.approx(0.25 * 1438, abs=5)
    of_each = Counter(label for label, _ in held.elements())
    assert len(of_each) == 10
    assert all(33 <= count <= 38 for count in of_each.values())


def test_settings_are_not_chosen_on_the_published_class_orders(choice: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["quickstart_choice.py"])
    options = choice.parse()
    assert not {0, 1, 2} & set(options.seeds)
    planned = list(choice.plan(options))
    assert len({(row, *settings) for row, settings in planned}) == len(planned) == 4 * 5 + 4 * 3 * 2
    assert ("distilled", ["images_per_class=4", "method.steps=200", "method.lr_img=3"]) in planned


def test_the_accuracies_that_verdicts_compare_are_those_of_the_tables(quickstart: ModuleType):
    # three experiences of 4, 3 and 3 classes: the mean over experiences is another figure
    settings = ["experiences=3", "orders=2", 'rows=["none", "random"]', "retraining.epochs=20", "replay.epochs=1"]
    values = scenario.load("quickstart", overrides=[*settings, "workers=1"]).values
    assert isinstance(values, ContinualScenario)
    results = run(values)
    final = quickstart.finals(values, results.matrices)
    for table, rows in results.tables.items():
        for row in rows:
            each = final[table][row["row"]]
            assert len(each) == 2
            assert sum(each) / 2 == pytest.approx(row["after_3"]["mean"], abs=1e-12)
            assert sum(each) / 2 != pytest.approx(row["average"]["mean"], abs=1e-6)


def test_verdicts_are_in_points_and_against_every_other_row(quickstart: ModuleType):
    rows = {"dm": [0.93, 0.94, 0.95], "real": [0.88, 0.90, 0.89], "k-means": [0.93, 0.95, 0.94]}
    found = quickstart.against(rows, ["dm"])
    assert list(found) == ["dm - real", "dm - k-means"]
    assert found["dm - real"]["difference"] == pytest.approx(5.0)
    assert [found[pair]["word"] for pair in found] == ["ahead", "no difference"]


def agrees(recorded: Any, shipped: Any) -> bool:
    """Whether two scenarios say the same; a setting that came later has its default, and is not in the record."""
    if isinstance(recorded, dict):
        return all(key in shipped and agrees(value, shipped[key]) for key, value in recorded.items())
    return recorded == shipped


@pytest.mark.parametrize("name", ["quickstart", "digits-replay-ipc1"])
def test_the_published_figures_are_those_of_the_shipped_scenario(quickstart: ModuleType, name: str):
    lines = [json.loads(line) for line in quickstart.RESULTS.read_text().splitlines()]
    runs = {(line["seed"], line["share"]): line for line in lines if line.get("name") == name}
    assert set(runs) == {(0, "fill"), (1, "fill"), (2, "fill"), (0, "stored")}
    for line in runs.values():
        shipped = json.loads(json.dumps(plain(scenario.load(name, overrides=line["settings"]).values)))
        assert agrees(line["scenario"], shipped)
        assert line["scenario"]["method"] == shipped["method"]
