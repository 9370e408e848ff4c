"""The task `compare`: what a scenario may say, what is compared with what, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from dd_apps import scenario as scenarios
from dd_apps.compare.cells import Cell, CellRecord
from dd_apps.compare.checks import check
from dd_apps.compare.comparing import Compared, Row, compared, rows_at
from dd_apps.compare.config import CompareScenario
from dd_apps.compare.words import sentences
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.evaluation import Evaluation, Score
from dd_core.methods import decode_method
from dd_core.testing import blobs

NETWORK = "convnet-1-w4"
DM = {"steps": 2, "batch_real": 8, "recipe": {"network": NETWORK, "epochs": 2}}


def wanted(**changes: Any) -> CompareScenario:
    values = {"data": "digits", "ipcs": [1], "networks": [NETWORK], "seeds": 2, "methods": {"dm": DM}, **changes}
    return decode(CompareScenario, values)


# --- what a scenario says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"dmm": DM}}, "methods.dmm: unknown method 'dmm'; did you mean 'dm'?"),
        ({"methods": {"dm": {"stepps": 3}}}, "methods.dm.stepps: unknown key; did you mean 'steps'?"),
        ({"methods": {"../dm": {**DM, "name": "dm"}}}, "methods: '../dm' is part of file names; expected letters,"),
        ({"methods": {}}, "methods: dictionary should have at least 1 item"),
        ({"methods": {"krr-st": {}}}, "methods.krr-st: method 'krr-st' makes a set with features and no labels"),
        ({"methods": {"dataset-distillation": {"start": "fixed"}}}, "its sets are for one particular network"),
        ({"methods": {"dataset-distillation": {"attack": ["3", "5"]}}}, "an attack's sets are not made for accuracy"),
        ({"methods": {"herding": {}}}, "methods: 'herding' is a baseline too; give the row another name, or take that"),
        ({"baselines": ["optimized"]}, "baselines: 'optimized' learns or trains, and baselines only choose or average"),
        ({"baselines": ["randon"]}, "baselines: unknown method 'randon'; did you mean 'random'?"),
        ({"baselines": ["random", "random"]}, "baselines: random is there twice"),
        ({"networks": ["convent"]}, "unknown network 'convent'"),
        ({"networks": []}, "networks: expected at least one network to score sets on"),
        ({"networks": [NETWORK], "protocol": "knn"}, "protocol 'knn' trains no network"),
        ({"protocol": "plain-30"}, "unknown protocol 'plain-30'"),
        ({"ipcs": []}, "ipcs: tuple should have at least 1 item"),
        ({"ipcs": [0]}, "ipcs.0: input should be greater than or equal to 1"),
        ({"ipcs": [2, 2]}, "ipcs: 2 is there twice"),
        ({"at": {"3": {"dm": {"steps": 1}}}}, "at.3: no such size; ipcs are 1"),
        ({"at": {"1": {"mtt": {}}}}, "at.1: unknown row 'mtt'"),
        ({"at": {"1": {"dm": {"stepps": 1}}}}, "at.1.dm.stepps: unknown key; did you mean 'steps'?"),
        ({"at": {"1": {"dm": {"name": "mtt"}}}}, "at.1.dm.name: a row has the same method at every size"),
        ({"stored": "float16"}, "stored: input should be 'uint8' or 'as-made'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        wanted(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_one_size_are_merged_into_those_of_the_row():
    at = {"10": {"dm": {"steps": 7, "recipe": {"epochs": 9}}}}
    configs = wanted(ipcs=[1, 10], at=at).configs
    assert [configs["dm", ipc].steps for ipc in (1, 10)] == [2, 7]
    assert [configs["dm", ipc].recipe.epochs for ipc in (1, 10)] == [2, 9]
    assert configs["dm", 10].recipe.network == NETWORK


def test_a_row_may_be_called_otherwise_than_its_method():
    scenario = wanted(methods={"dm": DM, "dm-long": {**DM, "name": "dm", "steps": 5}})
    assert {name: (config.name, config.steps) for (name, _), config in scenario.configs.items()} == {
        "dm": ("dm", 2),
        "dm-long": ("dm", 5),
    }


def test_each_key_of_a_method_can_be_set(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('task = "compare"\ndata = "digits"\nnetworks = ["lenet"]\n[methods.dm]\nsteps = 9\n')
    changes = ["methods.dm.steps=3", "ipcs=[2]", "seeds=4", "at.2.dm.lr_img=0.5", "methods.random-10.name=average"]
    values = scenarios.load(str(file), overrides=changes).values
    assert isinstance(values, CompareScenario)
    assert (values.ipcs, values.seeds) == ((2,), 4)
    assert values.configs["dm", 2].steps == 3
    assert values.configs["dm", 2].model_dump()["lr_img"] == 0.5
    assert values.configs["random-10", 2].name == "average"


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_the_shipped_scenarios_are_typed(name: str):
    values = scenarios.load(f"compare/{name}").values
    assert isinstance(values, CompareScenario)
    assert len(values.networks) >= 2
    assert len(values.ipcs) >= 2
    assert values.seeds >= 5
    assert {"random", "herding", "k-means", "average"} == {*values.baselines}


def test_cifar10_has_the_settings_of_the_scenarios_of_each_size():
    values = scenarios.load("compare/cifar10").values
    assert isinstance(values, CompareScenario)
    published = {place: config for place, config in values.configs.items() if place[0] != "dm"}
    assert len(published) == 9
    for (name, ipc), config in published.items():
        alone = scenarios.load(f"cifar10-ipc{ipc}-{name}").values.model_dump()["method"]
        assert config == decode_method(alone), (name, ipc)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ipcs": [1, 13]},
            r"ipcs: 13 images a class are more than .* class 'blob 0' of blobs, which has 12;",
        ),
        (
            {"ipcs": [12], "protocol": "wang-grid"},
            "has 11 when protocol wang-grid has held its validation images",
        ),
        ({"networks": ["convnet-4"]}, r"networks: .*convnet-4.* \(images are 1 x 8 x 8\)"),
        ({"methods": {"dm": {"recipe": {"network": "convnet-4"}}}}, r"methods.dm.recipe.network: .*convnet-4"),
        ({"methods": {"dm": {**DM, "formation": 9}}}, "methods.dm, 1 a class: "),
    ],
)
def test_what_the_images_do_not_allow_is_refused_before_any_work(changes: dict[str, Any], message: str):
    train, test = blobs(per_class=12), blobs(per_class=5)
    check(wanted(), train, test)
    with pytest.raises(UserError, match=message):
        check(wanted(**changes), train, test)


def test_test_images_of_other_classes_are_refused():
    with pytest.raises(UserError, match="training and test images differ in classes or in shape"):
        check(wanted(), blobs(classes=3), blobs(classes=4))


# --- differences -------------------------------------------------------------------------------------------------

HARDWARE = {"device": "cpu"}
OURS, THEIRS = (0.90, 0.92, 0.91), (0.80, 0.83, 0.86)


def evaluation(ours: float, twin: float) -> Evaluation:
    return Evaluation(
        accuracy=Score.of([ours]),
        random_real=Score.of([twin]),
        **{"protocol": "recipe", "network": NETWORK, "start": "default", "made_for": "default", "nets": 1, "seed": 0},
        **{"data": "digits, 359 test images", "fingerprints": {}, "images": 10, "bytes": 640, "twin_bytes": 640},
        hardware=HARDWARE,
    )


def records(
    scenario: CompareScenario, figures: dict[tuple[str, str], tuple[float, ...]], training: dict[str, str] | None = None
) -> dict[Cell, CellRecord]:
    """A record of each cell of one size; twins are all at 0.5, 0.6, 0.4 and on."""
    found: dict[Cell, CellRecord] = {}
    for (method, baseline), accuracies in figures.items():
        for seed, accuracy in zip(scenario.all_seeds, accuracies, strict=True):
            cell = Cell(method=method, baseline=baseline, ipc=1, network=NETWORK, seed=seed)
            scored = evaluation(accuracy, (0.5, 0.6, 0.4)[seed % 3])
            found[cell] = CellRecord(
                **{"key": "k", "cell": cell, "evaluation": scored, "images": 10, "bytes": 640},
                training=(training or {}).get(method, "same"),
                content=f"{method}{baseline}{seed}",
            )
    return found


def named(found: list[Compared]) -> dict[tuple[str, str], Compared]:
    return {(each.row.called, each.against.called): each for each in found}


def places(scenario: CompareScenario, *others: Any) -> list[list[Row]]:
    return [rows_at(scenario, records(scenario, *others), 1, NETWORK)]


def test_every_difference_is_tested_by_pairs_and_corrected_for_all_of_them():
    scenario = wanted(seeds=3, baselines=["random", "average"])
    figures = {("dm", ""): OURS, ("dm", "random"): THEIRS, ("dm", "average"): (0.88, 0.93, 0.9)}
    found = named(compared(places(scenario, figures)))
    assert [*found] == [
        ("dm", "random-real twin of dm"),
        ("dm", "random"),
        ("dm", "average"),
        ("random", "average"),
    ]
    alone = [
        stats.ttest_rel(OURS, (0.5, 0.6, 0.4)).pvalue,
        stats.ttest_rel(OURS, THEIRS).pvalue,
        stats.ttest_rel(OURS, figures["dm", "average"]).pvalue,
        stats.ttest_rel(THEIRS, figures["dm", "average"]).pvalue,
    ]
    assert [each.difference.p for each in found.values()] == pytest.approx(alone)
    order, largest, holm = sorted(range(4), key=alone.__getitem__), 0.0, [0.0] * 4
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (4 - place) * alone[index]))
        holm[index] = largest
    assert [each.adjusted for each in found.values()] == pytest.approx(holm)
    assert alone[1] < 0.05 < holm[1], "a difference alone, and none among four"
    assert found["dm", "random"].word == "no difference"


def test_the_number_of_all_places_corrects():
    scenario = wanted(seeds=3, baselines=["random"])
    one = places(scenario, {("dm", ""): OURS, ("dm", "random"): THEIRS})
    few, many = compared(one), compared(one * 3)
    smallest = min(each.adjusted or 1.0 for each in few)
    assert min(each.adjusted or 1.0 for each in many) == pytest.approx(3 * smallest)


def test_one_set_under_every_seed_is_one_more_draw_and_a_set_for_each_seed_is_a_pair():
    figures = {("dm", ""): OURS, ("dm", "random"): THEIRS, ("mtt", ""): (0.7, 0.6, 0.8), ("mtt", "random"): THEIRS}
    methods = {"dm": DM, "mtt": {"recipe": {"network": NETWORK}}}
    tests = {
        anew: named(compared(places(wanted(seeds=3, baselines=["random"], methods=methods, anew=anew), figures)))
        for anew in (True, False)
    }
    paired, one = (tests[anew]["dm", "random"].difference for anew in (True, False))
    assert (paired.new_draw, one.new_draw) == (False, True)
    assert paired.p == pytest.approx(stats.ttest_rel(OURS, THEIRS).pvalue)
    t = stats.ttest_rel(OURS, THEIRS).statistic / 2  # sqrt(1 / 3) against sqrt(1 + 1 / 3)
    assert one.p == pytest.approx(2 * stats.t.sf(t, 2))
    assert tests[False]["dm", "random-real twin of dm"].difference.new_draw
    assert not tests[False]["dm", "mtt"].difference.new_draw, "of two sets, which are the same under every seed"


def test_methods_share_real_images_that_are_trained_alike_and_no_others():
    methods = {"dm": DM, "dc": {"recipe": {"network": NETWORK}}}
    scenario = wanted(seeds=3, baselines=["random"], methods=methods)
    figures = {("dm", ""): OURS, ("dm", "random"): THEIRS, ("dc", ""): OURS, ("dc", "random"): THEIRS}
    (together,) = places(scenario, figures)
    assert [(row.called, row.methods) for row in together if row.kind == "real"] == [("random", ("dm", "dc"))]
    assert ("dc", "random") in named(compared([together]))
    (apart,) = places(scenario, figures, {"dm": "one way", "dc": "another"})
    assert [row.called for row in apart if row.kind == "real"] == ["random (as dm)", "random (as dc)"]
    assert ("dm", "random (as dc)") not in named(compared([apart]))
    assert ("dm", "dc") in named(compared([apart])), "two methods are compared, however their images are trained on"


def test_a_seed_that_diverged_leaves_the_pairs_of_the_others():
    scenario = wanted(seeds=3, baselines=["random"])
    every = records(scenario, {("dm", ""): OURS, ("dm", "random"): THEIRS})
    lost = Cell(method="dm", baseline="", ipc=1, network=NETWORK, seed=1)
    every[lost] = CellRecord(key="k", cell=lost, reason="loss is nan")
    found = named(compared([rows_at(scenario, every, 1, NETWORK)]))
    assert found["dm", "random"].difference.pairs == 2
    assert found["dm", "random"].difference.p == pytest.approx(stats.ttest_rel((0.90, 0.91), (0.80, 0.86)).pvalue)


# --- words -------------------------------------------------------------------------------------------------------


def said(ours: tuple[float, ...], theirs: tuple[float, ...], **changes: Any) -> str:
    scenario = wanted(seeds=len(ours), baselines=["random"], **changes)
    (rows,) = places(scenario, {("dm", ""): ours, ("dm", "random"): theirs})
    (line,) = sentences(rows, compared([rows]))
    return line


def test_it_is_said_in_words_that_random_real_images_win():
    far = (0.90, 0.91, 0.92)
    assert "random real images win (as many bytes, 640 B: 10.0 % against 91.0 %, corrected p < 0.001)" in said(
        (0.09, 0.10, 0.11), (0.90, 0.91, 0.92001)
    )
    assert "ahead of random real images (as many bytes, 640 B: 91.0 % against 10.0 %" in said(far, (0.1, 0.09, 0.11))
    near = said((0.90, 0.92, 0.91), (0.93, 0.90, 0.93))
    assert "random real images have the higher mean, but not significantly (as many bytes, 640 B: 91.0 % a" in near
    below = said((0.93, 0.90, 0.93), (0.90, 0.92, 0.91))
    assert "not significantly different from random real images (as many bytes, 640 B: 92.0 % against 91.0 %" in below
    same = said((0.5, 0.25), (0.75, 0.5))
    assert "no verdict beside random real images, as the difference is the same under every seed (as many bytes" in same
    assert said((0.9,), (0.95,)) == (
        "dm, 1 image a class: no verdict, because one seed does not show how large the noise is."
    )


def test_the_twin_has_a_sentence_of_its_own_and_the_other_rows_are_grouped():
    scenario = wanted(seeds=3, baselines=["herding", "average"])
    real = {("dm", "herding"): (0.1, 0.11, 0.1201), ("dm", "average"): (0.9, 0.92, 0.9)}
    (rows,) = places(scenario, {("dm", ""): (0.9, 0.91, 0.92), **real})
    (line,) = sentences(rows, compared([rows]))
    assert "(as many images: 91.0 % against 50.0 %" in line
    assert line.endswith("ahead of herding; not significantly different from average.")
