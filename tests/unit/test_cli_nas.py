"""`dd-apps nas`: scenarios of architecture search, and values and a truth in two files. `main` runs in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dd_apps.nas import given, ranking, values
from dd_core.errors import UserError

RANK = """
task = "nas-rank"
data = "digits"
images = 100
space = { name = "convnets", max_width = 32 }
architectures = 3
truth = { file = "truth.csv" }
proxies = [{ kind = "zero-cost", measure = "parameters" }]
"""
SEARCH = """
task = "nas-search"
data = "digits"
images = 100
space = { name = "convnets", max_width = 32 }
proxy = { kind = "zero-cost", measure = "parameters" }
max_trials = 4
"""
TRUTH = "architecture,digits\nconvnet-1-w32-relu,80\nconvnet-2-w32-relu,90\nconvnet-3-w32-relu,95\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("rank.toml", RANK), ("search.toml", SEARCH), ("truth.csv", TRUTH)):
        (tmp_path / name).write_text(text)
    rows = [f"net-{index},{index if index % 5 else ''},{-index}" for index in range(12)]
    (tmp_path / "values.csv").write_text("\n".join(["architecture,good,bad", *rows]) + "\n")
    rows = [f"net-{index},{50 + index},{90 - index * index / 10}" for index in range(15)]
    (tmp_path / "two.csv").write_text("\n".join(["architecture,a,b", *rows]) + "\n")
    return tmp_path


# --- values and a truth ------------------------------------------------------------------------------------------


def test_columns_of_values_are_ranked_by_a_column_of_the_truth(call, call_json):
    words = ("nas", "rank", "--values", "values.csv", "--truth", "two.csv", "--column", "a")
    fields = call_json(*words)
    proxies, truth = values.read(Path("values.csv")), {f"net-{index}": 50.0 + index for index in range(12)}
    assert fields["truth"] == truth
    assert [index for index in range(12) if proxies["good"][f"net-{index}"] is None] == [0, 5, 10]
    for name, each in proxies.items():
        assert fields["proxies"][name]["ranking"] == ranking.rank(each, truth).model_dump(mode="json")
    (comparison,) = fields["comparisons"]
    (expected,) = ranking.compare(proxies, truth)
    assert comparison == expected.model_dump(mode="json")
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("good", "-1.00 [-1.00, -1.00]", "values.csv; truth: a of two.csv", "verdict"))
    assert call_json(*words, "--seed", 1)["proxies"]["good"] != fields["proxies"]["good"]


def test_values_are_ranked_without_torch():
    heavy = "[name for name in ('torch', 'nni', 'matplotlib') if name in sys.modules]"
    code = f"import sys; from dd_apps.cli import main; main(sys.argv[1:]); print({heavy}, file=sys.stderr)"
    words = ["nas", "rank", "--values", "values.csv", "--truth", "two.csv", "--column", "b", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["truth"]["net-10"] == 80


def test_one_proxy_is_compared_with_none():
    Path("one.csv").write_text("architecture,mine\nconvnet-1-w32-relu,1\nconvnet-2-w32-relu,2\nconvnet-3-w32-relu,3\n")
    ranked = given.ranked(Path("one.csv"), Path("truth.csv"), None)
    assert [table.title for table in ranked.tables] == ["rank correlation with the truth", "the k best by proxy"]
    assert ranked.details["comparisons"] == []


@pytest.mark.parametrize(
    ("cell", "value"), [("", None), ("  ", None), ("-1e3", -1000.0), ("nan", ""), ("inf", ""), ("1_0", ""), ("x", "")]
)
def test_a_cell_of_values(cell: str, value: Any):
    Path("cell.csv").write_text(f"architecture,p\nnet,{cell}\n")
    if value == "":
        with pytest.raises(UserError, match=rf"^cell\.csv, line 2, p: '{cell}' is no finite number; leave the cell of"):
            values.read(Path("cell.csv"))
    else:
        assert values.read(Path("cell.csv")) == {"p": {"net": value}}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "rank what? Name a scenario (`dd-apps list scenarios`), or give --values and --truth"),
        ("rank.toml --truth two.csv", "--truth goes with --values only"),
        ("rank.toml --column a", "--column goes with --values only"),
        ("rank.toml --seed 0", "--seed goes with --values only"),
        ("rank.toml --values values.csv", "either the scenario 'rank.toml' or --values is ranked, not both"),
        ("--values values.csv", "--values are compared with a truth: give --truth"),
        ("--values values.csv --truth two.csv", "two.csv: which column is the truth? There are a, b; as in --column a"),
        ("--values values.csv --truth truth.csv", "truth.csv: 12 architectures of 12 not in the table: net-0"),
        ("--values values.csv --truth two.csv --column c", "unknown column of accuracies 'c'"),
        ("--values none.csv --truth two.csv", "none.csv: No such file"),
        ("--values values.csv --truth two.csv --set a=1", "--set goes with a scenario only"),
        ("--values values.csv --truth two.csv --out x", "--out goes with a scenario only"),
        ("--values values.csv --truth two.csv --fresh", "--fresh goes with a scenario only"),
        ("search.toml", "search.toml is a scenario of the task 'nas-search', not nas-rank: dd-apps run search.toml"),
    ],
)
def test_what_cannot_be_ranked_costs_one_line(words: str, line: str, call):
    code, out, err = call("nas", "rank", *words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert line in err


def test_an_architecture_needs_a_name():
    Path("nameless.csv").write_text("architecture,p\n ,1\n")
    with pytest.raises(UserError, match=r"nameless\.csv, line 2: an architecture has no name"):
        values.read(Path("nameless.csv"))


# --- scenarios ---------------------------------------------------------------------------------------------------


def test_a_ranking_is_run_by_its_verb_or_as_any_scenario(call, call_json):
    fields = call_json("nas", "rank", "rank.toml", "--set", "seed=1")
    results = json.loads(Path(fields["figures"]).read_text())
    assert results["proxies"]["parameters"]["values"].keys() == results["truth"].keys()
    assert results["results"]["rank correlation with the truth"][0]["Spearman"]["value"] == pytest.approx(1)
    written = {path.name for path in Path("runs/rank").iterdir()}
    assert written >= {"cost.png", "cost.svg", "scatter.png", "report.html", "rank-correlation-with-the-truth.csv"}
    code, _, err = call("run", "rank.toml", "--set", "seed=1")
    assert (code, err) == (0, "runs/rank: complete already; --fresh runs it again\n")


def test_a_search_is_run_by_its_verb_and_async_is_a_setting(call, call_json):
    fields = call_json("nas", "search", "search.toml", "--async")
    results = json.loads(Path(fields["figures"]).read_text())
    assert results["scenario"]["asynchronous"] is True
    assert len(results["history"]) == 4
    assert results["best"][0]["value"] == max(trial["value"] for trial in results["history"])
    assert "asynchronous: True -> False" in call("nas", "search", "search.toml")[2]


def test_an_interrupted_search_says_how_it_goes_on(call, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dd_apps.nas.search_task.search", interrupted)
    code, _, err = call("nas", "search", "search.toml", "--fresh")
    assert (code, err) == (130, "error: interrupted; to go on: dd-apps nas search search.toml\n")


def test_shipped_scenarios_are_listed_and_named(call_json):
    names = {row["name"]: row["meaning"] for row in call_json("list", "scenarios")["scenarios"]}
    assert all(names[name] for name in ("nas-rank/digits", "nb201", "digits-search"))
    assert call_json("list", "scenarios", "nb201")["task"] == "nas-rank"


def test_verbs_have_help(call):
    for verb in ("rank", "search"):
        code, out, _ = call("nas", verb, "--help")
        assert code == 0
        assert "--json" in out
