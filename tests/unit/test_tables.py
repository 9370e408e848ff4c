"""The figures of REPRODUCIBILITY.md are those of the records, and a record says what every figure has to say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
DOCUMENT = ROOT / "REPRODUCIBILITY.md"
MIB = 2**20

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tables

    return tables


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cells

    return cells


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import blocks_mnist

    return blocks_mnist


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BENCHMARKS / "results" / name).read_text().splitlines()]


def evaluation(ours: list[float], twins: list[float]) -> dict[str, dict[str, Any]]:
    return {
        who: {"mean": sum(values) / len(values), "std": 0.0, "per_network": values}
        for who, values in (("accuracy", ours), ("random_real", twins))
    }


@pytest.mark.parametrize("document", ["README.md", "REPRODUCIBILITY.md"])
def test_every_block_of_the_documents_is_as_the_records_have_it(document: str, tables: ModuleType):
    text, wanted = (ROOT / document).read_text(encoding="utf-8"), tables.blocks_of(ROOT / document)
    assert tables.differing(text, wanted) == []
    assert tables.rendered(text) == text
    assert {*tables.blocks_of(ROOT / "README.md")} == tables.README_BLOCKS & {*tables.BLOCKS}


def test_a_changed_figure_and_a_block_that_is_gone_are_named(tables: ModuleType):
    text = DOCUMENT.read_text(encoding="utf-8")
    start = text.index("<!-- table flatness -->")
    assert text[start:].count("| 0.182 |") == 1
    changed = text[:start] + text[start:].replace("| 0.182 |", "| 0.128 |", 1)
    wanted = tables.blocks_of(DOCUMENT)
    assert tables.differing(changed, wanted) == ["flatness: differs from the records; make tables"]
    assert tables.rendered(changed) == text
    assert tables.differing(text.replace("<!-- table speed -->", ""), wanted) == ["speed: not in the document"]
    with pytest.raises(ValueError, match="a table 'spede', which no function renders"):
        tables.rendered(text.replace("<!-- table speed -->", "<!-- table spede -->"))


def test_mnist_shows_the_better_random_draw_of_the_record(mnist: ModuleType):
    rows = {cells[1].strip(): [cell.strip() for cell in cells] for cells in (row.split("|") for row in mnist.mnist())}
    column = rows["networks start"].index("one more draw, grid")
    drawn = [
        line
        for line in lines_of("mnist.jsonl")
        if (line.get("baseline"), line.get("protocol")) == ("random", "wang-grid")
    ]
    assert len(drawn) == len(rows) - 2  # those of the header and of the rule
    for line in drawn:
        mean = line["evaluation"]["accuracy"]["mean"]
        assert rows[mnist.REGIMES[line["name"]]][column].startswith(f"{100 * mean:.1f}")


def test_a_single_network_has_no_deviation(cells: ModuleType):
    assert cells.score({"mean": 0.955, "std": 0.0, "per_network": [0.955]}) == "95.5"
    assert cells.score({"mean": 0.955, "std": None}) == "95.5"
    assert cells.score({"mean": 0.786, "std": 0.0211, "per_network": [0.7, 0.8]}) == "78.6 ± 2.1"
    assert (cells.spread([0.5]), cells.spread([0.4, 0.6])) == ("50.0", "50.0 ± 14.1")


def test_differences_carry_their_sign_unless_nothing_is_left_of_them(cells: ModuleType):
    assert [cells.signed(points) for points in (0.84, -1.04, -0.04, 0.04)] == ["+0.8", "-1.0", "0.0", "0.0"]


def test_a_paragraph_keeps_a_number_with_its_deviation(cells: ModuleType):
    lines = cells.paragraph("x" * 113 + " 94.3 ± 0.2 %")
    assert lines == ["x" * 113, "94.3 ± 0.2 %"]


def test_a_set_is_bold_beside_its_twin_only_beyond_noise(cells: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from blocks_methods import pair

    ours, low, close = [0.90, 0.91, 0.92], [0.70, 0.72, 0.71], [0.86, 0.85, 0.84]
    assert pair(evaluation(ours, low)) == ("**91.0 ± 0.0**", "71.0 ± 0.0")
    assert pair(evaluation(low, ours)) == ("71.0 ± 0.0", "**91.0 ± 0.0**")
    # t = 0.06 / 0.02 * sqrt(3) = 5.2 over networks, but 0.06 / (0.02 * sqrt(4 / 3)) = 2.6 for one more draw: below 4.3
    assert pair(evaluation(ours, close)) == ("91.0 ± 0.0", "85.0 ± 0.0")


def planted_run(seed: int, share: str, final: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    rows = {
        kind: [{"row": row, "after_2": of(values)} for row, values in found.items()] for kind, found in final.items()
    }
    return {"name": "quickstart", "seed": seed, "share": share, "final": final, "tables": rows}


def of(values: list[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "std": 0.01}


def test_dm_is_bold_where_it_is_ahead_of_every_real_row(
    cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import blocks_continual

    low, high = [0.80, 0.81, 0.80], [0.89, 0.93, 0.90]  # the latter no different from dm over nine class orders
    final = {
        "retraining": {"dm": [0.90, 0.91, 0.92], "k-means": high, "real": low, "joint": [0.99, 0.99, 0.99]},
        "replay": {"dm": [0.90, 0.91, 0.92], "k-means": low, "real": low, "joint": [0.99, 0.99, 0.99]},
    }
    runs = [(seed, "fill") for seed in (0, 1, 2)] + [(0, "stored")]
    lines = [json.dumps(planted_run(seed, share, final)) for seed, share in runs]
    (tmp_path / "quickstart.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in blocks_continual.scores("quickstart")[2:]]
    plain, bold = "91.0 ± 1.0", "**91.0 ± 1.0**"
    assert rows[0] == ["`dm`", plain, plain, plain, bold, bold, bold, plain]
    assert not [cell for row in rows[1:] for cell in row if "**" in cell]


def planted_gpu(
    cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any]
) -> ModuleType:
    import blocks_gpu

    (tmp_path / "gpu.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    return blocks_gpu


def repeat(method: str, largest: float) -> dict[str, Any]:
    same, apart = ({"same": value == 0, "largest": value} for value in (0.0, largest))
    return {"part": "repeats", "method": method, "images": apart, "scores": same, "same": largest == 0}


def test_a_method_that_was_not_run_twice_is_said_to_be_not_measured(
    cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    blocks = planted_gpu(cells, tmp_path, monkeypatch, repeat("average", 0.0), repeat("dm", 0.25), repeat("mtt", 0.004))
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in blocks.repeats()}
    assert rows["`average`"] == ["", "same", "", "same"]
    assert rows["`dm`"] == ["", "0.25", "", "same"]
    assert rows["`random`"] == ["not measured"] * 4
    notes = " ".join(blocks.repeats_notes())
    assert "agree byte by byte for `average`, which learn nothing." in notes
    assert "by 0.004 to 0.25" in notes
    assert "cut off `herding`, `k-means`, `optimized`, `random`" in notes


def modes_of(cosine: float, images: int, steps: int, precision: str) -> dict[str, Any]:
    found = {mode: {"cosine": value, "ms": 1.0} for mode, value in (("full", 1.0), ("adjoint", cosine), ("tesla", 0.5))}
    line = {"what": "modes", "images": images, "inner_steps": steps, "precision": precision, "modes": found}
    return {"part": "steps", **line}


def test_a_precision_is_usable_where_both_exact_modes_keep_the_cosine(
    cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    low = [modes_of(0.9981, 10, steps, "bfloat16") for steps in (10, 30)]
    high = [modes_of(0.9991, 10, 80, "bfloat16"), modes_of(0.9993, 10, 10, "tf32")]
    blocks = planted_gpu(cells, tmp_path, monkeypatch, *low, *high)
    assert "*not* usable with 10 images at N = 10 (0.9981) and 30 (0.9981): " in blocks._bfloat16()
    assert blocks._everywhere("tf32") == "everywhere (least cosine of an exact mode: 0.9993)"
    assert blocks._everywhere("bfloat16").startswith("*not* everywhere")


def test_facts_are_what_a_record_has_to_say(cells: ModuleType):
    import record
    import torch

    facts = record.facts("digits", {"rows": ["dm"], "workers": None}, run=record.now(), data="digits")
    assert facts["command"] == "make bench-digits BENCH_ARGS='--rows dm'"
    assert facts["data"] == "digits"
    assert facts["versions"]["torch"] == torch.__version__
    assert {"dd-apps", "numpy", "scikit-learn", "torchvision"} <= facts["versions"].keys()
    assert facts["load_average"] >= 0
    assert facts["run"] <= facts["when"]


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_record_says_what_a_figure_has_to_say(path: Path):
    assert path.stat().st_size < MIB
    for line in lines_of(path.name):
        assert line["command"].startswith(("make bench-", "dd-apps run ", "python benchmarks/"))
        assert line["data"]
        assert line["hardware"]["cpu"]
        assert line.get("versions") or line["environment"]
        assert "load_average" in line or "load" in line
        assert line.get("when") or line["from_history"]["committed"]
