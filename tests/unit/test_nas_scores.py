"""Scores of many architectures, the kit that workers are sent, and the truth by training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy import stats

from dd_apps.data import Data
from dd_apps.nas import kit as kits
from dd_apps.nas import scores, spaces
from dd_apps.nas.kit import Kit, ProxyTrial
from dd_apps.nas.proxies import RealProxy
from dd_apps.nas.proxies.config import ProxyConfig
from dd_apps.nas.search import search
from dd_apps.nas.space_config import CellsConfig, ConvNetsConfig, OwnConfig
from dd_apps.nas.strategies import GridConfig, SearchConfig
from dd_apps.nas.trained_truth import TrainedTruth, truth_spec
from dd_core import artefacts, store
from dd_core.artefacts import Resources
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.images import LabelledImages
from dd_core.recipe import Recipe
from dd_core.system.parallel import Workers

WIDTHS = OwnConfig(name="own", model="own_space:Widths", arguments={"pixels": 64})
config = TypeAdapter[Any](ProxyConfig).validate_python
SYNFLOW = config({"kind": "zero-cost", "measure": "synflow"})
BY_ACCURACY = config({"kind": "early-stopping", "passes": 40, "recipe": {"batch_size": 20, "learning_rate": 0.1}})
BY_LOSS = config({**BY_ACCURACY.model_dump(), "by": "loss", "name": "loss"})


def kit_of(*proxies: Any, space: Any = WIDTHS, **fields: Any) -> Kit:
    return Kit(Data("digits"), space, proxies, **{"images": 200, "validation": 0.25, "device": "cpu", **fields})


def test_every_score_is_that_of_the_proxy_and_one_training_gives_accuracy_and_loss(tmp_path: Path):
    kit = kit_of(SYNFLOW, BY_ACCURACY, BY_LOSS, seed=3)
    names = ["width=3", "width=2"]
    table = scores.score_all(kit, names, journal=tmp_path)
    assert [*table] == ["synflow", "early stopping", "loss"]
    tools = kit.tools()
    for index, name in enumerate(table):
        assert [*table[name]] == names
        for architecture in names:
            network = spaces.build(tools.space, spaces.sample_of(tools.space, architecture), seed=3)
            assert table[name][architecture].value == tools.proxy(index).score(network, seed=3).value
            assert ProxyTrial(kit, index)({"width": int(architecture[-1])}) == table[name][architecture].value
    trained = table["early stopping"]["width=3"]
    assert (trained.value, table["loss"]["width=3"].value) == (trained.accuracy, -trained.loss)
    assert (trained.passes, table["synflow"]["width=3"].passes) == (40, 0)
    assert trained.seconds > 0
    assert trained.core_seconds > 0
    lines = store.read_lines(tmp_path / "records.jsonl")
    assert len(lines) == 4  # and not six
    assert [line["architecture"] for line in lines] == names * 2


def test_scores_that_are_kept_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = scores.score_all(kit_of(SYNFLOW), ["width=2"], journal=tmp_path)
    jobs: list[Any] = []
    original = scores._scored
    monkeypatch.setattr(scores, "_scored", lambda job: jobs.append(job) or original(job))
    more = scores.score_all(kit_of(SYNFLOW, BY_LOSS), ["width=3", "width=2"], journal=tmp_path)
    assert more["synflow"]["width=2"] == first["synflow"]["width=2"]
    assert [(job.index, job.architecture) for job in jobs] == [(0, "width=3"), (1, "width=3"), (1, "width=2")]
    with pytest.raises(UserError, match=r"other settings \(seed: 0 -> 1\)"):
        scores.score_all(kit_of(SYNFLOW, seed=1), ["width=2"], journal=tmp_path)
    scores.score_all(kit_of(SYNFLOW, seed=1), ["width=2"], journal=tmp_path, fresh=True)
    assert len(store.read_lines(tmp_path / "records.jsonl")) == 1


def test_a_set_counts_by_its_images_and_not_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "set.safetensors"
    proxy = config({"kind": "distilled", "set": str(file), "passes": 30, "recipe": {"learning_rate": 0.5}})
    values = []
    for number in (0, 1):
        pixels = np.random.default_rng(number).normal(size=(10, 1, 8, 8)).astype(np.float32)
        manifest = Manifest(
            classes=tuple("0123456789"), pixels=Pixels(space="normalised", mean=(0.3,), std=(0.4,)), recipe=Recipe()
        )
        store.write_set(file, DistilledSet(pixels, np.arange(10), manifest))
        kit = kit_of(proxy)
        assert kit.tools().proxy(0).training == Recipe(epochs=3, learning_rate=0.5)
        values.append(scores.score_all(kit, ["width=8"], journal=tmp_path / "j")[str(file)]["width=8"])
        network = spaces.build(kit.tools().space, {"width": 8}, seed=0)
        assert kit.tools().proxy(0).score(network, seed=0).value == values[-1].value
    assert values[0].loss != values[1].loss
    moved = file.rename(tmp_path / "moved.safetensors")
    jobs: list[Any] = []
    monkeypatch.setattr(scores, "_scored", jobs.append)
    again = scores.score_all(
        kit_of(config({**proxy.model_dump(), "set": str(moved)})), ["width=8"], journal=tmp_path / "j"
    )
    assert (again[str(moved)]["width=8"], jobs) == (values[1], [])


def test_a_network_that_cannot_be_built_and_one_that_diverges_have_no_score(tmp_path: Path):
    table = scores.score_all(kit_of(BY_LOSS), ["width=0", "width=1", "width=8"], journal=tmp_path)["loss"]
    assert [table[name].value is None for name in table] == [True, True, False]
    assert table["width=0"].reason == "ValueError: a network of no width"
    assert "nan" in str(table["width=1"].reason)
    assert scores.score_all(kit_of(BY_LOSS), [*table], journal=tmp_path)["loss"] == table


def test_what_cannot_be_scored_is_refused_before_anything_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scores, "_scored", lambda job: pytest.fail("something was scored"))
    naswot = config({"kind": "zero-cost", "measure": "naswot", "images": 151})
    absent = config({"kind": "distilled", "set": "absent.safetensors"})
    wrong = config({"kind": "early-stopping", "passes": 9, "recipe": {"rate": 1}})
    cases = [
        (kit_of(SYNFLOW, SYNFLOW), ["width=2"], "two are called 'synflow'"),
        (kit_of(SYNFLOW), ["width=9"], "none of the 9 architectures"),
        (kit_of(naswot), ["width=2"], "151, but digits"),
        (kit_of(absent), ["width=2"], "absent.safetensors: "),
        (kit_of(wrong), ["width=2"], "recipe.rate: "),
        (kit_of(SYNFLOW, images=0), ["width=2"], "images"),
        (kit_of(SYNFLOW, images=5000), ["width=2"], "1438 training images"),
        (kit_of(SYNFLOW, space=OwnConfig(name="own", model="own_space:Absent")), ["width=2"], "cannot be imported"),
        (kit_of(SYNFLOW, space=OwnConfig(name="own", model="absent:Widths")), ["width=2"], "cannot be imported"),
        (kit_of(SYNFLOW, space=OwnConfig(name="own", model="own_space:Net")), ["width=2"], "no ModelSpace"),
    ]
    for kit, names, text in cases:
        with pytest.raises(UserError, match=text):
            scores.score_all(kit, names)


def test_the_images_of_a_kit():
    images = kit_of(images=200, validation=0.25, seed=1).tools().images
    assert (len(images.train), len(images.validation)) == (150, 50)
    pixels = [
        {image.numpy().tobytes() for image in part.take(torch.arange(len(part)))}
        for part in (images.train, images.validation)
    ]
    assert not pixels[0] & pixels[1]
    assert torch.bincount(images.validation.labels).tolist() == [5] * 10
    same, other = (kit_of(seed=2, images_seed=seed).tools().images.train.fingerprint() for seed in (0, 1))
    assert images.train.fingerprint() == same != other
    few = kit_of(images=203, validation=0.25).tools().images
    counts = torch.bincount(few.train.labels) + torch.bincount(few.validation.labels)
    assert sorted(counts.tolist()) == [20] * 7 + [21] * 3
    assert len(kit_of(images=None, validation=0.1).tools().images.train) == 1295
    assert isinstance(kit_of(space=ConvNetsConfig(max_width=64)).tools().space, spaces.ConvNetSpace)
    assert spaces.count(kit_of(space=ConvNetsConfig(max_width=64)).tools().space) == 3 * 2 * 45
    cells = kit_of(space=CellsConfig(channels=4, modules=2)).tools().space
    assert (cells.trace_kwargs["channels"], cells.trace_kwargs["modules"]) == (4, 2)
    assert cells.trace_kwargs["image_size"] == (8, 8)


def test_workers_are_sent_names_and_keep_one_kit():
    kit = kit_of(SYNFLOW)
    assert kit_of(SYNFLOW).tools() is kit.tools()
    first = kit.tools()
    assert kit_of(SYNFLOW, seed=1).tools() is not first
    assert len(kits._made) == 1


def test_a_search_by_a_proxy_of_a_kit():
    kit = kit_of(config({"kind": "zero-cost", "measure": "parameters"}))
    config_ = SearchConfig(strategy=GridConfig(shuffle=False), max_trials=9)
    history = search(kit.tools().space, ProxyTrial(kit), config_)
    assert [trial.value for trial in history] == [None, *(width * (64 + 1 + 10) + 10 for width in range(1, 9))]


# --- the truth by training ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[LabelledImages, LabelledImages]:
    data = Data("digits")
    train, test = data.load("train"), data.load("test")
    return train.subset(torch.arange(120)), test.subset(torch.arange(50))


def test_the_truth_is_the_mean_of_the_seeds_on_the_test_images(digits, tmp_path: Path):
    train, test = digits
    recipe = Recipe(epochs=3, batch_size=30, learning_rate=0.1)
    names = ["width=4", "width=1", "width=8", "width=2"]
    spec = truth_spec(train, test, WIDTHS, names, recipe, seeds=2, seed=5)
    made = artefacts.get(spec, resources=Resources.of([train, test], device="cpu"), cache=tmp_path)
    truth = TrainedTruth.of(made)
    space = spaces.of(WIDTHS, in_channels=1, classes=10, image_size=(8, 8))
    for name in ("width=4", "width=8", "width=2"):
        expected = []
        for seed in (5, 6):
            network = spaces.build(space, spaces.sample_of(space, name), seed=seed)
            expected.append(
                100 * RealProxy(train, test, recipe=recipe, device="cpu").score(network, seed=seed).accuracy
            )
        assert [each[name] for each in truth.by_seed] == pytest.approx(expected)
        assert truth.accuracies[name] == pytest.approx(np.mean(expected))
    assert truth.diverged == ["width=1"]
    assert {*truth.accuracies} == {"width=4", "width=8", "width=2"}
    first, second = ([each[name] for name in truth.accuracies] for each in truth.by_seed)
    ceiling = truth.ceiling()
    assert ceiling is not None
    assert ceiling.whole.spearman.value == pytest.approx(stats.spearmanr(first, second).statistic)
    assert truth.seconds > 0


def test_more_seeds_add_to_a_truth_and_all_else_makes_another(digits):
    train, test = digits
    spec = truth_spec(train, test, WIDTHS, ["width=4"], Recipe(epochs=2))
    assert spec.parts() == 1
    more = spec.model_copy(update={"seeds": 3})
    assert (more.parts(), more.digest()) == (3, spec.digest())
    changes = {"seed": 1, "architectures": ("width=5",), "recipe": Recipe(epochs=3), "space": CellsConfig()}
    others = [spec.model_copy(update={name: value}).digest() for name, value in changes.items()]
    assert len({spec.digest(), *others}) == 5
    assert truth_spec(train, train, WIDTHS, ["width=4"], Recipe(epochs=2)).digest() != spec.digest()
    assert TrainedTruth({}, [{}], [], 0.0).ceiling() is None
    assert truth_spec(train, test, WIDTHS, ["width=4"], Recipe(augmentation="auto")).recipe.augmentation != "auto"


def test_workers_score_as_this_process_does(tmp_path: Path):
    kit = kit_of(SYNFLOW, space=ConvNetsConfig(max_width=32))
    names = ["convnet-1-w32-batchnorm-relu-maxpool", "convnet-2-w32-nonorm-sigmoid-nopool"]
    here, there = (scores.score_all(kit, names, workers=Workers(count=count))["synflow"] for count in (1, 2))
    assert [here[name].value for name in names] == [there[name].value for name in names]
