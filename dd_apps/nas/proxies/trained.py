"""Proxies that train the network on few images, or for a short time, and score it on held-out training images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, partial
from math import prod
from typing import Any, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_apps.nas.proxies import budget
from dd_apps.nas.proxies.proxy import Proxy
from dd_apps.nas.proxies.scored import By
from dd_core.distilled import DistilledSet
from dd_core.errors import Diverged, Option, UserError, require_finite, unknown_name
from dd_core.images import InputForm, Source, called, pixel_batch, require_labels
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.budget import BATCH_BYTES
from dd_core.system.footprint import prediction_batch
from dd_core.training import Lessons, Loop, RealLessons, Settings, fit, lessons_of

_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False, repr=False)
class TrainedProxy(Proxy):
    """Trains the network from its own initial weights, then scores it on `validation`, in evaluation mode.

    by: "accuracy" ranks by the fraction of the validation images that are classified correctly, "loss" by minus the
    mean cross-entropy; a score has both. passes: budget of image-passes, which becomes whole epochs (`epochs_within`);
    None: the epochs of the recipe. recipe: of training; its network and initialisation are not used.

    Raises `UserError` where data, validation images and recipe do not fit together.
    """

    data: DistilledSet | Source
    validation: Source
    _: KW_ONLY
    recipe: Recipe | None = None
    passes: int | None = None
    by: By = "accuracy"

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise unknown_name(f"score for {Option('by')}", self.by, get_args(By))
        require_labels(self.validation)
        names, shape = self.data.classes, self.lessons.image_shape
        if names != self.validation.classes:
            raise UserError(f"the classes of {called(self.validation)} are not those that networks are trained on")
        if shape != self.validation.image_shape:
            raise UserError(
                f"{called(self.validation)} has images of shape {self.validation.image_shape}, and networks are "
                f"trained on {shape}"
            )
        _ = self.training  # refuses a wrong budget

    # --- for subclasses ---------------------------------------------------------------------------------------------

    @cached_property
    def _own_recipe(self) -> Recipe:
        raise NotImplementedError

    @cached_property
    def input_form(self) -> InputForm:
        """The form that turns real images into inputs of a network."""
        raise NotImplementedError

    @cached_property
    def lessons(self) -> Lessons:
        """The training data of networks, on the proxy's device."""
        raise NotImplementedError

    @cached_property
    def training(self) -> Recipe:
        """The recipe of training, within the budget."""
        return budget.within(self._own_recipe, self.passes, len(self.lessons))

    def _train(self, network: nn.Module, streams: Streams) -> int:
        """Train in place; returns the number of image-passes."""
        fit(self.lessons, network, self.training, streams=streams, device=self._device)
        return budget.passes_of(self.training, len(self.lessons))

    # --- scores -----------------------------------------------------------------------------------------------------

    def _prepare(self, seed: int) -> None:
        _ = self.lessons, self._inputs, self._labels

    def _outcome(self, network: nn.Module, *, seed: int) -> dict[str, Any]:
        size = self._batch_size(network)  # first, because it refuses a network that takes no such images
        passes = self._train(network, Streams(seed))
        accuracy, loss = self._validated(network, size)
        if not math.isfinite(loss):
            raise Diverged(f"validation loss is {loss} after training")
        value = accuracy if self.by == "accuracy" else -loss
        return {"value": value, "accuracy": accuracy, "loss": loss, "passes": passes}

    def _batch_size(self, network: nn.Module) -> int:
        """Validation images in one forward pass; raises `UserError` for a network that takes no such images."""
        logits = partial(_logits, network.to(self._device).eval(), classes=len(self.validation.classes))
        try:
            return prediction_batch(lambda pixels: logits(pixels.float()), self.validation.image_shape, self._device)
        except (RuntimeError, ValueError) as error:
            if devices.is_out_of_memory(error):
                raise
            kind, reason = type(network).__name__, str(error).partition("\n")[0]
            raise UserError(f"a {kind} takes no images of shape {self.validation.image_shape}: {reason}") from error

    @torch.no_grad()
    def _validated(self, network: nn.Module, size: int) -> tuple[float, float]:
        """(accuracy, mean cross-entropy) over the validation images, summed in float64."""
        network.eval()
        right, total = 0, 0.0
        for inputs, labels in zip(self._batches(size), self._labels.split(size), strict=True):
            logits = _logits(network, inputs, classes=len(self.validation.classes)).double()
            right += int((logits.argmax(1) == labels).sum())
            total += F.cross_entropy(logits, labels, reduction="sum").item()
        return right / len(self.validation), total / len(self.validation)

    def _batches(self, size: int) -> Iterator[Float[Tensor, "n C H W"]]:
        if self._inputs is not None:
            return iter(self._inputs.split(size))
        return (self.input_form(batch.to(self._device)) for batch in self.validation.batches(size))

    @cached_property
    def _inputs(self) -> Float[Tensor, "N C H W"] | None:
        """The validation images as network inputs, once for all networks; None if they would take too much memory."""
        shape = self.validation.image_shape
        if _FLOAT_BYTES * len(self.validation) * prod(shape) > BATCH_BYTES:
            return None
        size = pixel_batch(shape, most=len(self.validation), bytes_each=_FLOAT_BYTES)
        return torch.cat([self.input_form(batch.to(self._device)) for batch in self.validation.batches(size)])

    @cached_property
    def _labels(self) -> Int64[Tensor, " N"]:
        return require_labels(self.validation).to(self._device)

    @cached_property
    def _device(self) -> torch.device:
        return devices.resolve(self.device)


@dataclass(frozen=True, eq=False, repr=False)
class DistilledProxy(TrainedProxy):
    """Trains on a distilled set, by the set's recipe unless another is given. In a user's own NNI script:

        space = SimplifiedModelSpace.from_model(MySpace(), DistilledProxy(ds, validation))
        RegularizedEvolution(seed=0)(space, SequentialExecutionEngine(max_model_count=200))

    If the set was distilled from the validation images too, the accuracies of all architectures are flattered.

    Raises `UserError` for a set for one particular network, and for a set whose targets are features.
    """

    data: DistilledSet
    _: KW_ONLY
    name: str = "distilled"

    @cached_property
    def _own_recipe(self) -> Recipe:
        recipe = self.recipe or self.data.manifest.recipe
        if recipe.for_one_network:
            raise UserError(f"this set is for one network, a {recipe.network}, and ranks no others")
        return recipe.for_source(self.validation.name)

    @cached_property
    def input_form(self) -> InputForm:
        """The normalisation of the set."""
        return self.data.input_form()

    @cached_property
    @surroundings.own()
    def lessons(self) -> Lessons:
        """The set's images with their labels or targets."""
        if self.data.manifest.targets == "features":
            raise UserError("the set's targets are features; expected labels, to validate by")
        return lessons_of(self.data, self._own_recipe).to(self._device)


@dataclass(frozen=True, eq=False, repr=False)
class RealProxy(TrainedProxy):
    """Trains on real images, in memory or on disk, which are normalised in each mini-batch.

    form: turns images into inputs of a network; None: normalises by the mean and std of each channel of `data`. Raises
    `UserError` for a recipe with learned steps, which hold for one distilled set only.
    """

    data: Source
    _: KW_ONLY
    name: str = "real"
    recipe: Recipe = field()
    form: InputForm | None = None

    def __post_init__(self) -> None:
        if self.form is None:
            object.__setattr__(self, "form", InputForm.of(self.data))
        super().__post_init__()

    @cached_property
    def _own_recipe(self) -> Recipe:
        if self.recipe.steps:
            raise UserError(f"the recipe's {len(self.recipe.steps)} learned steps hold for one distilled set only")
        return self.recipe.for_source(self.validation.name)

    @cached_property
    def input_form(self) -> InputForm:
        """The given form, or the normalisation by the images' channels."""
        assert self.form is not None
        return self.form

    @cached_property
    def lessons(self) -> Lessons:
        """The images with their labels."""
        return RealLessons(self.data, self.input_form, device=self._device)


@dataclass(frozen=True, eq=False, repr=False)
class EarlyStoppingProxy(RealProxy):
    """Begins the training of the recipe on all of `data`, and stops after exactly `passes` image-passes.

    The learning rate follows the schedule over all of the recipe's epochs, of which only the beginning is run; the last
    mini-batch may be smaller. Raises `UserError` where the recipe ends before `passes`.
    """

    _: KW_ONLY
    name: str = "early stopping"
    passes: int = field()

    @cached_property
    def training(self) -> Recipe:
        """The recipe, of which only the beginning is run."""
        budget.require_positive(self.passes)
        most = budget.passes_of(self._own_recipe, len(self.lessons))
        if self.passes > most:
            raise UserError(f"{Option('passes', most)}: the recipe ends before {self.passes} image-passes")
        return self._own_recipe

    def _train(self, network: nn.Module, streams: Streams) -> int:
        loop = Loop(network, self.lessons, Settings.of(self.training), streams=streams, device=self._device)
        epochs, left = divmod(self.passes, len(self.lessons))
        loop.run(epochs)
        with streams.seeded("training", epochs):
            for rows in loop.mini_batches():
                if not left:
                    break
                loop.step(rows[:left])
                left -= min(left, len(rows))
        require_finite(**{"training loss": loop.mean_loss})
        return self.passes


def _logits(network: nn.Module, inputs: Float[Tensor, "n C H W"], *, classes: int) -> Float[Tensor, "n K"]:
    outputs = network(inputs)
    if not isinstance(outputs, Tensor) or outputs.shape != (len(inputs), classes):
        shape = str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise UserError(
            f"a {type(network).__name__} returns {shape} for {len(inputs)} images, not ({len(inputs)}, {classes}): one "
            "number for each class"
        )
    return outputs
