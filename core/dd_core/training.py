"""Train networks on a set, by the set's own recipe or another one.

Sets and their real-image twins go through the same function; nothing here knows which is which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_core import augment, networks
from dd_core import device as devices
from dd_core.distilled import DistilledSet, Pixels, Recipe
from dd_core.errors import UserError, require_finite
from dd_core.images import Source, normalise, require_labels
from dd_core.streams import Streams


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from: inputs (N, C, H, W), labels (N,), and class probabilities (N, K) or None."""

    inputs: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]
    probabilities: Float[Tensor, "N K"] | None
    classes: int

    def to(self, device: torch.device) -> TrainingData:
        """The same on another device."""
        soft = None if self.probabilities is None else self.probabilities.to(device)
        return TrainingData(self.inputs.to(device), self.labels.to(device), soft, self.classes)


def training_data(ds: DistilledSet, recipe: Recipe) -> TrainingData:
    """A classification set as a network sees it under `recipe`, whose temperature softens logits.

    Raises `UserError` for a set without labels or with features.
    """
    if ds.labels is None or ds.manifest.targets == "features":
        raise UserError(f"a {ds.manifest.task} set with targets '{ds.manifest.targets}' does not train a classifier")
    soft = None if ds.targets is None else torch.tensor(ds.targets).float()
    if soft is not None and ds.manifest.targets == "logits":
        soft = (soft / recipe.temperature).softmax(1)
    return TrainingData(ds.inputs(), torch.tensor(ds.labels), soft, len(ds.classes))


def train(
    ds: DistilledSet, *, network: str | None = None, recipe: Recipe | None = None, seed: int = 0, device: str = "auto"
) -> nn.Module:
    """A fresh network trained on `ds`, in evaluation mode.

    `recipe` is the set's own unless another is given, and `network` is the recipe's. Feed it what
    `ds.as_dataset()` gives, or real images through `normalise` with the set's mean and std.
    """
    recipe = recipe or ds.manifest.recipe
    data = training_data(ds, recipe)
    return fit(data, network or recipe.network, recipe, streams=Streams(seed), device=devices.resolve(device))


def fit(data: TrainingData, network: str, recipe: Recipe, *, streams: Streams, device: torch.device) -> nn.Module:
    """Initialise `network` and train it on `data`; raises `UserError` for an initialisation it cannot make."""
    shape = (data.inputs.shape[1], data.inputs.shape[2], data.inputs.shape[3])
    model = initialised(recipe, shape, data.classes, network=network, streams=streams).to(device).train()
    data = data.to(device)
    with streams.seeded("training"):
        if recipe.steps:
            _follow_steps(model, data, recipe)
        else:
            _run_epochs(model, data, recipe, streams)
    return model.eval()


def initialised(
    recipe: Recipe, image_shape: tuple[int, int, int], classes: int, *, network: str | None = None, streams: Streams
) -> nn.Module:
    """A network (the recipe's unless another is named) with weights drawn as the recipe says, on the CPU.

    Raises `UserError` for a recipe that is for particular weights.
    """
    channels, height, width = image_shape
    model = networks.build(
        network or recipe.network, in_channels=channels, classes=classes, image_size=(height, width), seed=streams.seed
    )
    if recipe.initialisation == "xavier":
        networks.initialise_xavier(model, generator=streams.generator("xavier"))
    elif recipe.initialisation != "default":
        raise UserError(
            f"this set is for networks that start from the weights {recipe.initialisation[:20]}..., and for no others"
        )
    return model


def _follow_steps(model: nn.Module, data: TrainingData, recipe: Recipe) -> None:
    """Plain gradient descent over the learned order: block `step` of the images at its own learning rate."""
    blocks = block_rows(data.labels.cpu(), 1 + max(one.step for one in recipe.steps))
    parameters = list(model.parameters())
    for one in recipe.steps:
        rows = blocks[one.step]
        loss = _loss(model(data.inputs[rows]), data, rows, recipe.temperature)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= one.learning_rate * gradient


def block_rows(labels: Int64[Tensor, " N"], blocks: int) -> list[Int64[Tensor, " n"]]:
    """Rows of each block: the images of every class are dealt to the blocks in order, equally many to each.

    Raises `UserError` where they cannot be.
    """
    counts = torch.bincount(labels)
    for label, count in enumerate(counts.tolist()):
        if count % blocks:
            raise UserError(f"{count} images of class {label} do not fall into {blocks} equal blocks")
    block = torch.empty_like(labels)
    for label, count in enumerate(counts.tolist()):
        block[labels == label] = torch.arange(count) * blocks // max(count, 1)
    return [(block == index).nonzero().flatten() for index in range(blocks)]


def _run_epochs(model: nn.Module, data: TrainingData, recipe: Recipe, streams: Streams) -> None:
    optimiser = _optimiser(model, recipe, recipe.learning_rate)
    drop = (recipe.epochs - 1) // 2 + 2
    for epoch in range(recipe.epochs):
        if recipe.schedule == "step" and epoch == drop:
            # a new optimiser, as the MTT family's evaluation has it: the momentum starts over
            optimiser = _optimiser(model, recipe, recipe.learning_rate * 0.1)
        if recipe.schedule == "cosine":
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
        total = torch.zeros((), device=data.inputs.device)
        transforms = streams.generator("augmentation", epoch)
        for rows in _batches(len(data.inputs), recipe.batch_size, streams, epoch):
            images = augment.dsa(data.inputs[rows], recipe.augmentation, generator=transforms)
            loss = _loss(model(images), data, rows, recipe.temperature)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach()
        if epoch % 50 == 49 or epoch + 1 == recipe.epochs:
            require_finite(**{"training loss": total.item()})


def _optimiser(model: nn.Module, recipe: Recipe, learning_rate: float) -> torch.optim.Optimizer:
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def _batches(count: int, size: int, streams: Streams, epoch: int) -> Iterator[Int64[Tensor, " n"]]:
    order = torch.randperm(count, generator=streams.generator("order", epoch))
    yield from order.split(size)


def _loss(logits: Tensor, data: TrainingData, rows: Tensor | slice, temperature: float) -> Tensor:
    if data.probabilities is None:
        return F.cross_entropy(logits, data.labels[rows])
    return F.cross_entropy(logits / temperature, data.probabilities[rows])


@torch.no_grad()
def accuracy(model: nn.Module, source: Source, pixels: Pixels, *, device: torch.device) -> float:
    """The fraction of real images that `model` labels rightly, normalised as `pixels` says; in evaluation mode."""
    labels = require_labels(source)
    model = model.to(device).eval()
    right, first = 0, 0
    for batch in source.batches(512):
        guesses = model(normalise(batch.to(device), pixels.mean, pixels.std)).argmax(1).cpu()
        right += int((guesses == labels[first : first + len(batch)]).sum())
        first += len(batch)
    return right / len(source)
