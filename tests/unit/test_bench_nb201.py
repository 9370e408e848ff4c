"""The benchmark of proxies on NAS-Bench-201's cells: what it keeps, and what it says of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dd_apps.nas import measures, scores

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CELLS = {
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": 93.0,
    "|nor_conv_1x1~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|nor_conv_1x1~2|": 90.0,
    "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|": 70.0,
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|": 10.0,
}

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


def test_values_are_kept_refusals_rank_last_and_the_same_command_measures_nothing_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import nb201

    truth = tmp_path / "truth.csv"
    truth.write_text("architecture,cifar10\n" + "".join(f"{cell},{value}\n" for cell, value in CELLS.items()))
    words = ["--truth", truth, "--data", "digits", "--cells", 4, "--others", 0, "--workers", 1, "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["nb201.py", *map(str, words), "--small", "--parts", "measures"])
    nb201.main()
    folder = tmp_path / "small"
    values = [json.loads(line) for line in (folder / "scores-full" / "records.jsonl").read_text().splitlines()]
    refused = {line["architecture"] for line in values if line["reason"] and line["reason"].startswith("no jacob_cov")}
    assert refused == {"|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"}
    assert len(values) == 28
    records = [json.loads(line) for line in (folder / "nb201.jsonl").read_text().splitlines()]
    proxies = {line["name"]: line for line in records if line["what"] == "proxy"}
    assert [*proxies] == [*measures.names(), "synflow + jacob_cov"]
    assert proxies["jacob_cov"]["ranking"]["failed"] == 1
    assert proxies["jacob_cov"]["reasons"][0].startswith("no jacob_cov: ")
    # parameters: 3x3 above 1x1, above the two cells without any, which tie; truth: in that order, without a tie
    assert proxies["parameters"]["ranking"]["whole"]["spearman"]["value"] == pytest.approx(3 / 10**0.5)
    parts = [proxies[name]["core_seconds"] for name in ("synflow", "jacob_cov")]
    assert proxies["synflow + jacob_cov"]["core_seconds"] == pytest.approx(sum(parts), abs=2e-4)
    assert min(parts) > 0
    monkeypatch.setattr(scores, "_scored", lambda job: pytest.fail("a value that is kept was computed again"))
    nb201.main()


def test_distilled_sets_are_compared_with_random_images_of_their_size_and_with_early_stopping(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import nb201

    names = ["mtt-1, loss", "dm-10, loss", "dm-10, accuracy", "random-10, loss", "early stopping, loss", "synflow"]
    assert nb201._rivals(names) == [
        ("mtt-1, loss", "early stopping, loss"),
        ("dm-10, loss", "random-10, loss"),
        ("dm-10, loss", "early stopping, loss"),
    ]
