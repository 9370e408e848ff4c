"""The tasks `nas-rank` and `nas-search`: what is compared with what, what is kept, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dd_apps.nas import rank_task, ranking, reporting, spaces, truth
from dd_apps.nas.config import RankScenario, SearchScenario
from dd_apps.nas.preparing import prepared
from dd_apps.nas.scores import Score
from dd_apps.nas.search import search
from dd_apps.report.sections import Text
from dd_apps.task import Outcome
from dd_core import distill, load_data, store
from dd_core.config import canonical, decode
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.runner import RunOptions

OPTIONS = RunOptions(device="cpu", threads=1)
CONVNETS = {"name": "convnets", "max_width": 32}
NAMES = ["convnet-1-w32-relu", "convnet-2-w32-relu", "convnet-3-w32-relu", "convnet-1-w32-batchnorm-sigmoid"]
PARAMETERS, SYNFLOW, NASWOT = ({"kind": "zero-cost", "measure": name} for name in ("parameters", "synflow", "naswot"))
ONE = {"method": {"name": "random", "recipe": {"network": "convnet-1-w4", "epochs": 2}}, "ipc": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def rank_scenario(**fields: Any) -> RankScenario:
    common = {"data": "digits", "images": 200, "space": CONVNETS, "truth": {"epochs": 1}, "proxies": [PARAMETERS]}
    return decode(RankScenario, {**common, "architectures": NAMES, **fields})


def search_scenario(**fields: Any) -> SearchScenario:
    common = {"data": "digits", "images": 200, "space": CONVNETS, "proxy": NASWOT, "max_trials": 8}
    return decode(SearchScenario, {**common, **fields})


def table(path: Path, accuracies: dict[str, float]) -> dict[str, str]:
    path.write_text("architecture,digits\n" + "".join(f"{name},{value}\n" for name, value in accuracies.items()))
    return {"file": str(path)}


def notes(outcome: Outcome) -> str:
    return "\n".join(note for section in outcome.tables for note in section.notes)


# --- rank --------------------------------------------------------------------------------------------------------


def test_full_training_is_the_truth_and_every_proxy_is_ranked_against_it(tmp_path: Path):
    scenario = rank_scenario(
        proxies=[{"kind": "distilled", "set": "one", "passes": 20}, PARAMETERS, NASWOT],
        sets={"one": ONE},
        averages=[["one", "parameters"], ["one", "naswot"]],
    )
    outcome = scenario.run(tmp_path, OPTIONS)
    details = outcome.details
    canonical(details)
    first, second = details["truth_by_seed"]
    assert {*details["truth"]} == {*NAMES}
    assert all(details["truth"][name] == pytest.approx((first[name] + second[name]) / 2) for name in NAMES)
    assert details["ceiling"] == ranking.rank(first, second).whole.spearman.model_dump()

    one, parameters = (details["proxies"][name] for name in ("one", "parameters"))
    assert parameters["values"]["convnet-1-w32-relu"] < parameters["values"]["convnet-2-w32-relu"]
    assert one["ranking"] == ranking.rank(one["values"], details["truth"]).model_dump(mode="json")
    assert (one["kind"], one["passes"], parameters["passes"]) == ("distilled", 20, 0)
    assert one["seconds"] == pytest.approx(sum(trial["core_seconds"] for trial in details["trials"]["one"]) / 4)
    mean = details["proxies"]["mean rank of one and parameters"]
    assert mean["values"] == ranking.rank_average([one["values"], parameters["values"]])
    assert mean["seconds"] == pytest.approx(one["seconds"] + parameters["seconds"])
    failed = "convnet-1-w32-batchnorm-sigmoid"
    assert details["proxies"]["naswot"]["values"][failed] is None
    assert f"naswot failed on 1 of 4; {failed}: no naswot: " in notes(outcome)
    assert [row["failed"] for row in outcome.tables[0].rows] == [0, 0, 1, 0, 0]

    tools = prepared(scenario, scenario.proxies, folder=tmp_path, options=OPTIONS).kit.tools()
    seen, made = tools.images.train.fingerprint(), outcome.sets["one"].manifest.provenance
    assert made is not None
    assert made.fingerprint == seen != tools.train.fingerprint(), "the images that validate are not distilled"
    trained = f"on all 359 test images after 1 epoch on all {len(tools.train)} training images, the mean of 2 seeds"
    assert len(tools.train) == len(tools.images.train) + len(tools.images.validation)
    assert trained in notes(outcome)
    assert reporting.CHOSEN in notes(outcome)
    assert "set one: distilled from these training images, without the images that validate" in notes(outcome)


def test_the_truth_of_a_table_is_drawn_by_the_seed(tmp_path: Path):
    every = [f"convnet-{depth}-w32-{norm}relu" for depth in (1, 2, 3) for norm in ("", "batchnorm-", "groupnorm-")]
    accuracies = {name: 50.0 + row for row, name in enumerate(every)}
    given = table(tmp_path / "truth.csv", accuracies)
    proxies = [PARAMETERS, SYNFLOW]
    outcome = rank_scenario(truth=given, architectures=5, seed=3, proxies=proxies).run(tmp_path / "work", OPTIONS)
    drawn = truth.draw(every, 5, seed=3)
    assert outcome.details["truth"] == {name: accuracies[name] for name in drawn}
    assert outcome.details["ceiling"] is None
    assert "truth: truth.csv, a table that was given" in notes(outcome)
    assert reporting.CHOSEN not in notes(outcome)


def test_a_proxy_without_a_value_is_left_out_and_told(tmp_path: Path):
    names = [f"convnet-{depth}-w32-sigmoid" for depth in (1, 2, 3)]
    given = table(tmp_path / "truth.csv", dict(zip(names, (60, 70, 80), strict=True)))
    common = {"truth": given, "architectures": names}
    proxies, averages = [NASWOT, PARAMETERS, SYNFLOW], [["naswot", "synflow"], ["synflow", "parameters"]]
    outcome = rank_scenario(proxies=proxies, averages=averages, **common).run(tmp_path / "some", OPTIONS)
    assert [*outcome.details["proxies"]] == ["parameters", "synflow", "mean rank of synflow and parameters"]
    assert "naswot failed on 3 of 3, and it is left out; convnet-1-w32-sigmoid: no naswot" in notes(outcome)
    with pytest.raises(UserError, match="every trial of every proxy failed; naswot failed on 3 of 3"):
        rank_scenario(proxies=[NASWOT], **common).run(tmp_path / "none", OPTIONS)


def test_a_set_that_has_seen_the_images_that_validate_says_so(tmp_path: Path):
    train = load_data("digits")
    recipe = {"network": "convnet-1-w4", "epochs": 2}
    distill(method("random", recipe=recipe), train, Size(ipc=1), out=tmp_path / "all.safetensors")
    ds = store.read_set(tmp_path / "all.safetensors")
    store.write_set(
        tmp_path / "other.safetensors", replace(ds, manifest=ds.manifest.model_copy(update={"provenance": None}))
    )
    files = [str(tmp_path / f"{name}.safetensors") for name in ("all", "other")]
    scenario = rank_scenario(images=None, proxies=[{"kind": "distilled", "set": file} for file in files])
    said = prepared(scenario, scenario.proxies, folder=tmp_path, options=OPTIONS).notes()
    assert said[1:] == [
        "set all: distilled from these training images, with the images that validate, which flatters its accuracies",
        "set other: does not say from which images it is made",
    ]
    some = rank_scenario(proxies=[{"kind": "distilled", "set": files[0]}])
    said = prepared(some, some.proxies, folder=tmp_path, options=OPTIONS).notes()
    assert said[1:] == ["set all: distilled from other images than these"]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"truth": {}}, "truth: give either file (a table of accuracies) or epochs (of full training)"),
        ({"truth": {"file": "t.csv", "epochs": 3}}, "truth: give either file"),
        ({"truth": {"epochs": 3, "column": "a"}}, "truth: column goes with file only; leave column out"),
        ({"truth": {"file": "t.csv", "recipe": {"epochs": 3}}}, "truth: recipe goes with epochs (of full training)"),
        ({"truth": {"epochs": 3, "recipe": {"lr": 1}}}, "truth: recipe.lr: unknown key"),
        ({"architectures": 2}, "architectures: expected at least 3 architectures"),
        ({"architectures": [*NAMES, NAMES[0]]}, "architectures: expected at least 3 architectures, and none twice"),
        ({"proxies": [PARAMETERS, PARAMETERS]}, "proxies: two are called 'parameters'"),
        ({"proxies": [{"kind": "distilled", "set": "one"}]}, "proxy 'one': unknown set 'one'"),
        ({"sets": {"one": ONE}}, "sets: no proxy uses 'one'"),
        ({"sets": {"../one": ONE}}, "sets: '../one': expected a plain name"),
        ({"sets": {"one": {"method": {"name": "dn"}, "ipc": 1}}}, "sets.one: unknown method 'dn'; did you mean 'dm'?"),
        ({"averages": [["parameters", "parameters"]]}, "averages: expected at least two proxies in a list, and none"),
        ({"averages": [["parameters", "synflow"]]}, "averages: unknown proxy 'synflow'"),
        (
            {"proxies": [PARAMETERS, SYNFLOW], "averages": [["parameters", "synflow"], ["synflow", "parameters"]]},
            "averages: expected each list once",
        ),
    ],
)
def test_rankings_that_cannot_be_are_refused_before_anything_is_loaded(fields: dict[str, Any], line: str):
    with pytest.raises(UserError) as error:
        rank_scenario(**fields)
    assert str(error.value).startswith(line)


def test_what_the_data_cannot_give_is_refused(tmp_path: Path):
    given = table(tmp_path / "truth.csv", dict.fromkeys(NAMES, 50.0))
    for fields, line in (
        ({"truth": given, "architectures": 9}, r"architectures=4: 9 cannot be drawn, because there are 4"),
        ({"architectures": 999}, r"architectures=135: 999 cannot be drawn, because there are 135"),
        ({"truth": {**given, "column": "cifar"}}, "unknown column of accuracies 'cifar'"),
        ({"truth": given}, "the truth of all 4 architectures is 50"),
        ({"truth": given, "architectures": [*NAMES, "convnet-1-w64-relu"]}, "1 architecture of 5 not in the table"),
        ({"images": 5000}, "images=5000: digits has 1438 training images"),
    ):
        with pytest.raises(UserError, match=line):
            rank_scenario(**fields).run(tmp_path / "work", OPTIONS)
    (tmp_path / "two.csv").write_text("architecture,a,b\nx,50,60\n")
    with pytest.raises(UserError, match=r"which column is the truth\? There are a, b; as in truth.column='a'"):
        rank_scenario(truth={"file": str(tmp_path / "two.csv")}).run(tmp_path / "work", OPTIONS)


# --- search ------------------------------------------------------------------------------------------------------


def test_a_search_reports_its_best_as_table_and_as_code_that_runs(tmp_path: Path):
    scenario = search_scenario(best=2, seed=1, strategy={"name": "evolution", "population_size": 4, "sample_size": 2})
    outcome = scenario.run(tmp_path, OPTIONS)
    history, best = outcome.details["history"], outcome.details["best"]
    values = sorted((trial["value"] for trial in history if trial["value"] is not None), reverse=True)
    assert [trial["value"] for trial in best] == values[:2]
    (shown,) = outcome.tables
    assert [row["architecture"] for row in shown.rows] == [trial["architecture"] for trial in best]
    assert [row["value of naswot"] for row in shown.rows] == values[:2]
    (code,) = (section for section in outcome.sections if isinstance(section, Text))
    variables: dict[str, Any] = {}
    exec(code.text, variables)
    tools = prepared(scenario, [scenario.proxy], folder=tmp_path, options=OPTIONS).kit.tools()
    network = spaces.build(tools.space, spaces.sample_of(tools.space, best[-1]["architecture"]), seed=scenario.seed)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(network.state_dict().values(), variables["network"].state_dict().values(), strict=True)
    )
    failed = [trial for trial in history if trial["value"] is None]
    assert failed
    assert f"{len(failed)} of 8 trials failed; {failed[0]['architecture']}: {failed[0]['reason']}" in notes(outcome)


def test_a_search_goes_on_wherever_its_folder_lies_and_never_with_another_proxy(tmp_path: Path):
    distilled = {"kind": "distilled", "set": "one", "passes": 10, "name": "mine"}
    scenario = search_scenario(proxy=distilled, sets={"one": ONE}, max_trials=3)
    first = scenario.run(tmp_path / "a", OPTIONS).details["history"]
    shutil.move(tmp_path / "a", tmp_path / "b")
    more = scenario.model_copy(update={"max_trials": 5}).run(tmp_path / "b", OPTIONS).details["history"]
    assert more[:3] == first, "the seconds too: nothing was tried again"
    other = search_scenario(proxy={**distilled, "by": "loss"}, sets={"one": ONE})
    with pytest.raises(UserError, match=r"other settings .*by: 'accuracy' -> 'loss'"):
        other.run(tmp_path / "b", OPTIONS)
    another = search_scenario(proxy=distilled, sets={"one": {**ONE, "seed": 1}})
    with pytest.raises(UserError, match=r"seed: 0 -> 1"):
        another.run(tmp_path / "b", OPTIONS)


def test_a_search_does_not_go_on_with_other_images_under_the_name_of_its_set(tmp_path: Path):
    file = tmp_path / "set.safetensors"
    scenario = search_scenario(proxy={"kind": "distilled", "set": str(file), "passes": 10}, max_trials=2)
    for seed in (0, 1):
        recipe = {"network": "convnet-1-w4", "epochs": 2}
        store.write_set(file, distill(method("random", recipe=recipe), load_data("digits"), Size(ipc=1), seed=seed))
        if seed == 0:
            first = scenario.run(tmp_path / "work", OPTIONS).details["history"]
            assert scenario.run(tmp_path / "work", OPTIONS).details["history"] == first
    with pytest.raises(UserError, match=r"other settings \(trial\.sets\.set: '"):
        scenario.run(tmp_path / "work", OPTIONS)


def test_a_search_without_a_value_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "dd_apps.nas.search_task.search",
        lambda *a, **k: [replace(each, value=None, reason="no") for each in search(*a, **k)],
    )
    with pytest.raises(UserError, match=r"all 8 trials failed; convnet-\S+: no$"):
        search_scenario(proxy=PARAMETERS).run(tmp_path, OPTIONS)


def test_a_proxy_that_cannot_be_made_is_no_failed_trial(tmp_path: Path):
    with pytest.raises(UserError, match=r"^images: 500, but digits has"):
        search_scenario(proxy={**SYNFLOW, "images": 500}).run(tmp_path, OPTIONS)


def test_a_search_has_the_fields_of_a_search_config():
    scenario = search_scenario(strategy="tpe", batch=2, seed=7, asynchronous=True)
    assert scenario.search.model_dump(exclude={"strategy"}) == {
        **{"max_trials": 8, "max_seconds": None, "batch": 2, "seed": 7, "noisy": False, "asynchronous": True}
    }
    assert scenario.title == "tpe search of convnets on digits by naswot, 8 trials"
    with pytest.raises(UserError, match="give either max_trials or max_seconds"):
        search_scenario(max_seconds=3.0)
    timed = decode(SearchScenario, {"data": "digits", "proxy": NASWOT, "max_seconds": 90})
    assert timed.title.endswith("by naswot, 90 s")


def test_a_plot_of_costs_has_the_sum_of_what_is_averaged():
    parts = [
        reporting.RankedProxy(name, "zero-cost", {"a": 1.0, "b": 2.0, "c": rest}, None, seconds, 8)  # type: ignore[arg-type]
        for name, rest, seconds in (("x", 3.0, 0.5), ("y", 0.0, 0.25))
    ]
    real = {"a": 1.0, "b": 2.0, "c": 3.0}
    mean = reporting.averaged(parts, real)
    assert (mean.seconds, mean.passes, mean.kind) == (0.75, 16, "average")
    assert reporting.averaged([parts[0], replace(parts[1], seconds=None)], real).seconds is None


def test_scores_become_ranked_proxies_whose_costs_are_those_of_finished_trials():
    real = {f"net-{index}": 10.0 * index for index in range(6)}

    def scored(values: list[float | None]) -> dict[str, Score]:
        return {
            name: Score(
                architecture=name, value=value, seconds=8.0, core_seconds=0.0 if value is None else 2.0, passes=5
            )
            for name, value in zip(real, values, strict=True)
        }

    scores = {"a": scored([0, 1, 2, 3, 5, 4]), "b": scored([5, None, 4, 3, 2, 1]), "c": scored([None] * 6)}
    kinds = dict.fromkeys(scores, "zero-cost")
    averages = [("a", "b"), ("a", "c")]
    a, b, mean = rank_task.ranked_proxies(kinds, scores, real, averages=averages, best=(3,), seed=1)
    assert (a.name, b.name, mean.name) == ("a", "b", "mean rank of a and b")
    assert (b.seconds, b.passes, b.kind) == (2.0, 5, "zero-cost")
    assert (mean.seconds, mean.passes) == (4.0, 10)
    assert a.ranking == ranking.rank(a.values, real, best=(3,), seed=1)
    assert mean.ranking == ranking.rank(ranking.rank_average([a.values, b.values]), real, best=(3,), seed=1)
    assert mean.ranking.best[0].best == 3
    assert rank_task.ranked_proxies(kinds, scores, real, on_cpu=False)[0].seconds == 8.0
    with pytest.raises(UserError, match="every trial of every proxy failed; c failed on 6 of 6"):
        rank_task.ranked_proxies(kinds, {"c": scores["c"]}, real)
