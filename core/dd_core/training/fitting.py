"""Train networks on a set, by the set's own recipe or another one.

Sets and their real-image twins go through the same function; nothing here knows which is which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_core import augment, networks, surroundings
from dd_core.distilled import DistilledSet, pretraining_problems
from dd_core.errors import UserError, require_finite
from dd_core.images import InputForm, Source, channel_stats, normalise, require_labels
from dd_core.recipe import Pretraining, Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system.footprint import prediction_batch

if TYPE_CHECKING:
    from dd_core.artefacts import Artefact


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


@surroundings.own()
def train(
    ds: DistilledSet,
    *,
    network: str | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    pretrain_on: Source | None = None,
) -> nn.Module:
    """A fresh network trained on `ds`, in evaluation mode.

    `recipe` is the set's own unless another is given, and `network` is the recipe's. A set for pre-trained networks
    gets a held-out one, trained on `pretrain_on`; a set for one particular network gets
    that one, and any other `network` is a `UserError`. Feed the network what `ds.as_dataset()` gives, or real images
    through `ds.input_form()`.
    """
    from dd_core.training import starts as weights  # it trains networks itself

    recipe = recipe or ds.manifest.recipe
    recipe = for_network(recipe, network)
    require_startable(ds, recipe)
    shape = (ds.images.shape[1], ds.images.shape[2], ds.images.shape[3])
    start = weights.of_recipe(
        recipe, shape, len(ds.classes), count=1, seed=seed, pretrain_on=pretrain_on, device=device
    )
    data = training_data(ds, recipe)
    return fit(data, recipe.network, recipe, streams=Streams(seed), device=devices.resolve(device), start=start)


def for_network(recipe: Recipe, network: str | None) -> Recipe:
    """The recipe with another network; raises `UserError` where it holds for one particular network only."""
    if network is None or network == recipe.network:
        return recipe
    if recipe.for_one_network:
        raise UserError(
            f"this set is for one network, a {recipe.network} that starts from the weights "
            f"{recipe.initialisation[:19]}..., and for no {network}"
        )
    return recipe.model_copy(update={"network": network})


def require_startable(ds: DistilledSet, recipe: Recipe) -> None:
    """Raise `UserError` where networks cannot start as `recipe` says and be trained on `ds`: it may be whitened."""
    if ds.whitening is not None:
        for problem in pretraining_problems(recipe):
            raise UserError(f"the set is whitened: {problem}")


def fit(
    data: TrainingData,
    network: str,
    recipe: Recipe,
    *,
    streams: Streams,
    device: torch.device,
    start: Artefact | None = None,
    index: int = 0,
) -> nn.Module:
    """Initialise `network` and train it on `data`; it starts as network `index` of `start` if that is given.

    Raises `UserError` where the recipe is for weights that are not given.
    """
    recipe = recipe.model_copy(update={"network": network})
    shape = (data.inputs.shape[1], data.inputs.shape[2], data.inputs.shape[3])
    model = initialised(recipe, shape, data.classes, streams=streams, start=start, index=index).to(device).train()
    data = data.to(device)
    with streams.seeded("training"):
        if recipe.steps:
            _follow_steps(model, data, recipe)
        else:
            _run_epochs(model, data, recipe, streams)
    return model.eval()


def initialised(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    streams: Streams,
    start: Artefact | None = None,
    index: int = 0,
) -> nn.Module:
    """The recipe's network on the CPU: network `index` of `start` if that is given, else drawn as the recipe says.

    Raises `UserError` where the recipe is for weights that are not given.
    """
    channels, height, width = image_shape
    model = networks.build(
        recipe.network, in_channels=channels, classes=classes, image_size=(height, width), seed=streams.seed
    )
    if start is not None:
        return load_weights(model, start, index)
    if recipe.initialisation == "xavier":
        networks.initialise_xavier(model, generator=streams.generator("xavier"))
    elif recipe.initialisation != "default":
        raise UserError(f"this set is for networks that start from weights '{recipe.initialisation[:19]}', not given")
    return model


def require_pure(recipe: Recipe, image_shape: tuple[int, int, int], classes: int, *, method: str) -> None:
    """Raise `UserError` for a network whose outputs depend on more than images and weights: it cannot be unrolled."""
    model = initialised(recipe, image_shape, classes, streams=Streams(0))
    for module in model.modules():
        kind = type(module).__name__
        if kind.startswith(("Drop", "BatchNorm")):
            raise UserError(
                f"recipe.network: '{recipe.network}' has a {kind}, whose output depends on more than images and "
                f"weights; {method} needs a network without, such as lenet or convnet-2"
            )


def load_weights(model: nn.Module, pool: Artefact, index: int) -> nn.Module:
    """`model` with the weights of network `index` of a pool (`weights.StartingWeightsSpec`)."""
    tensors, facts = pool.part(index)
    state = {name: torch.tensor(tensors[f"t{position}"]) for position, name in enumerate(facts["names"])}
    model.load_state_dict(state)
    return model


def pretrain(model: nn.Module, source: Source, how: Pretraining, *, streams: Streams, device: torch.device) -> float:
    """Train `model` in place on normalised real images; returns the mean loss of the last epoch.

    Adam with betas (0.5, 0.999), as Wang et al.'s code has it. Raises `UserError` for a source without labels.
    """
    labels = require_labels(source).to(device)
    mean, std = channel_stats(source)
    model = model.to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=how.learning_rate, betas=(0.5, 0.999))
    total = torch.zeros((), device=device)
    with streams.seeded("pretraining"):
        for epoch in range(how.epochs):
            total.zero_()
            for group in optimiser.param_groups:
                group["lr"] = how.learning_rate * 0.5 ** (epoch // how.decay_every)
            for rows in _batches(len(source), how.batch_size, streams, epoch):
                images = normalise(source.take(rows).to(device), mean, std)
                loss = F.cross_entropy(model(images), labels[rows.to(device)])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += loss.detach() * len(rows)
            require_finite(**{"pre-training loss": total.item()})
    model.eval()
    return total.item() / len(source)


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
            images = augment.dsa(
                data.inputs[rows], recipe.augmentation, generator=transforms, align_corners=recipe.align_corners
            )
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


def accuracy(model: nn.Module, source: Source, form: InputForm, *, device: torch.device) -> float:
    """The fraction of real images, fed as `form` says, that `model` labels rightly; in evaluation mode."""
    labels = require_labels(source)
    return int((predictions(model, source, form, device=device) == labels).sum()) / len(source)


@torch.no_grad()
def predictions(model: nn.Module, source: Source, form: InputForm, *, device: torch.device) -> Int64[Tensor, " N"]:
    """The class that `model` gives to each real image, fed as `form` says; in evaluation mode."""
    model = model.to(device).eval()

    def logits(images: Tensor) -> Tensor:
        return model(form(images))

    size = prediction_batch(logits, source.image_shape, device)
    return torch.cat([logits(batch.to(device)).argmax(1).cpu() for batch in source.batches(size)])
