"""The task `transfer`: what rows learn, what is compared with what, what is kept, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dd_apps.report.plots import Panel, heat_map
from dd_apps.transfer import drawing, fine_tune, jobs, linear_probe, pretrain, running, teaching
from dd_apps.transfer.config import TransferScenario
from dd_apps.transfer.jobs import Place, ScoreJob
from dd_apps.transfer.preparing import Preparation
from dd_apps.transfer.settings import FineTuning
from dd_apps.transfer.task import run_task
from dd_core import store, training
from dd_core.config import decode, plain
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Diverged, UserError
from dd_core.evaluation import evaluate
from dd_core.evaluation.differences import difference
from dd_core.images import InputForm, LabelledImages
from dd_core.networks import own
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.streams import Streams
from dd_core.testing import blobs

NETWORK = "convnet-1-w4"
COLOUR = {"data": "digits"}
PIXELS = Pixels(space="raw", mean=(0.4,), std=(0.3,))
OPTIONS = RunOptions(device="cpu", threads=1)


def features_set(images: int = 6) -> DistilledSet:
    draw = np.random.default_rng(0)
    recipe = Recipe(network=NETWORK, loss="mse", epochs=2, learning_rate=0.1, schedule="constant", batch_size=4)
    manifest = Manifest(task="self-supervised", classes=(), targets="features", recipe=recipe, pixels=PIXELS)
    pictures = draw.random((images, 1, 8, 8), dtype=np.float32)
    return DistilledSet(pictures, None, manifest, targets=draw.normal(size=(images, 7)).astype(np.float32))


def labelled_set() -> DistilledSet:
    manifest = Manifest(classes=("0", "1", "2"), recipe=Recipe(network=NETWORK, epochs=3), pixels=PIXELS)
    pictures = np.random.default_rng(1).random((3, 1, 8, 8), dtype=np.float32)
    return DistilledSet(pictures, np.arange(3), manifest)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.write_set(tmp_path / "krr.safetensors", features_set())
    store.write_set(tmp_path / "dm.safetensors", labelled_set())
    return tmp_path


def wanted(folder: Path, **changes: Any) -> TransferScenario:
    krr, dm = (str(folder / f"{name}.safetensors") for name in ("krr", "dm"))
    values: dict[str, Any] = {
        "data": "digits",
        "classes": [0, 1, 2],
        "images": 90,
        "backbones": [NETWORK],
        "targets": [{"data": "digits", "classes": [5, 6], "train": 40, "test": 30, "name": "new digits"}],
        "scores": [{"kind": "linear-probe"}],
        "fractions": [0.1, 1.0],
        "seeds": 2,
        "rows": [
            {"kind": "none"},
            {"kind": "set", "set": krr},
            {"kind": "set", "set": dm},
            {"kind": "set", "set": dm, "like": krr, "name": "dm, taught"},
            {"kind": "random", "like": krr, "targets": "features", "name": "random, taught"},
            {"kind": "random", "like": krr, "images": 9, "recipe": {"epochs": 2}, "name": "random"},
        ],
        **changes,
    }
    return decode(TransferScenario, values)


def few(folder: Path) -> list[dict[str, Any]]:
    """Three rows: nothing, one set, and random images."""
    krr = str(folder / "krr.safetensors")
    return [{"kind": "none"}, {"kind": "set", "set": krr}, {"kind": "random", "like": krr, "targets": "features"}]


def faint(ds: DistilledSet, source: Any, options: RunOptions) -> teaching.FeatureLabeller:
    """The same in [0, 1], which a network learns from many images at a high rate."""
    label = brightness(ds, source, options)
    return lambda images, rows: label(images, rows) / 255


def brightness(ds: DistilledSet, source: Any, options: RunOptions) -> teaching.FeatureLabeller:
    """A teacher whose features are an image's mean and six zeros."""
    del ds, source, options

    def label(images: Any, rows: torch.Tensor) -> torch.Tensor:
        means = images.take(rows).float().mean((1, 2, 3))
        return torch.cat([means[:, None], torch.zeros(len(rows), 6)], dim=1)

    return label


def run(scenario: TransferScenario, where: Path):
    return run_task(scenario, where, OPTIONS, find=brightness)


# --- what rows learn ---------------------------------------------------------------------------------------------


def test_each_row_learns_what_it_says(folder: Path):
    scenario = wanted(folder)
    source = drawing.source_of(scenario, OPTIONS)
    prepared = Preparation(scenario, source, folder / "work", OPTIONS, brightness).run()
    sets = {name: None if lesson is None else store.read_set(lesson.file) for name, lesson in prepared.lessons.items()}
    assert sets["no pre-training", 0] is None
    assert prepared.lessons["krr", 0] == prepared.lessons["krr", 1]
    assert prepared.lessons["krr", 0].recipe == features_set().manifest.recipe
    taught = sets["dm, taught", 0]
    assert np.array_equal(taught.images, labelled_set().quantised().images)
    np.testing.assert_allclose(taught.targets[:, 0], taught.images.mean((1, 2, 3)), rtol=1e-5)
    assert taught.manifest.recipe.loss == "mse"
    pictures = {image.tobytes() for image in source.images.numpy()}
    for seed in (0, 1):
        real, labelled = sets["random, taught", seed], sets["random", seed]
        assert len(real) == 6, "as many as the set has"
        assert len({image.tobytes() for image in real.images} & pictures) == 6
        np.testing.assert_allclose(real.targets[:, 0], real.images.mean((1, 2, 3)), rtol=1e-5)
        assert real.manifest.pixels == labelled.manifest.pixels == PIXELS
        assert real.manifest.recipe == features_set().manifest.recipe
        assert np.bincount(labelled.labels).tolist() == [3, 3, 3], "as many of each class, nine in all"
        kinds = {image.tobytes(): int(label) for image, label in zip(source.images.numpy(), source.labels, strict=True)}
        assert [kinds[image.tobytes()] for image in labelled.images] == labelled.labels.tolist()
        assert (labelled.manifest.recipe.epochs, labelled.manifest.recipe.loss) == (2, "cross-entropy")
        assert "flip" not in labelled.manifest.recipe.augmentation, "digits are not mirrored"
        assert "crop" in labelled.manifest.recipe.augmentation
    for row in ("random, taught", "random"):
        assert sets[row, 0].digest() != sets[row, 1].digest(), "drawn anew for each seed"


def test_the_images_with_the_highest_loss_are_those_that_a_network_learned_worst(folder: Path):
    krr = str(folder / "krr.safetensors")
    row = {"kind": "high-loss", "like": krr, "images": 5, "epochs": 3, "recipe": {"epochs": 7}}
    scenario = wanted(folder, rows=[{"kind": "none"}, row])
    source = drawing.source_of(scenario, OPTIONS)
    prepared = Preparation(scenario, source, folder / "work", OPTIONS, faint).run()
    chosen = [
        store.read_set(prepared.lessons["5 high-loss real like krr, teacher's features", seed].file) for seed in (0, 1)
    ]
    features = faint(features_set(), source, OPTIONS)(source, torch.arange(90))
    for seed, ds in enumerate(chosen):
        whole = drawing.features_set(source.without_labels(), features, features_set(), features_set().manifest.recipe)
        recipe = whole.manifest.recipe.model_copy(update={"epochs": 3})
        student = training.train(whole, recipe=recipe, seed=seed, device="cpu")
        with torch.no_grad():
            losses = ((student(whole.inputs()) - features) ** 2).mean(1).tolist()
        worst = sorted(range(90), key=lambda row: -losses[row])[:5]
        assert np.array_equal(ds.images, source.images[worst].numpy())
        assert np.array_equal(ds.targets, features[worst].numpy())
        assert ds.manifest.recipe.epochs == 7
    assert chosen[0].digest() != chosen[1].digest()
    outcome = run_task(scenario, folder / "run", OPTIONS, find=faint)
    assert any("5 high-loss images of digits, different for each seed" in note for note in outcome.tables[0].notes)
    with pytest.raises(UserError, match="91 images cannot be chosen from 90"):
        run_task(wanted(folder, rows=[{**row, "images": 91}]), folder / "more", OPTIONS, find=faint)


def test_a_cell_is_what_the_library_gives(folder: Path):
    scenario = wanted(folder, scores=[{"kind": "linear-probe"}, {"kind": "fine-tune", "steps": 3}], seeds=1, seed=5)
    outcome = run(scenario, folder / "work")
    train, test = drawing.target_of(scenario.targets[0], (1, 8, 8), skip_corrupt=False, seed=5)
    assert (len(train), len(test), train.classes) == (40, 30, ("5", "6"))
    ds = features_set()
    model = pretrain(NETWORK, ds, seed=5, device="cpu")
    probe = linear_probe(model, train, test, fraction=0.1, form=ds.input_form(), seed=5, device="cpu")
    tuned = fine_tune(
        model, train, test, fraction=0.1, form=ds.input_form(), settings=FineTuning(steps=3), seed=5, device="cpu"
    )
    fresh = own.built(NETWORK, (1, 8, 8), outputs=1, seed=5)
    nothing = linear_probe(fresh, train, test, fraction=0.1, form=InputForm.of(train), seed=5, device="cpu")
    tables = {table.title: {row["pre-training"]: row for row in table.rows} for table in outcome.tables}
    probed, finely = (tables[f"new digits: {way}, accuracy on test images"] for way in ("linear probe", "fine-tuning"))
    assert probed["krr"]["10 % of labels"] == {"mean": probe.accuracy, "std": None}
    assert probed["no pre-training"]["10 % of labels"] == {"mean": nothing.accuracy, "std": None}
    assert finely["krr"]["10 % of labels"] == {"mean": tuned.accuracy, "std": None}
    recorded = {each["row"]: each["values"]["linear probe"]["0.1"] for each in outcome.details["scores"]}
    assert recorded["krr"] == plain(probe), "images are fed as those of the set"
    assert recorded["no pre-training"] == plain(nothing), "and without a set by the target's own statistics"


def test_a_recipe_of_all_rows_and_one_of_a_row(folder: Path):
    krr = str(folder / "krr.safetensors")
    rows = [{"kind": "set", "set": krr}, {"kind": "set", "set": krr, "recipe": {"epochs": 9}, "name": "long"}]
    scenario = wanted(folder, rows=rows, recipe={"epochs": 4, "learning_rate": 0.5})
    source = drawing.source_of(scenario, OPTIONS)
    lessons = Preparation(scenario, source, folder / "work", OPTIONS, brightness).run().lessons
    recipes = [lessons[row, 0].recipe for row in ("krr", "long")]
    fields = [(recipe.epochs, recipe.learning_rate, recipe.loss) for recipe in recipes]
    assert fields == [
        (4, 0.5, "mse"),
        (9, 0.5, "mse"),
    ]


def test_sets_are_made_once_or_anew_for_each_seed(folder: Path):
    method = {"name": "random", "recipe": {"network": NETWORK}}
    sets = {
        "once": {"method": method, "images": 4, "seed": 8},
        "anew": {"method": method, "ipc": 2, "seed": 8, "anew": True},
    }
    rows = [{"kind": "set", "set": name} for name in sets]
    scenario = wanted(folder, sets=sets, rows=rows, seed=3)
    source = drawing.source_of(scenario, OPTIONS)
    prepared = Preparation(scenario, source, folder / "work", OPTIONS, brightness).run()
    assert sorted(prepared.made) == ["anew-3", "anew-4", "once"]
    assert [prepared.made[name].manifest.provenance.seed for name in ("anew-3", "anew-4", "once")] == [8, 9, 8]
    assert [len(prepared.made[name]) for name in ("anew-3", "once")] == [6, 4]


# --- what is kept ------------------------------------------------------------------------------------------------


def figures(outcome: Any) -> list[Any]:
    return [table.plain() for table in outcome.tables]


def test_a_stopped_run_goes_on_and_a_finished_one_trains_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    scenario, calls = wanted(folder, rows=few(folder)), list[str]()
    whole = run(scenario, folder / "whole")

    def counted(name: str, function: Any, most: int) -> Any:
        def call(job: Any):
            calls.append(name)
            if calls.count(name) > most:
                raise KeyboardInterrupt
            return function(job)

        return call

    monkeypatch.setattr(running, "scored", counted("score", jobs.scored, 2))
    monkeypatch.setattr(running, "pretrained", counted("pretrain", jobs.pretrained, 99))
    with pytest.raises(KeyboardInterrupt):
        run(scenario, folder / "parts")
    assert (calls.count("pretrain"), calls.count("score")) == (4, 3)
    calls.clear()
    monkeypatch.setattr(running, "scored", counted("score", jobs.scored, 99))
    assert figures(run(scenario, folder / "parts")) == figures(whole)
    assert (calls.count("pretrain"), calls.count("score")) == (0, 4), "two scores of six were kept"
    calls.clear()
    assert figures(run(scenario, folder / "parts")) == figures(whole)
    assert calls == []
    more = wanted(folder, rows=few(folder), targets=[{"data": "digits", "classes": [7, 8], "train": 40, "test": 30}])
    run(more, folder / "parts")
    assert (calls.count("pretrain"), calls.count("score")) == (4, 6), "weights were not kept, and are made again"


@pytest.mark.parametrize("keep", [False, True])
def test_weights_are_kept_where_they_are_asked_for(folder: Path, keep: bool):
    run(wanted(folder, keep_weights=keep, seeds=1, rows=few(folder)), folder / "work")
    assert len(list((folder / "work" / "weights").glob("*.safetensors"))) == (2 if keep else 0)
    assert (folder / "work" / "weights").exists() == keep


def test_what_diverges_is_left_out_and_said(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def diverges(backbone: Any, ds: DistilledSet, **ways: Any):
        if ds.manifest.task == "classification" and ways["seed"] == 1:
            raise Diverged("training loss is nan")
        return pretrain(backbone, ds, **ways)

    monkeypatch.setattr(jobs, "pretrain", diverges)
    outcome = run(wanted(folder), folder / "work")
    accuracies, compared = outcome.tables
    cells = {row["pre-training"]: row["10 % of labels"] for row in accuracies.rows}
    assert cells["dm"]["std"] is None, "of one seed"
    assert cells["krr"]["std"] is not None
    assert f"left out: dm, {NETWORK}, seed 1: training loss is nan" in accuracies.notes
    pairs = {(row["pre-training"], row["against"]): row for row in compared.rows}
    assert pairs["dm", "no pre-training"]["verdict"] == "none"
    reasons = [record["reason"] for record in outcome.details["scores"] if record["row"] == "dm"]
    assert reasons == [None, "training loss is nan"]


def test_jobs_travel_to_other_processes(folder: Path):
    scenario = wanted(folder)
    place = Place("a", NETWORK, 0, None, (1, 8, 8), "cpu")
    job = ScoreJob(place, "key", None, scenario.targets[0], scenario.scores, scenario.fractions, 0, False)
    record = jobs.scored(pickle.loads(pickle.dumps(job)))
    assert set(record.values["linear probe"]) == {"0.1", "1"}
    assert jobs.JobRecord.model_validate_json(record.model_dump_json()) == record
    assert jobs.lost(job).reason is not None


# --- what is compared --------------------------------------------------------------------------------------------


def test_intervals_are_those_of_students_t():
    ours, theirs = [0.5, 0.7, 0.65, 0.9], [0.4, 0.65, 0.7, 0.6]
    result = difference(ours, theirs, new_draw=False)
    reference = stats.ttest_rel(ours, theirs)
    interval = reference.confidence_interval(0.95)
    np.testing.assert_allclose([result.low, result.high, result.p], [interval.low, interval.high, reference.pvalue])
    wider = difference(ours, theirs, new_draw=True)
    np.testing.assert_allclose((wider.high - wider.low) / (result.high - result.low), np.sqrt(5))
    assert (wider.new_draw, wider.mean, wider.pairs) == (True, result.mean, 4)
    assert difference([0.5], [0.4], new_draw=False).low is None
    assert difference([0.5, 0.6], [0.4, 0.5], new_draw=False).low is None, "no noise is seen"


def test_one_set_against_drawn_images_is_one_more_draw(folder: Path):
    outcome = run(wanted(folder), folder / "work")
    found = {(each["row"], each["other"]): each["difference"]["new_draw"] for each in outcome.details["differences"]}
    assert found == {
        ("krr", "no pre-training"): False,
        ("krr", "dm"): False,
        ("krr", "dm, taught"): False,
        ("krr", "random, taught"): True,
        ("krr", "random"): True,
        ("dm", "no pre-training"): False,
        ("dm", "dm, taught"): False,
        ("dm", "random, taught"): True,
        ("dm", "random"): True,
        ("dm, taught", "no pre-training"): False,
        ("dm, taught", "random, taught"): True,
        ("dm, taught", "random"): True,
    }
    first = next(each for each in outcome.details["differences"] if each["fraction"] == "1")
    means = {
        row: np.mean([each["values"]["linear probe"]["1"]["accuracy"] for each in scores if each["row"] == row])
        for scores in [outcome.details["scores"]]
        for row in ("krr", "no pre-training")
    }
    assert first["difference"]["mean"] == pytest.approx(means["krr"] - means["no pre-training"])


def test_a_heat_map_has_a_panel_for_each_fraction():
    ways: dict[str, Any] = {"rows": ["a", "b"], "columns": ["x", "y", "z"], "title": "map"}
    values = [[1.0, 2.0, None], [3.0, 4.0, 5.0]]
    picture = heat_map("map", [Panel("1 %", values)], **ways)
    assert picture.png == heat_map("map", [Panel("1 %", values)], **ways).png
    other = [[1.0, 2.0, None], [3.0, 4.0, 4.5]]
    assert picture.png != heat_map("map", [Panel("1 %", other)], **ways).png
    assert len(heat_map("map", [Panel("1 %", values), Panel("10 %", values)], **ways).png) > len(picture.png)


# --- real images -------------------------------------------------------------------------------------------------


def test_classes_and_numbers_of_images_are_drawn_evenly_by_the_seed():
    source = blobs(classes=4, per_class=10)
    few = drawing.chosen(source, (2, 0), 6, seed=1, option="images")
    assert few.classes == (source.classes[2], source.classes[0])
    assert torch.bincount(few.labels).tolist() == [3, 3]
    assert few.fingerprint() == drawing.chosen(source, (2, 0), 6, seed=1, option="images").fingerprint()
    assert few.fingerprint() != drawing.chosen(source, (2, 0), 6, seed=2, option="images").fingerprint()
    assert drawing.chosen(source, (), None, seed=0, option="images") is source
    rows = drawing.random_rows(source.without_labels(), 12, streams=Streams(0))
    assert len({*rows.tolist()}) == 12
    even = drawing.random_rows(source, 12, streams=Streams(0))
    assert torch.bincount(source.labels[even]).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("classes", "count", "match"),
    [
        ((4,), None, "4 of blobs, which has 4 classes, counted from 0"),
        ((1, 1), None, "name each once"),
        ((), 41, "images=40: blobs has no more, so 41 cannot be drawn"),
    ],
)
def test_images_that_there_are_not_are_refused(classes: tuple[int, ...], count: int | None, match: str):
    with pytest.raises(UserError, match=match):
        drawing.chosen(blobs(classes=4, per_class=10), classes, count, seed=0, option="images")


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rows": [{"kind": "set", "set": "absent"}]}, "unknown set 'absent'"),
        ({"rows": [{"kind": "none"}, {"kind": "none"}]}, "rows: 'no pre-training' is there twice"),
        (
            {"rows": [{"kind": "set", "set": "a.safetensors", "recipe": {"epoch": 1}}]},
            "unknown key; did you mean 'epochs'",
        ),
        ({"recipe": {"epochs": 0}}, "recipe: epochs: input should be greater"),
        ({"backbones": ["convnot"]}, "backbones: unknown network 'convnot'"),
        ({"backbones": ["a b:Net"]}, "no import path"),
        ({"backbones": ["lenet", "lenet"]}, "backbones: 'lenet' is there twice"),
        ({"targets": [{"data": "digit"}]}, "did you mean 'digits'"),
        ({"targets": [{"data": "digits"}, {"data": "digits"}]}, "targets: 'digits' is there twice"),
        ({"scores": [{"kind": "knn"}, {"kind": "knn"}]}, "is there twice"),
        ({"scores": [{"kind": "guess"}]}, "scores.0"),
        ({"fractions": [0.0]}, "fractions.0"),
        ({"fractions": [0.1, 0.1]}, "fractions: '0.1' is there twice"),
        ({"sets": {"a": {"method": {"name": "random"}}}}, "give either ipc"),
        ({"sets": {"a": {"method": {"name": "randm"}, "ipc": 1}}}, "unknown method 'randm'"),
        ({"sets": {"a": {"method": {"name": "random"}, "ipc": 1}}}, "sets: no row uses 'a'"),
    ],
)
def test_a_scenario_that_does_not_fit_together_is_refused(folder: Path, changes: dict[str, Any], match: str):
    with pytest.raises(UserError, match=match) as error:
        wanted(folder, **changes)
    assert "\n" not in str(error.value)


def test_images_of_other_shapes_are_refused_before_anything_is_trained(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "pretrain", None)
    with pytest.raises(UserError, match="network 'convnet-9' is too deep for images of 8x8 pixels"):
        run(wanted(folder, backbones=["convnet-9"]), folder / "work")
    with pytest.raises(UserError, match=r"krr.safetensors has 1x8x8 images \(C x H x W\), but the source has 1x12x12"):
        run(wanted(folder, image_size=12), folder / "work")
    with pytest.raises(UserError, match="digits has one class; take a target with two classes or more"):
        run(wanted(folder, targets=[{"data": "digits", "classes": [3]}]), folder / "work")
    images = LabelledImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1] * 2), ("a", "b"), "colour")
    monkeypatch.setattr(drawing.Data, "load", lambda self, split: images)
    with pytest.raises(UserError, match=r"colour has 3x8x8 images .* take a target with as many channels"):
        drawing.target_of(wanted(folder, targets=[COLOUR]).targets[0], (1, 8, 8), skip_corrupt=False, seed=0)


def test_a_set_that_names_no_teacher_is_refused(folder: Path):
    with pytest.raises(UserError, match="does not name the teacher of its features"):
        run_task(wanted(folder), folder / "work", OPTIONS)
    dm = str(folder / "dm.safetensors")
    rows = [{"kind": "random", "like": dm, "targets": "features"}]
    with pytest.raises(UserError, match="the set's targets are no features, so it has no teacher"):
        run_task(wanted(folder, rows=rows), folder / "work", OPTIONS)


def test_a_learned_order_of_steps_is_not_overridden_unseen(folder: Path):
    ds = labelled_set()
    steps = [{"epoch": 0, "step": 0, "learning_rate": 0.1}]
    recipe = decode(Recipe, {"network": NETWORK, "steps": steps})
    store.write_set(folder / "dd.safetensors", replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe})))
    row = {"kind": "set", "set": str(folder / "dd.safetensors")}
    with pytest.raises(UserError, match=r"its set has learned steps, which ignore epochs; give .*recipe.steps"):
        run(wanted(folder, rows=[row], recipe={"epochs": 2}), folder / "work")
    run(wanted(folder, rows=[{**row, "recipe": {"steps": []}}], recipe={"epochs": 2}, seeds=1), folder / "work")


def test_a_set_with_features_is_not_evaluated_as_a_classifier():
    with pytest.raises(UserError, match="set with targets 'features' trains no classifier that could be scored"):
        evaluate(features_set(), train=blobs(), test=blobs(), nets=1)


def test_a_network_labels_by_its_features(folder: Path):
    source = blobs(classes=2, per_class=3)
    model = own.built(NETWORK, source.image_shape, outputs=4, seed=0)
    label = teaching.NetworkLabeller(model, InputForm.of(source), "cpu")
    rows = torch.tensor([4, 1])
    given = label(source, rows)
    with torch.no_grad():
        torch.testing.assert_close(given, model.eval().features(InputForm.of(source)(source.take(rows))))
    assert isinstance(label, teaching.FeatureLabeller)


@pytest.fixture(autouse=True)
def _no_images_held() -> Iterator[None]:
    yield
    jobs._held.clear()
