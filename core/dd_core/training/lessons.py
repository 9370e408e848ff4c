"""Lessons: the mini-batches of inputs and targets that a network learns from, out of a set or of real images.

`Lessons` is the contract; reading it is enough to write lessons of another kind, such as views that a teacher labels
during training, or labels that were recorded in a bank. `epoch` and `index` name a mini-batch, for lessons that have a
record for each; other lessons ignore them. Lessons that change in use are `Stateful` too, and the loop keeps their
state with its own; lessons that prepare later mini-batches while the network trains on earlier ones are `Foreseeing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import InputForm, LabelledImages, Source, normalise, require_labels
from dd_core.recipe import Recipe
from dd_core.training import losses
from dd_core.training.prefetching import Reader, Wanted

Shape = tuple[int, int, int]
RESIDENT_BYTES = 512 << 20  # most bytes of real pixels that lie on a GPU; CIFAR-10's are 147 MiB


@runtime_checkable
class Lessons(Protocol):
    """N images (C, H, W) with the target of a network's outputs for each."""

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
        """How many outputs a network needs for an image: K classes, or D features."""
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
    """Lessons that change in use, and keep their state by PyTorch's conventions."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on exactly here."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """Lessons that prepare announced mini-batches before the loop asks for them."""

    def ahead(self, batches: Iterable[Int64[Tensor, " _"]], *, epoch: int) -> AbstractContextManager[object]:
        """Announce that the loop asks for the rows `batches`, in this order, within the block; its end cancels them."""
        ...


# --- a set -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingData:
    """A classification set as tensors: inputs (N, C, H, W), labels (N,), class probabilities (N, K) or None.

    black: the network input of a black pixel (C,), which views show beyond an image's edge; None: 0.
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
        """The same data on `device`."""
        soft = None if self.probabilities is None else self.probabilities.to(device)
        return TrainingData(self.inputs.to(device), self.labels.to(device), soft, self.classes, self.black)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images with their class probabilities, or with their labels where `probabilities` is None."""
        del epoch, index
        targets = self.labels if self.probabilities is None else self.probabilities
        rows = rows.to(targets.device, non_blocking=True)
        return self.inputs[rows], targets[rows]


@dataclass(frozen=True)
class RegressionData:
    """A set as tensors, whose targets (N, D), features or logits, are learned by regression."""

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
        """The same data on `device`."""
        labels = None if self.labels is None else self.labels.to(device)
        return RegressionData(self.inputs.to(device), self.targets.to(device), labels)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images with their targets."""
        del epoch, index
        rows = rows.to(self.targets.device, non_blocking=True)
        return self.inputs[rows], self.targets[rows]


def lessons_of(ds: DistilledSet, recipe: Recipe) -> TrainingData | RegressionData:
    """The lessons of a set under `recipe`: regression for loss mse, else classification.

    Raises `UserError` where the loss cannot learn the kind of the set's targets, and for a set without targets or
    labels.
    """
    losses.require_learnable(recipe.loss, ds.manifest.targets)
    if not losses.needs_values(recipe.loss):
        return training_data(ds, recipe)
    ds = ds.decoded()
    labels = None if ds.labels is None else torch.tensor(ds.labels)
    return RegressionData(ds.inputs(), torch.tensor(ds.targets).float(), labels)


def training_data(ds: DistilledSet, recipe: Recipe) -> TrainingData:
    """The lessons of a classification set under `recipe`, whose temperature softens the set's logits.

    Raises `UserError` for a set without labels or with features, and for loss mse, which learns by regression.
    """
    if losses.needs_values(recipe.loss):
        raise UserError(
            f"loss '{recipe.loss}' compares outputs with logits or features, and no class probabilities; take another"
        )
    if ds.labels is None or ds.manifest.targets == "features":
        raise UserError(f"a {ds.manifest.task} set with targets '{ds.manifest.targets}' does not train a classifier")
    ds = ds.decoded()
    soft = None if ds.targets is None else torch.tensor(ds.targets).float()
    if soft is not None and ds.manifest.targets == "logits":
        soft = (soft / recipe.temperature).softmax(1)
    return TrainingData(ds.inputs(), torch.tensor(ds.labels), soft, len(ds.classes), ds.input_form().black)


def block_rows(labels: Int64[Tensor, " N"], blocks: int) -> list[Int64[Tensor, " n"]]:
    """Rows of each block: the images of every class are divided in order into `blocks` equal parts, one for each block.

    Raises `UserError` where `blocks` does not divide the number of images of a class.
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


def _is_resident(source: Source, device: torch.device) -> TypeGuard[LabelledImages]:
    """Whether a network on `device` learns from pixels that lie there: on a GPU, if they are few and in memory."""
    return device.type != "cpu" and isinstance(source, LabelledImages) and source.images.nbytes <= RESIDENT_BYTES


class RealLessons:
    """Real images with their labels, read from a source on demand, as network inputs of `form`.

    decoders: processes that decode images ahead; 0: none, as where several networks train at the same time.
    """

    def __init__(
        self, source: Source, form: InputForm, *, device: torch.device | None = None, decoders: int = 0
    ) -> None:
        """Raises `UserError` for a source without labels."""
        self.source, self.form, self.device = source, form, device or torch.device("cpu")
        self.labels = require_labels(source).to(self.device)
        self.black = form.black
        self._reader = Reader(source, workers=decoders)
        self._resident: Tensor | None = None  # from the first batch on

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
        """The same lessons with batches on `device`, where the pixels lie too if they are few; see `RESIDENT_BYTES`."""
        if device == self.device:
            return self
        return RealLessons(self.source, self.form, device=device, decoders=self._reader.workers)

    def batch(self, rows: Int64[Tensor, " n"], *, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Network inputs, normalised or whitened on the device, with labels."""
        del epoch, index
        if not _is_resident(self.source, self.device):
            return self._fed(self._reader.images(Wanted(rows)), rows)
        if self._resident is None:
            self._resident = self.source.images.to(self.device)
        return self._fed(self._resident[rows.to(self.device, non_blocking=True)], rows)

    def ahead(self, batches: Iterable[Int64[Tensor, " _"]], *, epoch: int) -> AbstractContextManager[object]:
        """See `Foreseeing`: with `decoders`, images are decoded ahead."""
        del epoch
        return self._reader.ahead(map(Wanted, batches))

    def views(
        self, rows: Int64[Tensor, " n"], boxes: Int64[Tensor, "n 4"], flips: Bool[Tensor, " n"]
    ) -> tuple[Tensor, Tensor]:
        """(inputs, labels) as in `batch`, of crops that boxes cut from images before these are resized."""
        return self._fed(self._reader.images(Wanted(rows, boxes, flips), size=self.image_shape[1:]), rows)

    def views_ahead(self, wanted: Iterable[Wanted]) -> AbstractContextManager[object]:
        """See `Foreseeing`, for calls of `views` instead of `batch`."""
        return self._reader.ahead(wanted, size=self.image_shape[1:])

    def _fed(self, images: UInt8[Tensor, "n C H W"], rows: Int64[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        images = images.to(self.device, non_blocking=True)
        # calling `form` costs a change of torch's settings, which is much beside a small network's step
        whitened = self.form.whitening is not None
        inputs = self.form(images) if whitened else normalise(images, self.form.mean, self.form.std)
        return inputs, self.labels[rows.to(self.device, non_blocking=True)]
