"""Features by a set's teacher for other images: random real images, or the images of another set.

`FeatureLabeller` is the contract. `labeller_of` finds the teacher of a set with features by the set's provenance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_apps.transfer.embedding import features
from dd_core import artefacts
from dd_core.artefacts import Artefact, Resources
from dd_core.distilled import DistilledSet, Provenance
from dd_core.errors import UserError
from dd_core.images import InputForm, Source, called
from dd_core.methods import decode_method
from dd_core.runner import RunOptions
from dd_core.training.feature_teachers import FeatureTeacherSpec, backbone_of, form_of_teacher


@runtime_checkable
class FeatureLabeller(Protocol):
    """Computes features of images by the teacher that made a set's targets."""

    def __call__(self, source: Source, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """float32 features of the images `rows` of `source`; the same rows get the same features."""
        ...


FindLabeller = Callable[[DistilledSet, Source, RunOptions], FeatureLabeller]


@dataclass(frozen=True, eq=False)
class NetworkLabeller:
    """The features by `backbone` of images that `form` normalises; see `embedding.features`."""

    backbone: nn.Module
    form: InputForm
    device: str = "auto"

    def __call__(self, source: Source, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The features of the images `rows`, with the backbone in evaluation mode."""
        return features(self.backbone, source.subset(rows), self.form, device=self.device)


def labeller_of(ds: DistilledSet, source: Source, options: RunOptions) -> FeatureLabeller:
    """The teacher of a set with features: from the cache, or else trained again on the images that it learned.

    source: these images, with labels or without. Raises `UserError` for a set that names no teacher, and where the
    cache lacks the teacher and `source` has other images.
    """
    if ds.manifest.targets != "features":
        raise UserError("the set's targets are no features, so it has no teacher of features; take a set with features")
    made = ds.manifest.provenance
    if made is None or not made.artefacts:
        raise UserError("the set does not name the teacher of its features; leave out rows with a teacher's features")
    kept = (artefacts.by_content(content, FeatureTeacherSpec) for content in made.artefacts)
    teacher = next(filter(None, kept), None) or _made_again(made, source, options)
    # the network itself: its features are the inputs of its last layer
    return NetworkLabeller(backbone_of(teacher).network, form_of_teacher(teacher), options.device)


def _made_again(made: Provenance, source: Source, options: RunOptions) -> Artefact:
    """The teacher, trained as the set's provenance says."""
    learned = next(
        (images for images in (source, source.without_labels()) if images.fingerprint() == made.fingerprint), None
    )
    if learned is None:
        raise UserError(
            "the teacher of the set's features is not in the cache, and to train it again needs the images with the "
            f"fingerprint {made.fingerprint[:12]}..., not those of {called(source)}; name these images as data"
        )
    config = decode_method({"name": made.method, **made.config})
    specs = config.needs(learned, size=made.size, seed=made.seed).values()
    spec = next((spec for spec in specs if isinstance(spec, FeatureTeacherSpec)), None)
    if spec is None:
        raise UserError(f"method '{made.method}' has no teacher of features; leave out rows with a teacher's features")
    resources = Resources.of([learned], device=options.device)
    return artefacts.get(spec, resources=resources, workers=options.workers, reporter=options.reporter)
