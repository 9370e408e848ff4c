"""A student learns a teacher's outputs on images that are not the teacher's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_apps.transfer.data_free import DataFree, _inputs, teach_student
from dd_core import augment
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm
from dd_core.networks import own
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.whitening import Whitening

SHAPE = (1, 8, 8)
STUDENT = "convnet-2-w4"


def features_set(images: int = 10) -> DistilledSet:
    draw = np.random.default_rng(0)
    pixels = Pixels(space="raw", mean=(0.4,), std=(0.3,))
    recipe = Recipe(loss="mse")
    manifest = Manifest(task="self-supervised", classes=(), targets="features", recipe=recipe, pixels=pixels)
    pictures = draw.random((images, *SHAPE), dtype=np.float32)
    return DistilledSet(pictures, None, manifest, targets=draw.normal(size=(images, 7)).astype(np.float32))


def teacher_of_four(name: str = "convnet-2-w8-batchnorm") -> nn.Module:
    return own.built(name, SHAPE, outputs=4, seed=9)


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        (DataFree(epochs=3, batch_size=6, learning_rate=0.01, augmentation="crop_flip", temperature=2.0), None),
        (DataFree(epochs=2, batch_size=6, learning_rate=0.01, augmentation="none", loss="kl", weight_decay=0.1), "own"),
        (DataFree(epochs=2, batch_size=6, learning_rate=0.01, images="noise"), None),
    ],
)
def test_a_student_learns_what_the_teacher_says_of_each_view_in_a_plain_loop(settings: DataFree, form: Any):
    ds, teacher = features_set(), teacher_of_four()
    form = None if form is None else InputForm((0.1,), (0.7,))
    assert teacher.training
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    model = teach_student(STUDENT, teacher, ds, form=form, settings=settings, seed=2, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert teacher.training, "the teacher stays as it is"

    inputs = ds.inputs() if form is None else (torch.tensor(ds.images) - 0.1) / 0.7
    plain, wise, streams = (
        own.built(STUDENT, SHAPE, outputs=4, seed=2),
        teacher.eval(),
        Streams(2).child("data-free"),
    )
    optimiser = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
    for epoch in range(settings.epochs):
        order = torch.randperm(10, generator=streams.generator("order", epoch))
        for index, rows in enumerate(order.split(6)):
            draw = streams.child("views", epoch).generator("batch", index)
            shown = inputs[rows]
            if settings.images == "noise":
                shown = torch.randn(shown.shape, generator=draw)
            elif settings.augmentation != "none":
                shown = augment.dsa(shown, settings.augmentation, generator=draw)
            with torch.no_grad():
                target = (wise(shown) / settings.temperature).softmax(1)
            optimiser.zero_grad()
            logits = (plain(shown) / settings.temperature).log_softmax(1)
            loss = -(target * logits).sum(1).mean()  # the divergence has the same gradient
            loss.backward()
            optimiser.step()
        schedule.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not model.training


def test_noise_is_drawn_anew_and_the_student_comes_nearer_to_the_teacher():
    ds, teacher = features_set(32), teacher_of_four("convnet-2-w8").eval()
    settings = DataFree(epochs=60, learning_rate=0.01, augmentation="none")
    fresh = own.built(STUDENT, SHAPE, outputs=4, seed=0).eval()
    model = teach_student(STUDENT, teacher, ds, settings=settings, device="cpu")
    with torch.no_grad():
        target = teacher(ds.inputs()).softmax(1)
        gaps = [F.kl_div(each(ds.inputs()).log_softmax(1), target, reduction="batchmean") for each in (model, fresh)]
    assert gaps[0] < 0.5 * gaps[1]


def test_a_student_learns_from_the_images_that_networks_see():
    """Of a formation, in the teacher's own form too."""
    plain, teacher = features_set(), teacher_of_four()
    formed = replace(plain, manifest=plain.manifest.model_copy(update={"formation": 2}))
    for form in (None, InputForm((0.1,), (0.7,))):
        inputs = _inputs(formed, form)
        assert inputs.shape == (4 * len(plain), *SHAPE)
        own = formed.decoded().inputs() if form is None else (torch.tensor(formed.decoded().raw()) - 0.1) / 0.7
        assert torch.equal(inputs, own)
    settings = DataFree(epochs=2, learning_rate=0.01)
    one, other = (
        teach_student(STUDENT, teacher, ds, settings=settings, device="cpu") for ds in (formed, formed.decoded())
    )
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_what_has_no_defined_result_is_refused():
    ds, teacher = features_set(), teacher_of_four()
    whitening = Whitening(np.zeros(64, np.float32), np.eye(64, dtype=np.float32))
    with pytest.raises(UserError, match="the teacher's images are whitened"):
        teach_student(STUDENT, teacher, ds, form=InputForm((0.0,), (1.0,), whitening), device="cpu")
    with pytest.raises(UserError, match="cannot take images of 1 x 8 x 8 pixels"):
        teach_student(STUDENT, nn.Linear(3, 4), ds, device="cpu")
    with torch.no_grad():
        next(teacher.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="the teacher's class probabilities are not finite"):
        teach_student(STUDENT, teacher, ds, settings=DataFree(epochs=1), device="cpu")


def test_batch_norms_of_a_student_meet_no_single_image():
    said: list[str] = []
    settings = DataFree(epochs=1, batch_size=9)
    teach_student(
        "convnet-2-w4-batchnorm", teacher_of_four(), features_set(), settings=settings, device="cpu", say=said.append
    )
    assert said[0].startswith("convnet-2-w4-batchnorm: mini-batches of 8 images instead of 9")
