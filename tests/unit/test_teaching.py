"""Evaluations in which a teacher labels what networks see: whose labels, on which images, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_core import artefacts, training
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.evaluation import Evaluation, evaluate, protocols, twins
from dd_core.evaluation.twins import HardLabels
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec

CPU = torch.device("cpu")
TEACHER = {"network": "convnet-1-w8-batchnorm", "epochs": 2, "batch_size": 12}
RECIPE = {"network": "convnet-1-w4", "epochs": 3, "batch_size": 4}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def recovered() -> DistilledSet:
    config = method("sre2l", teacher=TEACHER, recover={"iterations": 2}, recipe=RECIPE)
    return distill(config, blobs(), Size(ipc=2), options=RunOptions(device="cpu"))


def random() -> DistilledSet:
    return distill(method("random", recipe=RECIPE), blobs(), Size(ipc=2), options=RunOptions(device="cpu"))


def scored(ds: DistilledSet, protocol: str = "sre2l-fkd", **options: object) -> Evaluation:
    return evaluate(ds, train=blobs(), test=blobs(), protocol=protocol, nets=1, device="cpu", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["eval", "batch-stats"])
def test_the_sets_own_teacher_labels_the_set_and_the_twin(mode: str):
    ds, source = recovered(), blobs()
    result = scored(ds, teacher_mode=mode)
    assert result.teacher is not None
    assert (result.teacher.network, result.teacher.mode) == ("convnet-1-w8-batchnorm", mode)
    teacher = artefacts.get(TeacherSpec.of(source, TeacherConfig.model_validate(TEACHER)))  # found: it is there
    assert result.teacher.training_accuracy == teacher.part(0)[1]["accuracy"]
    recipe = protocols.load("sre2l-fkd").recipe(ds.manifest.recipe, source_name="blobs")
    recipe = recipe.model_copy(update={"teacher": mode})
    twin = twins.draw(ds, source, labeller=HardLabels(), streams=Streams(0), index=0).data()
    for data, score in ((training.training_data(ds, recipe), result.accuracy), (twin, result.random_real)):
        model = training.fit(
            data,
            recipe.network,
            recipe,
            streams=Streams(Streams(0).child("network", 0).seed),
            device=CPU,
            teacher=training.asked(teacher, mode=mode),  # type: ignore[arg-type]
        )
        assert training.accuracy(model, source, ds.input_form(), device=CPU) == score.mean


def test_without_a_teacher_the_labels_are_those_of_the_images():
    result = scored(recovered(), "hard")
    assert result.teacher is None
    assert "teacher" not in result.model_dump(mode="json")


def test_hard_labels_are_learned_of_a_set_with_soft_ones_too():
    ds = random()
    soft = np.full((6, 3), 1 / 3, dtype=np.float32)
    other = replace(ds, targets=soft, manifest=ds.manifest.model_copy(update={"targets": "probabilities"}))
    assert scored(other, "hard") == scored(ds, "hard")


def test_a_set_that_was_made_without_a_teacher_needs_one():
    with pytest.raises(UserError, match="the set was made without a teacher; give one"):
        scored(random())
    result = scored(random(), teacher=TeacherConfig.model_validate({**TEACHER, "network": None}))
    assert result.teacher is not None
    assert result.teacher.network == "convnet-1-w4", "by default it is the network that the set is for"


def test_which_network_is_scored_has_no_say_in_who_teaches():
    result = scored(recovered(), network="convnet-1-w16")
    assert result.teacher is not None
    assert (result.network, result.teacher.network) == ("convnet-1-w16", "convnet-1-w8-batchnorm")


def test_a_teacher_or_a_mode_where_none_labels_is_refused():
    with pytest.raises(UserError, match="a teacher is given, and the protocol has none that labels"):
        scored(random(), "hard", teacher=TeacherConfig())
    with pytest.raises(UserError, match="the recipe has no teacher that labels views"):
        scored(random(), "hard", teacher_mode="eval")
    with pytest.raises(UserError, match="unknown mode of a teacher 'batch_stats'; did you mean 'batch-stats'"):
        scored(recovered(), teacher_mode="batch_stats")


def test_a_set_that_is_normalised_otherwise_than_the_teachers_images_is_refused():
    ds = recovered()
    pixels = ds.manifest.pixels.model_copy(update={"mean": (0.9,)})
    other = replace(ds, manifest=ds.manifest.model_copy(update={"pixels": pixels}))
    with pytest.raises(UserError, match="another normalisation than the teacher's inputs"):
        scored(other)


def test_a_score_by_another_teacher_is_not_taken_for_this_ones(tmp_path: Path):
    ds, keep = recovered(), tmp_path / "scores"
    first = scored(ds, keep=keep)
    longer = TeacherConfig.model_validate({**TEACHER, "epochs": 3, "seed": 2})
    second = scored(ds, keep=keep, teacher=longer)
    assert second == scored(ds, teacher=longer)
    assert scored(ds, keep=keep) == first
    assert len(list(keep.glob("*.json"))) == 4


def test_the_published_settings_are_those_of_the_sources():
    """As read in SRe2L's code: AdamW 1e-3/0.01, T = 20 and 30 without T^2, SGD 0.2 with T^2."""
    recipes = {
        name: protocols.load(name).recipe(random().manifest.recipe, source_name="cifar10")
        for name in ("sre2l-fkd", "sre2l-kd", "sre2l-cifar", "hard")
    }
    fkd, kd, cifar, hard = recipes.values()
    assert (fkd.optimiser, fkd.learning_rate, fkd.weight_decay, fkd.decayed) == ("adamw", 1e-3, 0.01, "matrices")
    assert (fkd.loss, fkd.temperature, fkd.schedule, fkd.teacher) == ("kl", 20.0, "cosine", "eval")
    assert (fkd.epochs, fkd.batch_size) == (3, 4), "of the set's own recipe"
    assert fkd.views is not None
    assert (fkd.views.crop, fkd.views.flip, fkd.views.mix, fkd.views.mix_alpha) == ((0.08, 1.0), True, "cutmix", 1.0)
    assert (kd.optimiser, kd.learning_rate, kd.momentum, kd.weight_decay, kd.epochs) == ("sgd", 0.2, 0.9, 1e-4, 100)
    assert (kd.batch_size, kd.warmup, kd.loss, kd.temperature, kd.decayed) == (256, 5, "kl-t2", 20.0, "all")
    assert (cifar.epochs, cifar.batch_size, cifar.loss, cifar.temperature) == (400, 128, "kl", 30.0)
    assert cifar.views is not None
    assert (cifar.views.crop, cifar.views.padding, cifar.views.mix, cifar.views.mix_alpha) == (None, 4, "mixup", 0.8)
    assert hard == fkd.model_copy(update={"teacher": "none", "loss": "cross-entropy", "temperature": 1.0})
