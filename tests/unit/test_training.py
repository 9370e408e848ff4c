"""Training by a recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dd_core import augment, networks
from dd_core.distilled import DistilledSet, Manifest, Pixels, Size
from dd_core.errors import Diverged, UserError
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.recipe import Recipe, ScheduledStep
from dd_core.runner import distill
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import accuracy, block_rows, fit, predictions, train, training_data

NETWORK = "convnet-2-w16"


def _set(**recipe) -> DistilledSet:
    defaults = {"epochs": 20, "learning_rate": 0.05}
    return distill(method("average", recipe={"network": NETWORK, **defaults, **recipe}), blobs(), Size(ipc=2))


def test_a_network_learns_the_classes():
    source = blobs(per_class=30)
    ds = _set()
    model = train(ds, seed=1)
    assert accuracy(model, source, ds.input_form(), device=torch.device("cpu")) > 0.95


def test_training_is_determined_by_its_seed_and_leaves_the_global_generator_alone():
    ds = _set(augmentation="color_crop_cutout_flip_scale_rotate", epochs=3)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    one, same, other = (next(iter(train(ds, seed=seed).parameters())) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.1] * 7),
        ("step", [0.1] * 5 + [0.01] * 2),
        ("cosine", [0.05 * (1 + np.cos(np.pi * e / 7)) for e in range(7)]),
    ],
)
def test_the_learning_rate_of_every_epoch(schedule: str, rates: list[float], monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []
    original = torch.optim.SGD.step

    def step(self, *args):
        seen.append(self.param_groups[0]["lr"])
        return original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    train(_set(schedule=schedule, epochs=7, learning_rate=0.1))
    assert seen == pytest.approx(rates)


def test_a_learned_order_is_plain_gradient_descent_over_its_blocks():
    steps = tuple(ScheduledStep(epoch=e, step=s, learning_rate=0.1 / (1 + e + s)) for e in (0, 1) for s in (0, 1))
    ds = _set(steps=[one.model_dump() for one in steps])
    model = train(ds, seed=4)
    expected = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=4)
    inputs, labels = ds.inputs(), torch.tensor(ds.labels)
    for one in steps:
        rows = [one.step, 2 + one.step, 4 + one.step]  # the block has one image of each class
        loss = F.cross_entropy(expected(inputs[rows]), labels[rows])
        for parameter, gradient in zip(
            expected.parameters(), torch.autograd.grad(loss, list(expected.parameters())), strict=True
        ):
            parameter.data -= one.learning_rate * gradient
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_predictions_are_made_in_evaluation_mode_whatever_the_mode_before():
    """A batch norm that has seen other images says other classes by its running statistics than by the batch's."""
    source, cpu = blobs(per_class=20), torch.device("cpu")
    model = networks.build("convnet-1-w8-batchnorm", in_channels=1, classes=3, image_size=(8, 8), seed=0)
    form = InputForm.of(source)
    with torch.no_grad():
        model.train()(2 * form(source.images) + 1)
        by_batch = model(form(source.images)).argmax(1)
        expected = model.eval()(form(source.images)).argmax(1)
    assert not torch.equal(by_batch, expected)
    assert len(expected.unique()) > 1
    model.train()
    assert torch.equal(predictions(model, source, form, device=cpu), expected)
    model.train()
    assert accuracy(model, source, form, device=cpu) == int((expected == source.labels).sum()) / 60


def test_xavier_is_the_initialisation_when_the_recipe_says_so():
    ds = _set(initialisation="xavier", epochs=1, learning_rate=1e-9)
    model = train(ds)
    biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
    assert all(value.abs().max() < 1e-6 for value in biases)


def test_soft_targets_are_learned_instead_of_labels():
    pixels = Pixels(space="raw", mean=(0.5,), std=(0.5,))
    manifest = Manifest(
        classes=("a", "b"), pixels=pixels, targets="logits", recipe=Recipe(network=NETWORK, temperature=2.0, epochs=60)
    )
    images = np.stack([np.zeros((1, 8, 8)), np.ones((1, 8, 8))]).astype(np.float32)
    logits = np.array([[2.0, 0.0], [0.0, 4.0]], dtype=np.float32)
    ds = DistilledSet(images, np.array([0, 1]), manifest, logits)
    data = training_data(ds, manifest.recipe)
    assert torch.allclose(data.probabilities, torch.tensor(logits / 2).softmax(1))
    data = type(data)(data.inputs, 1 - data.labels, data.probabilities, 2)
    model = fit(data, NETWORK, manifest.recipe, streams=Streams(0), device=torch.device("cpu"))
    assert model(ds.inputs()).argmax(1).tolist() == [0, 1], "labels were learned, not targets"


def test_divergence_is_said():
    with pytest.raises(Diverged, match="training loss is"):
        train(_set(learning_rate=1e9, epochs=50))


def test_every_mini_batch_has_a_transform_of_its_own(monkeypatch: pytest.MonkeyPatch):
    states: list[bytes] = []
    original = augment.dsa

    def watched(images, strategy, *, generator, align_corners):
        states.append(generator.get_state().numpy().tobytes())
        return original(images, strategy, generator=generator, align_corners=align_corners)

    monkeypatch.setattr(augment, "dsa", watched)
    train(_set(augmentation="color_crop", batch_size=2, epochs=2))
    assert len(states) == len(set(states)) == 6


def test_the_recipe_says_how_transforms_place_pixels():
    options = {"augmentation": "rotate", "batch_size": 6, "epochs": 3}
    aligned, other, again = (
        torch.cat([one.flatten() for one in train(_set(**options, align_corners=align)).parameters()])
        for align in (True, False, False)
    )
    assert torch.equal(other, again)
    assert not torch.equal(aligned, other)


def test_blocks_take_equally_many_images_of_each_class():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert [rows.tolist() for rows in block_rows(labels, 2)] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert [rows.tolist() for rows in block_rows(labels, 1)] == [list(range(8))]
    with pytest.raises(UserError, match="4 images of class 0 do not fall into 3 equal blocks"):
        block_rows(labels, 3)
