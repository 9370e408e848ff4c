"""Random real images with the features of a set's own teacher: the twin of KRR-ST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dd_apps.transfer.config import TransferScenario
from dd_apps.transfer.drawing import source_of
from dd_apps.transfer.task import run_task
from dd_apps.transfer.teaching import labeller_of
from dd_apps.transfer.weights import load_backbone
from dd_core import artefacts, store
from dd_core.config import decode
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.testing import blobs
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.feature_teachers import FeaturesSpec, FeatureTeacherSpec, backbone_of, features_in

OPTIONS = RunOptions(device="cpu")
KRR_ST = {
    "steps": 2,
    "batch_real": 12,
    "networks": 1,
    "online_steps": 1,
    "teacher": {"network": "convnet-1-w4-batchnorm", "epochs": 1, "batch_size": 12, "warmup": 0, "projector": [6, 5]},
    "recipe": {"network": "convnet-1-w4-batchnorm", "epochs": 2},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def made(source=None) -> DistilledSet:
    return distill(method("krr-st", **KRR_ST), source or blobs().without_labels(), Size(images=5), options=OPTIONS)


def real_features() -> np.ndarray:
    config = method("krr-st", **KRR_ST)
    needed = config.needs(blobs().without_labels(), size=Size(images=5), seed=0)
    spec = next(spec for spec in needed.values() if isinstance(spec, FeaturesSpec))
    return features_in(artefacts.get(spec)).numpy()


def test_the_teacher_of_a_set_is_found_whatever_the_source():
    ds, rows = made(), torch.tensor([3, 30, 7])
    for source in (blobs(), blobs().without_labels(), blobs(per_class=13)):
        given = labeller_of(ds, source, OPTIONS)(blobs(), rows)
        assert np.allclose(given.numpy(), real_features()[rows.numpy()], atol=1e-5)


def test_a_teacher_that_the_cache_lacks_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ds, expected = made(), real_features()
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "another"))
    with pytest.raises(
        UserError, match="the teacher of the set's features is not in the cache, and to train it again needs the images"
    ):
        labeller_of(ds, blobs(per_class=13), OPTIONS)
    given = labeller_of(ds, blobs(), OPTIONS)(blobs(), torch.arange(4))
    assert np.allclose(given.numpy(), expected[:4], atol=1e-5)


def test_a_set_that_names_no_teacher_has_none():
    ds = made()
    bare = DistilledSet(ds.images, None, ds.manifest.model_copy(update={"provenance": None}), ds.targets)
    with pytest.raises(UserError, match="does not name the teacher of its features"):
        labeller_of(bare, blobs(), OPTIONS)
    with pytest.raises(UserError, match="the set's targets are no features"):
        labeller_of(distill(method("random"), blobs(), Size(ipc=1), options=OPTIONS), blobs(), OPTIONS)


def test_a_scenario_compares_a_set_with_random_real_images_of_the_same_teacher(tmp_path: Path):
    table = {
        "data": "digits",
        "classes": [0, 1, 2],
        "images": 60,
        "backbones": ["convnet-1-w8"],
        "targets": [{"data": "digits", "classes": [3, 4], "train": 30, "test": 20}],
        "scores": [{"kind": "linear-probe"}],
        "fractions": [1.0],
        "seeds": 2,
        "sets": {"krr": {"images": 8, "labels": False, "method": {"name": "krr-st", **KRR_ST}}},
        "rows": [
            {"kind": "none"},
            {"kind": "set", "set": "krr"},
            {"kind": "random", "like": "krr", "targets": "features"},
        ],
    }
    outcome = run_task(decode(TransferScenario, table), tmp_path / "run", OPTIONS)
    assert outcome.sets["krr"].labels is None
    twin = store.read_set(next((tmp_path / "run" / "rows").glob("2-0*")))
    assert (len(twin), twin.manifest.targets, twin.labels) == (8, "features", None)
    assert twin.manifest.pixels.mean == outcome.sets["krr"].manifest.pixels.mean
    assert len(outcome.sections) > 1


def test_backbones_may_learn_the_whole_source_without_labels(tmp_path: Path):
    """The upper bound: the very teacher that `FeatureTeacherSpec` makes, for each backbone and seed."""
    teacher = {"epochs": 1, "warmup": 0, "batch_size": 20, "projector": [6, 5]}
    table = {
        "data": "digits",
        "images": 60,
        "backbones": ["convnet-1-w8-batchnorm"],
        "targets": [{"data": "digits", "classes": [3, 4], "train": 30, "test": 20}],
        "scores": [{"kind": "linear-probe"}],
        "fractions": [1.0],
        "seeds": 2,
        "keep_weights": True,
        "rows": [{"kind": "whole", "teacher": teacher}],
    }
    values = decode(TransferScenario, table)
    outcome = run_task(values, tmp_path / "run", OPTIONS)
    source = source_of(values, OPTIONS).without_labels()
    kept = [load_backbone(file) for file in sorted((tmp_path / "run" / "weights").glob("*.safetensors"))]
    made = []
    for seed in (0, 1):
        config = FeatureTeacherConfig.model_validate({**teacher, "projector": (6, 5), "seed": seed})
        config = config.model_copy(update={"network": "convnet-1-w8-batchnorm"})
        made.append(backbone_of(artefacts.get(FeatureTeacherSpec.of(source, config))).network.state_dict())
    for state in made:  # found in the cache, and so made by the run
        assert any(all(torch.equal(each.model.state_dict()[name], state[name]) for name in state) for each in kept)
    assert kept[0].form is not None
    assert kept[0].form.mean == source.channel_stats()[0]
    notes = str(outcome.tables[0].notes)
    assert "all 60 images of digits without labels, by barlow-twins, 1 epoch; an upper bound" in notes
    with pytest.raises(UserError, match=r"pre-trains networks by name, and 'my\.nets:Small' is an import path"):
        decode(TransferScenario, {**table, "backbones": ["my.nets:Small"]})
