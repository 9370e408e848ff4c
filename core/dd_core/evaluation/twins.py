"""The random-real twin of a set: as many real images of each class, with the set's input form and kind of labels.

A twin has as many images as the set stores, and so as many bytes at one byte a value: where a set has a formation,
networks see more images of the set than of its twin. The twin is labelled as the set was: by the classes where the set
has hard labels; where a teacher's soft labels made the set, by the same teacher as `Labeller`. A twin's
pixels are read when its network is to be trained, so that many twins take the memory of few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from dd_core import selection
from dd_core.distilled import DistilledSet
from dd_core.images import InputForm, Source, require_labels
from dd_core.streams import Streams
from dd_core.system.threads import computing
from dd_core.training import TrainingData


class Targets(NamedTuple):
    """Training targets of n images: labels (n,) and, for soft labels, class probabilities (n, K)."""

    labels: Int64[Tensor, " n"]
    probabilities: Float[Tensor, "n K"] | None = None


@runtime_checkable
class Labeller(Protocol):
    """A function that gives real images the kind of labels that a set's images have."""

    def __call__(self, source: Source, rows: Int64[Tensor, " n"]) -> Targets:
        """The targets of the images `rows` of `source`; the same rows get the same targets."""
        ...


@dataclass(frozen=True)
class HardLabels:
    """The source's own labels, except under an attack, where the attacked class has the label of another class.

    attack: the label of the attacked class, and the label that its images get instead.
    """

    attack: tuple[int, int] | None = None

    def __call__(self, source: Source, rows: Int64[Tensor, " n"]) -> Targets:
        """Raises `UserError` for a source without labels."""
        labels = require_labels(source)[rows]
        if self.attack is not None:
            attacked, target = self.attack
            labels = labels.where(labels != attacked, target)
        return Targets(labels)


@dataclass(frozen=True)
class Twin:
    """The images `rows` of `source` with their targets, and the input form that they get."""

    source: Source
    rows: Int64[Tensor, " n"]
    targets: Targets
    form: InputForm
    classes: int

    def data(self) -> TrainingData:
        """The images as network inputs, read anew at each call."""
        with computing(1):  # whitening in several threads differs in the last bits
            inputs = self.form(self.source.take(self.rows))
        return TrainingData(inputs, *self.targets, self.classes, self.form.black)


def draw(ds: DistilledSet, train: Source, *, labeller: Labeller, streams: Streams, index: int) -> Twin:
    """As many images of `train` of each class as `ds` has, drawn without replacement for network `index`.

    Raises `UserError` where `train` has too few of a class.
    """
    assert ds.labels is not None
    counts = np.bincount(ds.labels, minlength=len(ds.classes)).tolist()
    rows = selection.random_indices(train, counts, streams=streams.child("twin", index), stream="random")
    labels, probabilities = labeller(train, rows)
    return Twin(train, rows, Targets(labels, probabilities), ds.input_form(), len(ds.classes))
