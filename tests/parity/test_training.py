"""Training against plain references, compared in weights: on a set, on a learned order, on real images, of experts.

The references write out the optimisers' formulas; of the project they use the networks, the augmentation and the named
generators, which have tests of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dd_core import artefacts, augment, networks, training
from dd_core.artefacts import Resources
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.images import LabelledImages
from dd_core.methods.trajectory_matching.expert_training import Sharpness, Training
from dd_core.methods.trajectory_matching.experts import ExpertsSpec, trajectory
from dd_core.methods.trajectory_matching.gsam import flat_gradient
from dd_core.recipe import Pretraining, Recipe, ScheduledStep
from dd_core.streams import Streams
from dd_core.testing import blobs

CPU = torch.device("cpu")
NETWORK = (
    "convnet-2-w8-nonorm"  # a norm takes the gradient from the biases before it, and Adam scales what rounding leaves
)
BLOBS = blobs()
LABELS = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
SEED = 7


def small_set(
    recipe: Recipe, *, targets: str = "none", channels: int = 1, size: tuple[int, int] = (8, 8)
) -> DistilledSet:
    """Twelve images of noise, with soft targets that are sure of nothing."""
    draw = np.random.default_rng(3)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    images = draw.random((12, channels, *size)).astype(np.float32)
    logits = draw.normal(size=(12, 3)).astype(np.float32) * 2
    soft = {"none": None, "logits": logits, "probabilities": np.exp(logits) / np.exp(logits).sum(1, keepdims=True)}
    pixels = Pixels(space="raw", mean=mean, std=std)
    manifest = Manifest(classes=("a", "b", "c"), pixels=pixels, targets=targets, recipe=recipe)
    return DistilledSet(images, np.array(LABELS), manifest, soft[targets])


# --- the references ----------------------------------------------------------------------------------------------


def reference_inputs(ds: DistilledSet) -> Tensor:
    pixels = ds.manifest.pixels
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (pixels.mean, pixels.std))
    return torch.tensor((ds.images - mean) / std)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over images of -sum_k target_k log p_k."""
    return -(targets * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()


def reference_loss(logits: Tensor, ds: DistilledSet, rows: Tensor, temperature: float) -> Tensor:
    """By labels, or by soft targets with both sides at the temperature."""
    if ds.targets is None:
        return cross_entropy(logits, torch.eye(3)[torch.tensor(ds.labels)[rows]])
    targets = torch.tensor(ds.targets)
    soft = torch.softmax(targets / temperature, 1) if ds.manifest.targets == "logits" else targets
    return cross_entropy(logits / temperature, soft[rows])


class PlainSGD:
    """v <- mu v + (g + lambda w), w <- w - rate v; v begins as the first gradient."""

    def __init__(self, model: nn.Module, *, momentum: float, decay: float) -> None:
        self.weights, self.momentum, self.decay = list(model.parameters()), momentum, decay
        self.velocity: list[Tensor] | None = None

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor, ...], rate: float) -> None:
        moves = [g + self.decay * w for g, w in zip(gradients, self.weights, strict=True)]
        if self.velocity is not None:
            moves = [self.momentum * v + move for v, move in zip(self.velocity, moves, strict=True)]
        self.velocity = moves
        for weight, move in zip(self.weights, moves, strict=True):
            weight -= rate * move


class PlainAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled decay (Loshchilov and Hutter 2019, algorithm 2)."""

    def __init__(
        self, model: nn.Module, *, betas: tuple[float, float] = (0.9, 0.999), decay: float = 0.0, coupled: bool = False
    ) -> None:
        """`coupled`: the decay is part of the gradient, as in Adam without W."""
        self.weights, self.betas, self.steps = list(model.parameters()), betas, 0
        self.decay, self.penalty = (0.0, decay) if coupled else (decay, 0.0)
        self.moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in self.weights]

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor, ...], rate: float) -> None:
        self.steps += 1
        one, two = self.betas
        for weight, gradient, (first, second) in zip(self.weights, gradients, self.moments, strict=True):
            gradient = gradient + self.penalty * weight
            first.mul_(one).add_((1 - one) * gradient)
            second.mul_(two).add_((1 - two) * gradient**2)
            root = (second / (1 - two**self.steps)).sqrt() + 1e-8
            weight -= rate * (self.decay * weight + first / (1 - one**self.steps) / root)


def gradients_of(loss: Tensor, model: nn.Module) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(model.parameters()))


def mini_batches(count: int, size: int, streams: Streams, epoch: int) -> Iterator[Tensor]:
    """A new order every epoch; the last mini-batch may be smaller."""
    order = torch.randperm(count, generator=streams.generator("order", epoch))
    yield from (order[begin : begin + size] for begin in range(0, count, size))


def rates(recipe: Recipe) -> list[float]:
    """The rate of every epoch.

    `step` is DC's evaluation (Zhao et al. 2021, `utils.evaluate_synset`): with `Epoch = epochs - 1` there, the rate
    falls after epoch `Epoch // 2 + 1`, counted from 0.
    """
    n, rate, rising = recipe.epochs, recipe.learning_rate, recipe.warmup
    if rising:  # to the full rate in equal steps, and from there as without
        later = recipe.model_copy(update={"warmup": 0, "epochs": n - rising})
        return [rate * (epoch + 1) / (rising + 1) for epoch in range(rising)] + rates(later)
    if recipe.schedule == "cosine":
        return [rate * (1 + math.cos(math.pi * epoch / n)) / 2 for epoch in range(n)]
    late = (n - 1) // 2 + 1 if recipe.schedule == "step" else n
    return [rate if epoch <= late else 0.1 * rate for epoch in range(n)]


def reference_fit(ds: DistilledSet, *, seed: int) -> nn.Module:
    """The network of the set's recipe, trained on the set for all epochs."""
    recipe, streams = ds.manifest.recipe, Streams(seed)
    channels, height, width = ds.images.shape[1:]
    model = networks.build(recipe.network, in_channels=channels, classes=3, image_size=(height, width), seed=seed)
    model.train()
    inputs, optimiser, before = reference_inputs(ds), None, None
    for epoch, rate in enumerate(rates(recipe)):
        if optimiser is None or (recipe.schedule == "step" and rate != before):
            optimiser = (  # a new one at the drop: no momentum is left
                PlainSGD(model, momentum=recipe.momentum, decay=recipe.weight_decay)
                if recipe.optimiser == "sgd"
                else PlainAdam(model, betas=recipe.betas, decay=recipe.weight_decay, coupled=recipe.optimiser == "adam")
            )
        transforms, before = streams.generator("augmentation", epoch), rate
        for step, rows in enumerate(mini_batches(len(ds), recipe.batch_size, streams, epoch)):
            seen = augment.dsa(
                inputs[rows], recipe.augmentation, generator=transforms, align_corners=recipe.align_corners
            )
            with streams.child("training", epoch).seeded("step", step):  # dropout
                loss = reference_loss(model(seen), ds, rows, recipe.temperature)
            optimiser.step(gradients_of(loss, model), rate)
    return model


def require_equal(ours: nn.Module, theirs: nn.Module, *, start: nn.Module | None = None) -> None:
    """Equal weights and buffers; and far from `start`, so that equality says something."""
    for (name, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    if start is not None:
        moved = [(a - b).abs().max() for a, b in zip(ours.parameters(), start.parameters(), strict=True)]
        assert max(moved) > 1e-3


# --- a set -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "targets"),
    [
        ({"momentum": 0.9, "weight_decay": 0.0, "schedule": "constant"}, "none"),
        ({"momentum": 0.0, "weight_decay": 0.1, "schedule": "constant"}, "none"),
        ({"momentum": 0.9, "weight_decay": 0.05, "schedule": "step", "epochs": 6}, "none"),
        ({"momentum": 0.9, "schedule": "step", "epochs": 7}, "none"),
        ({"momentum": 0.5, "schedule": "cosine"}, "none"),
        ({"optimiser": "adamw", "weight_decay": 0.3, "schedule": "step", "epochs": 7}, "none"),
        ({"optimiser": "adamw", "weight_decay": 0.0, "schedule": "cosine"}, "none"),
        ({"optimiser": "adamw", "betas": (0.5, 0.9), "schedule": "constant"}, "none"),
        ({"optimiser": "adam", "betas": (0.5, 0.9), "weight_decay": 0.1, "schedule": "constant"}, "none"),
        ({"warmup": 2, "schedule": "constant"}, "none"),
        ({"warmup": 2, "schedule": "cosine", "epochs": 5}, "none"),
        ({"temperature": 2.0, "schedule": "constant"}, "logits"),
        ({"temperature": 2.0, "schedule": "constant"}, "probabilities"),
        ({"temperature": 2.0, "schedule": "constant"}, "none"),
        ({"augmentation": "color_crop_cutout_flip_scale_rotate", "schedule": "constant"}, "none"),
        ({"network": "convnet-2-w8-batchnorm", "schedule": "constant"}, "none"),
    ],
)
def test_a_network_trained_on_a_set_is_the_plain_references(recipe: dict[str, Any], targets: str):
    defaults = {"network": NETWORK, "epochs": 3, "batch_size": 5, "weight_decay": 0.0, "learning_rate": 0.02}
    ds = small_set(Recipe(**{**defaults, **recipe}), targets=targets)
    model = training.train(ds, seed=SEED, device="cpu")
    assert not model.training
    start = networks.build(ds.manifest.recipe.network, in_channels=1, classes=3, image_size=(8, 8), seed=SEED)
    require_equal(model, reference_fit(ds, seed=SEED), start=start)


@pytest.mark.parametrize("align", [True, False])
def test_rotated_images_have_the_corners_that_the_recipe_says(align: bool):
    """On oblong images: on square ones both are the same transform, but for rounding."""
    recipe = Recipe(
        network=NETWORK, epochs=2, batch_size=5, learning_rate=0.02, augmentation="rotate", align_corners=align
    )
    ds = small_set(recipe, size=(8, 16))
    require_equal(training.train(ds, seed=SEED, device="cpu"), reference_fit(ds, seed=SEED))


def test_dropout_is_on_and_drawn_by_the_seed():
    recipe = Recipe(network="torchvision:squeezenet1_1", epochs=1, batch_size=6, learning_rate=1e-3, weight_decay=0.0)
    ds = small_set(recipe, channels=3, size=(32, 32))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ours = training.train(ds, seed=SEED, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    require_equal(ours, reference_fit(ds, seed=SEED))


@pytest.mark.parametrize("targets", ["none", "logits"])
def test_a_learned_order_is_plain_descent_at_its_own_rates(targets: str):
    steps = tuple(ScheduledStep(epoch=e, step=s, learning_rate=0.3 / (1 + 2 * e + s)) for e in (0, 1) for s in (0, 1))
    ds = small_set(Recipe(network=NETWORK, steps=steps, temperature=2.0), targets=targets)
    model = training.train(ds, seed=SEED, device="cpu")
    expected = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=SEED)
    inputs, optimiser = reference_inputs(ds), PlainSGD(expected, momentum=0.0, decay=0.0)
    blocks = ([0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11])  # of each class the first half, and the second
    for number, rate in ((0, 0.3), (1, 0.15), (0, 0.1), (1, 0.075)):
        rows = torch.tensor(blocks[number])
        loss = reference_loss(expected(inputs[rows]), ds, rows, 2.0)
        optimiser.step(gradients_of(loss, expected), rate)
    require_equal(model, expected)


# --- real images -------------------------------------------------------------------------------------------------


def real_inputs() -> Tensor:
    pixels = BLOBS.images.double() / 255
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True, correction=0)
    return ((pixels - mean) / std).float()


def one_hot() -> Tensor:
    assert BLOBS.labels is not None
    return torch.eye(3)[BLOBS.labels]


@pytest.mark.parametrize(("epochs", "how"), [(7, {}), (3, {"decay_every": 1})])
def test_pretraining_is_wangs_adam_with_a_rate_halved_every_five_epochs(epochs: int, how: dict[str, Any]):
    streams = Streams(SEED)
    ours, theirs = (networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0) for _ in range(2))
    start = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0)
    pretraining = Pretraining(epochs=epochs, batch_size=10, **how)
    loss = training.pretrain(ours, BLOBS, pretraining, streams=streams, device=CPU)
    inputs, targets, optimiser = real_inputs(), one_hot(), PlainAdam(theirs, betas=(0.5, 0.999))
    losses: list[float] = []
    for epoch in range(epochs):
        losses = []
        for rows in mini_batches(len(BLOBS), 10, streams, epoch):
            value = cross_entropy(theirs(inputs[rows]), targets[rows])
            optimiser.step(gradients_of(value, theirs), 1e-3 * 0.5 ** (epoch // how.get("decay_every", 5)))
            losses += [value.item()] * len(rows)
    assert loss == pytest.approx(sum(losses) / len(BLOBS), rel=1e-4)
    assert not ours.training
    require_equal(ours, theirs, start=start)


@pytest.mark.parametrize(
    "how",
    [
        {"augmentation": "color_crop_cutout_flip_scale_rotate"},
        {"momentum": 0.9, "weight_decay": 0.01, "decay": True, "epochs": 4},
        {"sharpness": Sharpness(rho=0.05, alpha=0.3), "augmentation": "crop"},
    ],
)
def test_an_expert_is_trained_as_its_training_says(how: dict[str, Any], tmp_path: Path):
    """Mini-batches, augmentation, optimiser, the rate x0.1 after the middle epoch; weights and loss of every epoch."""
    settings = Training(**{"epochs": 3, "batch_size": 10, "learning_rate": 0.05, **how})
    rows, losses = expert(settings, tmp_path)
    streams = Streams(0).child("expert", 1)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=streams.seed)
    optimiser = PlainSGD(model, momentum=settings.momentum, decay=settings.weight_decay)
    inputs, targets = real_inputs(), one_hot()
    for epoch in range(settings.epochs):
        transforms, total = streams.generator("augmentation", epoch), 0.0
        for batch in mini_batches(len(BLOBS), 10, streams, epoch):
            seen = augment.dsa(inputs[batch], settings.augmentation, generator=transforms)

            def loss_at(theta: tuple[Tensor, ...], seen: Tensor = seen, batch: Tensor = batch) -> Tensor:
                values = dict(zip(dict(model.named_parameters()), theta, strict=True))
                return cross_entropy(torch.func.functional_call(model, values, (seen,)), targets[batch])

            theta = tuple(model.parameters())
            if settings.sharpness is None:
                loss = loss_at(theta)
                gradients = torch.autograd.grad(loss, theta)
            else:
                loss, gradients = flat_gradient(loss_at, theta, sharpness=settings.sharpness)
            optimiser.step(gradients, 0.005 if settings.decay and epoch > settings.epochs // 2 else 0.05)
            total += loss.item() * len(batch)
        flat = nn.utils.parameters_to_vector(model.parameters())
        torch.testing.assert_close(rows[epoch + 1], flat, rtol=1e-4, atol=2e-6)
        assert losses[epoch] == pytest.approx(total / len(BLOBS), rel=1e-4)
    assert (rows[-1] - rows[0]).abs().max() > 1e-2


def expert(
    training: Training, cache: Path, *, source: LabelledImages = BLOBS, **which: Any
) -> tuple[Tensor, list[float]]:
    """What expert 1 of two keeps, (epochs + 1, P), and its mean loss in every epoch."""
    spec = ExpertsSpec(
        source=source.fingerprint(),
        network=NETWORK,
        image_shape=source.image_shape,
        classes=3,
        count=2,
        training=training,
        **which,
    )
    made = artefacts.get(spec, resources=Resources.of([source], device="cpu"), cache=cache)
    return trajectory(made, 1), made.part(1)[1]["losses"]


def test_experts_see_images_normalised_by_the_statistics_that_are_asked_for(tmp_path: Path):
    """The loss of one step on all images is that of the first weights."""
    colour = blobs(channels=3)
    pixels = colour.images.float() / 255
    own = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True, correction=0)
    imagenet = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    seed = Streams(0).child("expert", 1).seed
    model = networks.build(NETWORK, in_channels=3, classes=3, image_size=(8, 8), seed=seed)
    for statistics, (mean, std) in {"data": own, "imagenet": tuple(imagenet)}.items():
        _, losses = expert(Training(epochs=1), tmp_path, source=colour, statistics=statistics)
        expected = cross_entropy(model((pixels - mean) / std), torch.eye(3)[colour.labels])
        assert losses == [pytest.approx(expected.item(), rel=1e-4)]
