"""What a network learns from: mini-batches of inputs and targets, out of a set or out of real images.

`Lessons` is the contract, and reading it is enough to write one: a teacher that is asked as training goes, or a bank of
labels for views that were recorded. `epoch` and `index` say which mini-batch is asked for, so lessons with a
record for each of them find it; those that answer by the row alone leave them unused. Lessons that change as they are
used are `Stateful` too, and the loop keeps their state with its own; those that prepare mini-batches while the network
trains on earlier ones are `Foreseeing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import InputForm, Source, normalise, require_labels
from dd_core.recipe import Recipe
from dd_core.training import losses
from dd_core.training.prefetching import Reader, Wanted

Shape = tuple[int, int, int]


@runtime_checkable
class Lessons(Protocol):
    """N images (C, H, W) with what a network should make of each."""

    @property
    def labels(self) -> Int64[Tensor, " N"] | None:
        """(N,) class of each image, or None where images have none."""
        ...

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of the inputs."""
        ...

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for an image: K classes, or D features."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Lessons:
        """The same lessons with batches on `device`."""
        ...

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """(inputs (n, C, H, W), targets (n, ...)) of the images `rows` (on the CPU), mini-batch `index` of an epoch."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Lessons that change as they are used, by PyTorch's own conventions."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on exactly here."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of `state_dict`."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """Lessons that prepare mini-batches before they are asked for, where they are told which ones will be."""

    def ahead(self, batches: Iterable[Int64[Tensor, " _"]], *, epoch: int) -> AbstractContextManager[object]:
        """Within the block, the images of each of `batches` are asked for, in this order; at its end nothing waits."""
        ...


# --- a set -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingData:
    """A classification set as tensors: inputs (N, C, H, W), labels (N,), class probabilities (N, K) or None.

    black: what a black pixel is as an input (C,), which views show beyond an image's edge; None: 0.
    """

    inputs: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]
    probabilities: Float[Tensor, "N K"] | None
    classes: int
    black: Float[Tensor, " C"] | None = None

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return _shape_of(self.inputs)

    @property
    def outputs(self) -> int:
        """One logit for each class."""
        return self.classes

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> TrainingData:
        """The same on another device."""
        soft = None if self.probabilities is None else self.probabilities.to(device)
        return TrainingData(self.inputs.to(device), self.labels.to(device), soft, self.classes, self.black)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images with their probabilities, or with their labels where there are none."""
        del epoch, index
        targets = self.labels if self.probabilities is None else self.probabilities
        return self.inputs[rows], targets[rows]


@dataclass(frozen=True)
class RegressionData:
    """A set as tensors whose targets (N, D) are learned as they are: features, or logits."""

    inputs: Float[Tensor, "N C H W"]
    targets: Float[Tensor, "N D"]
    labels: Int64[Tensor, " N"] | None = None

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return _shape_of(self.inputs)

    @property
    def outputs(self) -> int:
        """One output for each target of an image."""
        return self.targets.shape[1]

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> RegressionData:
        """The same on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return RegressionData(self.inputs.to(device), self.targets.to(device), labels)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images with their targets."""
        del epoch, index
        return self.inputs[rows], self.targets[rows]


def lessons_of(ds: DistilledSet, recipe: Recipe) -> TrainingData | RegressionData:
    """A set as a network learns it under `recipe`, whose loss says whether targets are learned as they are.

    Raises `UserError` where the loss cannot learn what the set has, and for a set without anything to learn.
    """
    losses.require_learnable(recipe.loss, ds.manifest.targets)
    if not losses.needs_values(recipe.loss):
        return training_data(ds, recipe)
    ds = ds.decoded()
    labels = None if ds.labels is None else torch.tensor(ds.labels)
    return RegressionData(ds.inputs(), torch.tensor(ds.targets).float(), labels)


def training_data(ds: DistilledSet, recipe: Recipe) -> TrainingData:
    """A classification set as a network sees it under `recipe`, whose temperature softens logits.

    Raises `UserError` for a set without labels or with features, and for a loss that learns targets as they are.
    """
    if losses.needs_values(recipe.loss):
        raise UserError(f"loss '{recipe.loss}' learns logits or features as they are, and no class probabilities")
    if ds.labels is None or ds.manifest.targets == "features":
        raise UserError(f"a {ds.manifest.task} set with targets '{ds.manifest.targets}' does not train a classifier")
    ds = ds.decoded()
    soft = None if ds.targets is None else torch.tensor(ds.targets).float()
    if soft is not None and ds.manifest.targets == "logits":
        soft = (soft / recipe.temperature).softmax(1)
    return TrainingData(ds.inputs(), torch.tensor(ds.labels), soft, len(ds.classes), ds.input_form().black)


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


def _shape_of(inputs: Tensor) -> Shape:
    return inputs.shape[1], inputs.shape[2], inputs.shape[3]


# --- real images -------------------------------------------------------------------------------------------------


class RealLessons:
    """Real images with their labels, taken out of a source as they are asked for, and fed as `form` says.

    decoders: processes that decode them ahead; 0: none, as where several networks train at the same time.
    """

    def __init__(
        self, source: Source, form: InputForm, *, device: torch.device | None = None, decoders: int = 0
    ) -> None:
        """Raises `UserError` for a source without labels."""
        self.source, self.form, self.device = source, form, device or torch.device("cpu")
        self.labels = require_labels(source).to(self.device)
        self.black = form.black
        self._reader = Reader(source, workers=decoders)

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return self.source.image_shape

    @property
    def outputs(self) -> int:
        """One logit for each class."""
        return len(self.source.classes)

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> RealLessons:
        """The same with batches on another device; the images stay where they are."""
        return RealLessons(self.source, self.form, device=device, decoders=self._reader.workers)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images, normalised or whitened on the device, with their labels."""
        del epoch, index
        return self._fed(self._reader.images(Wanted(rows)), rows)

    def ahead(self, batches: Iterable[Int64[Tensor, " _"]], *, epoch: int) -> AbstractContextManager[object]:
        """See `Foreseeing`: images are decoded ahead where there are processes for it."""
        del epoch
        return self._reader.ahead(map(Wanted, batches))

    def views(
        self, rows: Int64[Tensor, " n"], boxes: Int64[Tensor, "n 4"], flips: Bool[Tensor, " n"]
    ) -> tuple[Tensor, Tensor]:
        """What each box shows of its image before that was brought to `image_shape`, fed as `batch`; with labels."""
        return self._fed(self._reader.images(Wanted(rows, boxes, flips), size=self.image_shape[1:]), rows)

    def views_ahead(self, wanted: Iterable[Wanted]) -> AbstractContextManager[object]:
        """See `Foreseeing`; within the block, it is `views` that are asked for."""
        return self._reader.ahead(wanted, size=self.image_shape[1:])

    def _fed(self, images: UInt8[Tensor, "n C H W"], rows: Int64[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        images = images.to(self.device)
        # a form sets its surroundings aside at every call, which a small network's step would notice
        whitened = self.form.whitening is not None
        inputs = self.form(images) if whitened else normalise(images, self.form.mean, self.form.std)
        return inputs, self.labels[rows.to(self.device)]
