"""Teacher's features for images that the teacher's own set does not have: random real ones, or those of another set.

`FeatureLabeller` is the contract. `labeller_of` finds the one of a set with features, from what the set says of how it
was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_apps.transfer.embedding import features
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import InputForm, Source
from dd_core.runner import RunOptions


@runtime_checkable
class FeatureLabeller(Protocol):
    """Gives images the features that a set's images have for targets."""

    def __call__(self, source: Source, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """float32 features of the images `rows` of `source`; the same rows get the same features."""
        ...


FindLabeller = Callable[[DistilledSet, Source, RunOptions], FeatureLabeller]


@dataclass(frozen=True, eq=False)
class NetworkLabeller:
    """The features that `backbone` has of images which are fed as `form` says; see `embedding.features`."""

    backbone: nn.Module
    form: InputForm
    device: str = "auto"

    def __call__(self, source: Source, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """In evaluation mode."""
        return features(self.backbone, source.subset(rows), self.form, device=self.device)


def labeller_of(ds: DistilledSet, source: Source, options: RunOptions) -> FeatureLabeller:
    """The teacher of a set with features, found or made from the training images `source` that the set was made of.

    Raises `UserError` for a set that names no teacher.
    """
    del source, options
    if ds.manifest.targets != "features":
        raise UserError("the set has no features for targets, so it has no teacher of features; name one that has")
    raise UserError("the set does not say which teacher gave its features; leave out rows with a teacher's features")
