"""Tables and plots of proxies and searches, from plain values."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from dd_apps.nas import reporting
from dd_apps.nas.ranking import compare, rank, rank_average
from dd_apps.nas.reporting import RankedProxy
from dd_apps.report.labels import Box, placed
from dd_apps.report.plots import Point, estimates

TRUTH = {f"net-{index:02}": 50.0 + index for index in range(20)}
RESAMPLES = 200


def proxy(name: str, kind: str = "zero-cost", *, noise: float = 5, failed: int = 0, seconds: float | None = 0.1):
    draws = np.random.default_rng(len(name)).normal(size=len(TRUTH)) * noise
    values = {each: None if row < failed else truth + draws[row] for row, (each, truth) in enumerate(TRUTH.items())}
    return RankedProxy(name, kind, values, rank(values, TRUTH, resamples=RESAMPLES), seconds=seconds, passes=64)


@pytest.fixture(scope="module")
def proxies() -> list[RankedProxy]:
    return [proxy("a"), proxy("bb", "distilled", noise=0), proxy("ccc", noise=9, failed=2), proxy("dddd", "random")]


# --- tables ------------------------------------------------------------------------------------------------------


def test_the_table_of_correlations_has_the_rankings_figures(proxies: list[RankedProxy]):
    table = reporting.correlation_table(proxies, notes=["of mine"])
    row, ranking = table.rows[2], proxies[2].ranking
    assert row["Spearman"] == ranking.whole.spearman.model_dump()
    assert row["Kendall"] == ranking.whole.kendall.model_dump()
    assert ranking.top_fifth is not None
    assert row["Spearman, top fifth"] == ranking.top_fifth.spearman.model_dump()
    assert (row["proxy"], row["failed"], row["time an architecture"], row["image-passes"]) == ("ccc", 2, 0.1, 64)
    assert table.cells()[1] == ["bb", *["1.00 [1.00, 1.00]"] * 3, "0", "0.1", "64"]
    assert table.headings()[5] == "time an architecture (s)"
    assert table.notes[:2] == [
        "brackets: the middle 95 % of 200 bootstrap resamples of the 20 architectures (seed 0)",
        "the top fifth by truth are 4 of 20 architectures",
    ]
    assert table.notes[-1] == "of mine"


def test_costs_that_nobody_knows_have_no_columns(proxies: list[RankedProxy]):
    given = RankedProxy("given", "given", proxies[0].values, proxies[0].ranking)
    assert reporting.correlation_table([given]).columns()[-1] == "failed"
    assert reporting.cost_plot([given]) is None
    assert reporting.correlation_table([given, proxies[0]]).cells()[0][-2:] == ["-", "-"]


def test_the_table_of_choices_has_overlap_and_regret_at_each_k(proxies: list[RankedProxy]):
    table = reporting.choice_table(proxies)
    assert table.columns() == ["proxy", "regret@1", "overlap@5", "regret@5", "overlap@10", "regret@10"]
    first, five, _ = proxies[2].ranking.choices
    assert table.rows[2]["regret@1"] == first.regret.model_dump()
    assert table.rows[2]["overlap@5"] == five.overlap.model_dump()
    assert table.rows[1]["regret@5"]["value"] == 0


def test_few_proxies_are_compared_in_pairs_and_many_with_the_best_that_is_for_free(proxies: list[RankedProxy]):
    names = [each.name for each in proxies]
    assert reporting.pairs_to_compare(proxies) == [*combinations(names, 2)]
    averaged = rank_average([proxies[1].values, proxies[3].values])
    mean = RankedProxy("mean", "average", averaged, rank(averaged, TRUTH, resamples=RESAMPLES))
    # the distilled set is the best of all, and the average the second
    best = max((proxies[0], proxies[2], proxies[3]), key=lambda each: each.ranking.whole.spearman.value).name
    chosen = reporting.pairs_to_compare([*proxies, mean])
    assert chosen == [(name, best) for name in (*names, "mean") if name != best]
    sets = [proxy(name, "distilled") for name in "vwxyz"]
    assert len(reporting.pairs_to_compare(sets)) == 4


def test_the_table_of_comparisons_has_their_verdicts(proxies: list[RankedProxy]):
    values = {each.name: each.values for each in proxies[:3]}
    comparisons = compare(values, TRUTH, resamples=2000)
    table = reporting.comparison_table(comparisons)
    assert [(row["proxy"], row["compared with"]) for row in table.rows] == [("a", "bb"), ("a", "ccc"), ("bb", "ccc")]
    words = {"ahead": "better", "behind": "worse", "no difference": "no difference"}
    assert [row["verdict"] for row in table.rows] == [words[each.word] for each in comparisons]
    assert table.rows[0]["verdict"] == "worse"
    assert table.rows[0]["difference in Spearman"] == comparisons[0].difference.model_dump()
    assert (table.rows[0]["p"], table.rows[0]["p, Holm"]) == (comparisons[0].p, comparisons[0].adjusted)
    assert "all 3 comparisons" in table.notes[0]


def test_the_best_of_a_search_are_numbered_from_one():
    trials = [{"architecture": "net", "value": 0.5, "index": 7, "seconds": 0.25}]
    table = reporting.best_table(trials, value="accuracy", notes=["n"])
    assert table.rows == [{"place": 1, "architecture": "net", "accuracy": 0.5, "trial": 8, "time": 0.25}]
    assert table.units == {"time": "seconds"}


# --- plots -------------------------------------------------------------------------------------------------------


def test_equal_values_give_equal_pictures_as_png_and_svg(proxies: list[RankedProxy]):
    for plot in (
        lambda: reporting.scatter_plot(proxies[1:3], TRUTH),
        lambda: reporting.cost_plot(proxies, ceiling=0.98),
        lambda: reporting.trajectory_plot({"random": [None, 0.5, 0.25], "tpe": [0.1, None, 0.6]}, y="accuracy"),
    ):
        picture = plot()
        assert picture is not None
        assert picture == plot()
        assert picture.svg is not None
        assert picture.svg.startswith(b"<?xml")
        image = Image.open(io.BytesIO(picture.png))
        assert image.format == "PNG"
        assert len(image.getcolors(2**20) or ()) > 10


def test_notes_tell_of_failed_trials_only_where_there_are_some(proxies: list[RankedProxy]):
    assert "failed" in reporting.scatter_plot(proxies[2:3], TRUTH).note
    assert "failed" not in reporting.scatter_plot(proxies[:1], TRUTH).note
    assert reporting.trajectory_plot({"random": [0.5, 0.25]}, y="accuracy").note == ""
    assert "failed" in reporting.trajectory_plot({"random": [0.5, None]}, y="accuracy").note


def test_a_proxy_without_a_cost_is_not_in_the_plot_of_costs(proxies: list[RankedProxy]):
    unknown = RankedProxy("given", "given", proxies[0].values, proxies[0].ranking)
    assert reporting.cost_plot([*proxies, unknown]) == reporting.cost_plot(proxies)


def test_the_best_so_far_passes_over_failed_trials():
    assert reporting.best_so_far([None, 0.5, None, 0.25, 0.75]) == [None, 0.5, 0.5, 0.5, 0.75]
    assert reporting.best_so_far([-3.0, -2.0]) == [-3.0, -2.0]


# --- names of points ---------------------------------------------------------------------------------------------

PLOT = Box(0, 0, 600, 400)
SIZE = (110.0, 13.0)


def around(x: float, y: float, half: float = 6) -> Box:
    return Box(x - half, y - half, x + half, y + half)


@pytest.mark.parametrize("spread", [3, 20, 150])
def test_no_name_hides_another_or_a_mark(spread: float):
    draws = np.random.default_rng(spread).normal(size=(12, 2)) * spread
    points = [(float(x), float(y)) for x, y in np.clip(draws + np.array([420, 200]), 10, 390)]
    marks = [around(*point) for point in points]
    boxes = placed(points, [SIZE] * 12, within=PLOT, marks=marks)
    assert [(box.right - box.left, box.top - box.bottom) for box in boxes] == [pytest.approx(SIZE)] * 12
    assert all(box.within(PLOT) for box in boxes)
    assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))
    assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)


def test_a_name_stands_right_of_its_mark_unless_something_is_there():
    (box,) = placed([(300, 200)], [SIZE], within=PLOT, marks=[around(300, 200)])
    assert (box.left, box.bottom) == (309, 193.5)
    bar = Box(350, 0, 352, 400)
    (box,) = placed([(300, 200)], [SIZE], within=PLOT, marks=[around(300, 200)], bars=[bar])
    assert box.right == 291
    (box,) = placed([(590, 200)], [SIZE], within=PLOT, marks=[around(590, 200)])
    assert box.right == 581


def test_twelve_proxies_of_one_cost_keep_their_names():
    points = [Point(f"proxy number {row}", "g", 4 + row / 100, 0.5 + row / 500, 0.4, 0.7) for row in range(12)]
    boxes: list[Box] = []

    def keep(*arguments, **options) -> list[Box]:
        boxes.extend(placed(*arguments, **options))
        return boxes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dd_apps.report.plots.placed", keep)
        estimates("cost", points, title="t", x="seconds", y="Spearman")
    assert len(boxes) == 12
    assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))
