"""What a continual run reports: matrices, curves with intervals, accuracy against bytes, a line for each network."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dd_apps.continual import ContinualScenario, drawing
from dd_apps.continual.job import Ledger, Outcome, Trial
from dd_apps.continual.outcome import run_task
from dd_apps.continual.summaries import course, ledger_row, measures_row, notes, with_overhead
from dd_apps.report import plots
from dd_apps.report.plots import Panel, Point, estimates, heat_map
from dd_core.config import decode
from dd_core.runner import RunOptions

SCENARIO = {
    "data": "digits",
    "experiences": 2,
    "orders": 2,
    "network": "convnet-1-w4",
    "row": {
        "er": {"memory": "class-balanced", "strategy": "replay", "training": {"epochs": 3}},
        "der": {"memory": "class-balanced", "strategy": {"name": "der", "alpha": 0.25}, "images_per_class": 2},
    },
    "rows": ["er", "der", "none"],
    "protocols": ["replay"],
    "replay": {"epochs": 1, "batch_size": 128},
}


def outcome(*finals: float, counts=(30, 10), training=2.0) -> Outcome:
    """Networks whose accuracies on the first experience are .9 and, after the second, `finals`; .8 on the second."""
    trials = tuple(
        Trial(
            [[0.9, None], [final, 0.8]],
            [[0.95, None], [final + 0.05, 0.85]],
            Ledger(distilling=3.0, storing=0.5, training=training, images=10, pixels=640, labels=80, state=7),
        )
        for final in finals
    )
    return Outcome({"replay": trials}, counts)


def test_courses_take_class_orders_as_repetitions_and_networks_as_parts_of_one():
    scenario = decode(ContinualScenario, SCENARIO)
    found = course(scenario, "replay", [outcome(0.5, 0.7), outcome(0.4, 0.4), outcome(0.8, 0.6)])
    orders = [(0.6 * 30 + 8) / 40, (0.4 * 30 + 8) / 40, (0.7 * 30 + 8) / 40]
    assert found.mean == pytest.approx([0.9, np.mean(orders)])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(orders), scale=stats.sem(orders))
    assert found.half[1] == pytest.approx((high - low) / 2)
    assert found.half[0] == pytest.approx(0)
    assert course(scenario, "replay", [outcome(0.5)]).half == (None, None)


def test_measures_and_costs_follow_from_the_trials():
    scenario, outcomes = decode(ContinualScenario, SCENARIO), [outcome(0.5), outcome(0.7, training=4.0)]
    row = measures_row(scenario, "der", "replay", outcomes)
    assert row["strategy"] == "der"
    assert row["incremental"]["mean"] == pytest.approx((0.9 + (0.6 * 30 + 8) / 40) / 2)
    assert row["backward"]["mean"] == pytest.approx(0.6 - 0.9)
    assert row["task known"]["mean"] == pytest.approx((0.65 + 0.85) / 2)
    costs = ledger_row("der", "replay", outcomes)
    assert {name: costs[name] for name in ("images", "pixels", "labels", "earlier weights")} == {
        "images": 10,
        "pixels": 640,
        "labels": 80,
        "earlier weights": 7,
    }
    assert (costs["distilling"], costs["storing"], costs["training"]) == (3.0, 0.5, 3.0)


def test_seconds_are_compared_with_those_of_real_images_in_the_same_table():
    rows = {"herded": {"memory": "herding"}, "der": SCENARIO["row"]["der"]}
    names = ["distilled", "der", "herded", "real", "none"]
    scenario = decode(ContinualScenario, SCENARIO | {"row": rows, "rows": names, "protocols": ["retraining", "replay"]})

    def cost(row: str, table: str, distilling: float, storing: float, training: float):
        return {"row": row, "table": table, "distilling": distilling, "storing": storing, "training": training}

    ledger = [
        cost("dm", "retraining", 30.0, 2.0, 8.0),
        cost("herded", "retraining", 0.0, 1.0, 4.0),
        cost("dm", "replay", 30.0, 3.0, 7.0),
        cost("der", "replay", 0.0, 1.0, 1.0),
        cost("herded", "replay", 0.0, 2.0, 8.0),
        cost("real", "replay", 0.0, 0.0, 5.0),
    ]
    found = [row["times real"] for row in with_overhead(scenario, ledger)]
    assert found == pytest.approx([8.0, 1.0, 4.0, 0.2, 1.0, 0.5])
    alone = with_overhead(scenario, [*ledger[2:], cost("dm", "taught", 1, 1, 1)])
    assert alone[-1]["times real"] is None
    assert with_overhead(scenario, ledger[:1]) == ledger[:1]


def test_a_row_says_what_its_memory_keeps():
    rows = {
        "mixed": {"memory": "hybrid", "labels": "network", "features": "network", "training": {"tuning_epochs": 0}},
        "again": {"adaptive": True, "shrinking": "distil", "strategy": "replay"},
    }
    changes = {"row": rows, "rows": ["again", "mixed"], "protocols": ["replay"]}
    found = notes(decode(ContinualScenario, SCENARIO | changes), "replay", {})
    assert "mixed: memory hybrid (dm), labels network, real_share 0.5, features network; replay" in found[2]
    assert (
        "again: memory distilled (dm), all room shared by the classes seen so far, shrinking distil; replay" in found[1]
    )
    tuned = notes(decode(ContinualScenario, TUNED), "replay", {})
    assert tuned[-1].endswith("; then 4 epochs on the memory alone")


TUNED = {
    "data": "digits",
    "row": {"er": {"memory": "class-balanced", "strategy": "replay"}},
    "rows": ["er"],
    "protocols": ["replay"],
    "replay": {"tuning_epochs": 4},
}


def test_pictures_show_the_figures(monkeypatch):
    shown = {}
    for kind in ("heat_map", "curves", "estimates"):
        own = getattr(plots, kind)

        def seen(name, values, own=own, kind=kind, **ways):
            shown[kind] = values, ways
            return own(name, values, **ways)

        monkeypatch.setattr(plots, kind, seen)
    scenario = decode(ContinualScenario, SCENARIO)
    by_row = {"der": [outcome(0.5), outcome(0.7)], "none": [outcome(0.0), outcome(0.1)]}
    tables = {"replay": [{"row": "der", "bytes": 720}, {"row": "none", "bytes": 0}]}
    matrices = {"replay": {row: [each.trials["replay"][0].matrix for each in found] for row, found in by_row.items()}}
    courses = {"replay": {row: course(scenario, "replay", found) for row, found in by_row.items()}}
    names = [picture.name for picture in drawing.pictures(tables, matrices, courses)]
    assert names == ["replay-matrices", "replay-curves", "replay-bytes"]
    (der, none), ways = shown["heat_map"]
    assert der.values == [[pytest.approx(90), None], [pytest.approx(60), pytest.approx(80)]]
    assert none.values[1][0] == pytest.approx(5)
    assert (ways["rows"], ways["columns"]) == (["after 1", "after 2"], ["1", "2"])
    ((curve,), _) = shown["curves"][0].values()
    final, half = 100 * courses["replay"]["der"].mean[1], 100 * courses["replay"]["der"].half[1]
    assert curve.mean == pytest.approx([90, final])
    assert curve.std == pytest.approx([0, half])
    assert [round(x) for x in curve.x] == [1, 2]
    (point,), levels = shown["estimates"]
    assert (point.name, point.x, point.y) == ("der", 720, pytest.approx(final))
    assert (point.low, point.high) == (pytest.approx(max(0, final - half)), pytest.approx(min(100, final + half)))
    assert [*levels["lines"]] == ["none"], "a row without a memory is a level to compare with"


def test_heat_maps_stand_on_each_other_where_they_are_many():
    panels = [Panel(str(number), [[1.0 * number, None]]) for number in range(5)]
    beside, stacked = (
        Image.open(io.BytesIO(heat_map("m", panels, rows=["r"], columns=["a", "b"], title="m", across=across).png))
        for across in (None, 2)
    )
    assert stacked.width < beside.width
    assert stacked.height == pytest.approx(3 * beside.height, abs=3)


def test_points_of_nearly_one_x_stand_on_an_axis_that_can_be_read():
    points = [Point("a", "a", 6240, 80, 70, 90), Point("b", "b", 6400, 85, 80, 90)]
    text = estimates("p", points, title="p", x="bytes", y="accuracy").svg
    assert text is not None
    assert b"6.225" not in text


def test_more_groups_than_colours_still_look_different():
    looks = plots._looks(map(str, range(14)))
    assert len(set(looks.values())) == 14
    assert looks["0"] == (plots.COLOURS[0], plots.MARKS[0])


def test_notes_say_what_each_own_row_is():
    scenario = decode(ContinualScenario, SCENARIO)
    found = notes(scenario, "replay", {})
    assert "er: memory class-balanced; replay, epochs 3" in found
    assert "der: memory class-balanced; der (alpha 0.25, beta 0.5)" in found
    assert "trained with the same settings, but for rows that say otherwise" in found[0]
    assert "1 epoch, each image once (an online stream)" in found[-1]


def test_a_task_writes_a_line_for_every_network_in_every_table(tmp_path):
    done = run_task(decode(ContinualScenario, SCENARIO | {"workers": 1}), tmp_path, RunOptions(device="cpu", threads=1))
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [(line["row"], line["order"]) for line in lines] == [
        (row, n) for row in ("er", "der", "none") for n in (0, 1)
    ]
    assert [line["matrix"] for line in lines if line["row"] == "er"] == done.details["matrices"]["replay"]["er"]
    assert lines[0]["ledger"]["pixels"] == 640
    titles = [section.title for section in done.sections]
    assert titles[:3] == ["replay", "replay: further measures", "costs"]
    assert [table.units.get("pixels") for table in done.tables][-1] == "bytes"
    assert done.tables[0].rows[1]["bytes"] == 10 * (64 + 40), "128 bytes a class hold one image with its logits"
