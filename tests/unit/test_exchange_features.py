"""Sets with features and without labels: as files that other people's code reads, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dd_apps import distillation, study
from dd_apps.continual.config import ContinualScenario
from dd_core import exchange, store
from dd_core.config import decode
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.recipe import Recipe

PIXELS = Pixels(space="normalised", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25))


def a_set(**fields: object) -> DistilledSet:
    draw = np.random.default_rng(0)
    images, features = (draw.normal(size=shape).astype(np.float32) for shape in ((5, 3, 8, 8), (5, 7)))
    manifest = Manifest(
        task="self-supervised", classes=(), pixels=PIXELS, targets="features", recipe=Recipe(loss="mse", epochs=3)
    )
    return DistilledSet(images, None, manifest.model_copy(update=fields), features)


def test_a_set_goes_out_as_two_tensors_and_comes_back(tmp_path: Path):
    ds = a_set()
    export = exchange.export_krr_st(ds, tmp_path / "out")
    export.write()
    inputs, features = (torch.load(tmp_path / "out" / name, weights_only=True) for name in ("x_syn.pt", "y_syn.pt"))
    assert torch.equal(inputs, ds.inputs())
    assert torch.equal(features, torch.tensor(ds.targets))
    assert any("the recipe" in line for line in export.lost)
    back = exchange.import_krr_st(tmp_path / "out")
    assert np.array_equal(back.images, ds.images)
    assert np.array_equal(back.targets, ds.targets)  # type: ignore[arg-type]
    assert (back.manifest.pixels, back.labels, back.classes) == (PIXELS, None, ())
    recipe = back.manifest.recipe
    assert (recipe.loss, recipe.epochs, recipe.learning_rate, recipe.weight_decay) == ("mse", 1000, 0.1, 1e-3)


def test_what_the_files_do_not_say_is_asked_for(tmp_path: Path):
    exchange.export_krr_st(a_set(), tmp_path).write()
    (tmp_path / "normalisation.json").unlink()
    with pytest.raises(UserError, match="does not say how real images are normalised"):
        exchange.import_krr_st(tmp_path)
    given = exchange.import_krr_st(tmp_path, pixels=exchange.pixels_like("cifar10"), recipe={"epochs": 20})
    assert (given.manifest.pixels.mean, given.manifest.recipe.epochs) == ((0.4914, 0.4822, 0.4465), 20)
    with pytest.raises(UserError, match="not a folder with x_syn"):
        exchange.import_krr_st(tmp_path / "away")
    torch.save(torch.zeros(4, 7), tmp_path / "y_syn.pt")
    with pytest.raises(UserError, match="targets are float32"):
        exchange.import_krr_st(tmp_path, pixels=PIXELS)
    torch.save(torch.full((5, 7), float("nan")), tmp_path / "y_syn.pt")
    with pytest.raises(UserError, match="not finite"):
        exchange.import_krr_st(tmp_path, pixels=PIXELS)


def test_whitened_files_are_not_taken_for_others(tmp_path: Path):
    exchange.export_krr_st(a_set(), tmp_path).write()
    beside = json.loads((tmp_path / "normalisation.json").read_text())
    (tmp_path / "normalisation.json").write_text(json.dumps({**beside, "space": "whitened"}))
    with pytest.raises(UserError, match="whitened"):
        exchange.import_krr_st(tmp_path)


def test_other_sets_have_no_such_format(tmp_path: Path):
    ds = a_set()
    bare = DistilledSet(ds.images, None, ds.manifest.model_copy(update={"targets": "none"}))
    with pytest.raises(UserError, match="format 'krr-st' is for sets with features, and this one has targets 'none'"):
        exchange.export_krr_st(bare, tmp_path)


def test_pictures_of_a_set_without_labels_are_in_one_folder(tmp_path: Path):
    ds = a_set()
    export = exchange.export_png(ds, tmp_path)
    export.write()
    assert sorted(export.files) == [f"{row:05d}.png" for row in range(5)]
    drawn = np.asarray(Image.open(tmp_path / "00003.png")).transpose(2, 0, 1)
    assert np.array_equal(drawn, np.rint(ds.raw()[3].clip(0, 1) * 255))
    assert "the targets ('features') of 5 images" in export.lost


def test_commands_take_such_a_set(tmp_path: Path, call, call_json):
    out, files = tmp_path / "set.safetensors", tmp_path / "files"
    settings = ["teacher.epochs=1", "teacher.warmup=0", "teacher.network=convnet-1-w4-batchnorm", "online_steps=1"]
    settings += ["steps=2", "networks=1", "recipe.network=convnet-1-w4-batchnorm", "teacher.projector=[6, 5]"]
    flags = [word for setting in settings for word in ("--set", setting)]
    code, printed, err = call("distill", "krr-st", "--data", "digits", "--images", 7, "--out", out, *flags)
    assert code == 0, err
    assert "7 images with features, without labels" in printed
    assert "evaluate" not in printed
    assert call("verify", out)[0] == 0
    assert "classes" in call("inspect", out, "--png", tmp_path / "sheet.png")[1]
    assert call_json("export", out, "--format", "krr-st", "--out", files)["images"] == 7
    back = tmp_path / "back.safetensors"
    assert call_json("import", files, "--format", "krr-st", "--out", back)["images"] == 7
    assert np.array_equal(store.read_set(back).inputs(), store.read_set(out).inputs())
    code, _, err = call("evaluate", out, "--data", "digits")
    assert code == 2
    assert "trains no classifier that could be scored" in err
    code, _, err = call(
        "distill", "krr-st", "--data", "digits", "--ipc", 1, "--out", tmp_path / "no.safetensors", *flags
    )
    assert code == 2
    assert "--images 100" in err


@pytest.mark.parametrize("task", ["distill", "study", "continual"])
def test_tasks_that_need_labels_refuse_the_method(task: str):
    method, where = {"name": "krr-st"}, "mine.toml"
    kinds = {
        "distill": (distillation.DistillScenario, {"data": "digits", "method": method, "images": 10}),
        "study": (study.StudyScenario, {"data": "digits", "method": method, "ipc": 1}),
        "continual": (ContinualScenario, {"data": "digits", "method": method}),
    }
    kind, table = kinds[task]
    with pytest.raises(UserError, match="makes a set with features and no labels"):
        decode(kind, table, where=where)


@pytest.mark.parametrize(
    ("settings", "ending"),
    [
        (["objective=labels"], "--protocol hard"),
        (["objective=features"], "--png images.png"),
    ],
)
def test_the_next_command_is_one_that_scores_the_set(settings: list[str], ending: str, tmp_path: Path, call):
    short = [
        "teacher.epochs=1",
        "teacher.warmup=0",
        "online_steps=1",
        "steps=1",
        "networks=1",
        "teacher.projector=[6, 5]",
    ]
    network = ["recipe.network=convnet-1-w4-batchnorm"]
    flags = [word for setting in (*short, *network, *settings) for word in ("--set", setting)]
    out = tmp_path / "set.safetensors"
    code, printed, err = call("distill", "krr-st", "--data", "digits", "--images", 10, "--out", out, *flags)
    assert code == 0, err
    assert next(line for line in printed.splitlines() if line.startswith("next")).endswith(ending)
    if ending == "--protocol hard":
        assert call("evaluate", out, "--nets", 1, "--protocol", "hard")[0] == 0
