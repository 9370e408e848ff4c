"""Teachers that learn without labels, and the features that they give: each against a plain loop."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dd_core import artefacts, exchange, networks
from dd_core.artefacts import Artefact, Progress, Resources
from dd_core.augment import distortions
from dd_core.config import decode
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import feature_teachers, objectives, two_views
from dd_core.training.feature_teacher_config import FeatureTeacherConfig
from dd_core.training.feature_teachers import (
    FeaturesSpec,
    FeatureTeacherSpec,
    backbone_of,
    features_in,
    form_of_teacher,
)
from dd_core.training.lars import LARS
from dd_core.training.two_views import Learner

CPU = torch.device("cpu")


def config(**fields: object) -> FeatureTeacherConfig:
    settings = {"network": "convnet-1-w8-batchnorm", "epochs": 2, "batch_size": 10, "warmup": 0, "projector": (6, 5)}
    return FeatureTeacherConfig.model_validate({**settings, **fields})


def source(**options: int):
    return blobs(channels=3, **options).without_labels()


def made(cache: Path, **fields: object) -> Artefact:
    resources = Resources.of([source()], device="cpu")
    return artefacts.get(FeatureTeacherSpec.of(source(), config(**fields)), resources=resources, cache=cache)


def learner(**fields: object) -> Learner:
    spec = FeatureTeacherSpec.of(source(), config(**fields))
    backbone = feature_teachers.Backbone(spec.fresh())
    width = feature_teachers.width_of(backbone, (3, 8, 8))
    return Learner(backbone, width, source(), InputForm.of(source()), spec.teacher, device=CPU)


@pytest.mark.parametrize("objective", ["barlow-twins", "simclr", "byol"])
def test_an_epoch_is_sgd_on_two_views_of_each_image_as_by_hand(objective: str):
    ours = learner(objective=objective, tau=0.5, weight_decay=0.01)
    online, predictor = copy.deepcopy(ours.online), copy.deepcopy(ours.predictor)
    target = copy.deepcopy(online)
    learned = [*online.parameters(), *predictor.parameters()]
    optimiser = torch.optim.SGD(learned, lr=0.05, momentum=0.9, weight_decay=0.01)
    images, form, streams = source().images, InputForm.of(source()), Streams(0).child("feature-teacher")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (form.mean, form.std))
    settings = ours.config.distortions.for_source("blobs")
    steps, losses = 0, []
    for epoch in range(2):
        order = torch.randperm(36, generator=streams.generator("order", epoch))
        records = [
            distortions.draw(
                settings,
                second=second,
                count=36,
                image_size=(8, 8),
                generator=streams.generator(f"view-{int(second)}", epoch),
            )
            for second in (False, True)
        ]
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * epoch / 2))
        for rows in order[:30].split(10):
            a, b = ((distortions.distorted(images[rows], one.of(rows)) - mean) / std for one in records)
            z, w = online(a), online(b)
            if objective == "barlow-twins":
                loss = 0.1 * objectives.barlow_twins(z, w, off_diagonal=5e-3)
            elif objective == "simclr":
                loss = objectives.nt_xent(z, w, temperature=0.2)
            else:
                with torch.no_grad():
                    t, u = target(a), target(b)
                loss = objectives.byol(predictor(z), u) + objectives.byol(predictor(w), t)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tau = 1 - 0.5 * 0.5 * (1 + math.cos(math.pi * steps / 6))
            if objective == "byol":
                with torch.no_grad():
                    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                        slow.copy_(tau * slow + (1 - tau) * fast)
            steps += 1
            losses.append(loss.item())
        ours.epoch()
        assert ours.loss == pytest.approx(np.mean(losses[-3:]), rel=1e-5)
    for name, value in online.state_dict().items():
        assert torch.allclose(ours.online.state_dict()[name], value, rtol=1e-4, atol=1e-6), name
    if objective == "byol":
        for name, value in target.state_dict().items():
            assert torch.allclose(ours.target.state_dict()[name], value, rtol=1e-4, atol=1e-6), name


def test_projectors_are_as_wide_as_is_said():
    for objective, linear in (("barlow-twins", 3), ("simclr", 2), ("byol", 2)):
        layers = [
            layer for layer in two_views.projector(config(objective=objective), 7) if isinstance(layer, nn.Linear)
        ]
        assert len(layers) == linear
        assert (layers[0].in_features, layers[0].out_features, layers[-1].out_features) == (7, 6, 5)
    assert two_views.predictor(config(objective="byol"))(torch.zeros(2, 5)).shape == (2, 5)
    assert len(two_views.predictor(config())) == 0


def test_labels_have_no_say(tmp_path: Path):
    labelled = blobs(channels=3)
    resources = Resources.of([labelled], device="cpu")
    other = artefacts.get(FeatureTeacherSpec.of(labelled, config()), resources=resources, cache=tmp_path)
    ours = made(tmp_path)
    assert ours.digest != other.digest
    for name, value in backbone_of(ours).state_dict().items():
        assert torch.equal(backbone_of(other).state_dict()[name], value)


def test_a_killed_teacher_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = made(tmp_path / "whole", epochs=3, objective="byol").part(0)
    monkeypatch.setattr("dd_core.training.feature_teachers.SAVE_SECONDS", 0.0)
    spec = FeatureTeacherSpec.of(source(), config(epochs=3, objective="byol"))
    progress, resources = Progress(tmp_path / "state.safetensors"), Resources.of([source()], device="cpu")
    epoch, done = Learner.epoch, []

    def dies(self: Learner) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        epoch(self)

    monkeypatch.setattr(Learner, "epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        spec.make_part(0, resources=resources, progress=progress)
    again: list[int] = []

    def counted(self: Learner) -> None:
        again.append(1)
        epoch(self)

    monkeypatch.setattr(Learner, "epoch", counted)
    tensors, facts = spec.make_part(0, resources=resources, progress=progress)
    assert len(again) == spec.teacher.epochs - 2, "the epochs before are not trained again"
    assert facts["loss"] == whole[1]["loss"]
    for name, value in whole[0].items():
        assert np.array_equal(tensors[name], value), name


def test_features_are_the_backbones_in_evaluation_mode_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dd_core.training.feature_teachers.PART_IMAGES", 15)
    spec = FeaturesSpec.of(source(), config())
    made_features = artefacts.get(spec, resources=Resources.of([source()], device="cpu"), cache=tmp_path)
    teacher = made(tmp_path)
    network = backbone_of(teacher).network
    with torch.no_grad():
        expected = networks.embed(network.eval(), form_of_teacher(teacher)(source().images))
    assert len(made_features) == 3
    assert torch.allclose(features_in(made_features), expected, atol=1e-6)
    assert features_in(made_features).shape == (36, teacher.part(0)[1]["width"])


@pytest.mark.parametrize("classes", [2, 7])
def test_a_backbone_comes_out_of_a_file_whatever_its_classes(classes: int, tmp_path: Path):
    network = networks.build("convnet-1-w8-batchnorm", in_channels=3, classes=classes, image_size=(8, 8), seed=5)
    torch.save(network.state_dict(), tmp_path / "given.pth")
    kept = exchange.with_weights_kept(config(weights=str(tmp_path / "given.pth"), epochs=0))
    teacher = artefacts.get(FeatureTeacherSpec.of(source(), kept), resources=Resources.of([source()], device="cpu"))
    for name, value in network.state_dict().items():
        assert torch.equal(backbone_of(teacher).network.state_dict()[name], value)
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(backbone_of(teacher)(images), network.eval().features(images))  # type: ignore[operator]


@pytest.mark.parametrize("objective", ["barlow-twins", "simclr", "byol"])
def test_the_objective_falls(objective: str):
    calm = {"crop": (0.8, 1.0), "jitter": 0, "grey": 0, "solarise": (0, 0)}
    ours = learner(objective=objective, epochs=20, distortions=calm)
    losses = []
    for _ in range(20):
        ours.epoch()
        losses.append(ours.loss)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_what_cannot_be_learned_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="warmup: 10 of 5 epochs leave none"):
        decode(FeatureTeacherConfig, {"epochs": 5, "warmup": 10})
    with pytest.raises(UserError, match="epochs: 0 leaves fresh weights untrained"):
        decode(FeatureTeacherConfig, {"epochs": 0})
    with pytest.raises(Diverged, match="teacher's training loss"):
        made(tmp_path, learning_rate=1e30)
    one = source().subset(torch.tensor([3]))
    with pytest.raises(UserError, match="blobs has one image; a teacher needs at least two"):
        FeatureTeacherSpec.of(one, config())
    assert FeatureTeacherSpec.of(one, config(weights="published", epochs=0)).image_shape == (3, 8, 8)


def test_only_byol_has_a_network_that_follows():
    assert not [*learner().target.parameters()]
    assert not [*learner(objective="simclr").target.parameters()]
    assert not any(parameter.requires_grad for parameter in learner(objective="byol").target.parameters())


def test_lars_trains_a_teacher_at_the_rate_of_the_epoch():
    ours, plain = learner(optimiser="lars", epochs=4, learning_rate=0.2), learner(epochs=4, learning_rate=0.2)
    ours.epoch()
    plain.epoch()
    assert isinstance(ours.optimiser, LARS)
    weights = [next(made.online.parameters()) for made in (ours, plain)]
    assert not torch.equal(*weights)
    ours.epoch()
    assert ours.optimiser.param_groups[0]["lr"] == pytest.approx(0.2 * 0.5 * (1 + math.cos(math.pi / 4)))
