"""Fitting ZCA whitening to real images, and the whitening as an artefact, which experts, sets and runs share.

    W = U diag(s + epsilon)^-1/2 U^T          with U diag(s) U^T the covariance of the images, pixels in [0, 1]

W is symmetric (Bell and Sejnowski 1997), so whitened images still look like images. Pixels in [0, 1], the unbiased
covariance and epsilon 0.1 are those of MTT (Cazenavette et al. 2022) and the methods after it. Whitened images are not
normalised by channel: their sets have mean 0 and std 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from dd_core import artefacts
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Resources, Tensors
from dd_core.errors import UserError
from dd_core.system.reporter import Reporter
from dd_core.whitening import LARGEST, Whitening, one_thread

if TYPE_CHECKING:
    from dd_core.images import Source

EPSILON = 0.1
_BATCH = 1024  # images in one batch of the sums


def fit(source: Source, *, epsilon: float = EPSILON) -> Whitening:
    """The whitening of the images of `source`; `epsilon` is added to each eigenvalue, for pixels in [0, 1].

    Computed in float64 and in one thread. Raises `UserError` for images that are too large, for a single image, and for
    an `epsilon` that is not positive or too small for float32.
    """
    check_source(source)
    count = len(source)
    if count < 2:
        raise UserError(f"whitening: {source.name} has {count} image, and a covariance needs 2 or more")
    if not epsilon > 0:
        raise UserError(f"whitening: epsilon must be positive, not {epsilon}")
    total, products = _sums(source)
    with one_thread():
        covariance = (products - np.outer(total, total / count)) / ((count - 1) * 255**2)
        variances, axes = np.linalg.eigh(covariance)
        matrix = (axes / np.sqrt(variances.clip(min=0) + epsilon)) @ axes.T
    return Whitening((total / (255 * count)).astype(np.float32), ((matrix + matrix.T) / 2).astype(np.float32))


def _sums(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Sum (D,) and sum of outer products (D, D) of the images, as float64.

    The sums are exact in any order, as they are sums of integers, which stay below 2^53 for up to 10^11 images.
    """
    size = int(np.prod(source.image_shape))
    total, products = np.zeros(size), np.zeros((size, size))
    with one_thread():
        for batch in source.batches(_BATCH):
            rows = batch.numpy().reshape(len(batch), size).astype(np.float64)
            total += rows.sum(0)
            products += rows.T @ rows
    return total, products


def check_source(source: Source) -> None:
    """Raise `UserError` where the images of `source` are too large to be whitened."""
    size = int(np.prod(source.image_shape))
    if size > LARGEST:
        raise UserError(
            f"whitening takes images of up to {LARGEST} numbers (3 x 32 x 32), and those of {source.name} have {size}: "
            f"the matrix would take {4 * size**2 / 1e6:,.0f} MB"
        )


class WhiteningSpec(ArtefactSpec):
    """The whitening of real images, which their fingerprint names."""

    kind: ClassVar[str] = "whitening"
    verb: ClassVar[str] = "fitting"
    noun: ClassVar[str] = "whitening"
    digested: ClassVar[frozenset[str]] = frozenset({"epsilon"})

    source: str = Field(description="fingerprint of the real images")
    image_shape: tuple[int, int, int] = Field(description="channels, height and width of the real images")
    epsilon: float = Field(
        default=EPSILON, gt=0, description="number added to every eigenvalue of the covariance, for pixels in [0, 1]"
    )

    def sources(self) -> dict[str, str]:
        """The real images."""
        return {self.source: ""}

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """Fit the whitening, always on the CPU."""
        whitening = fit(resources.sources[self.source], epsilon=self.epsilon)
        return {"zca_offset": whitening.offset, "zca_matrix": whitening.matrix}, {}


def spec_of(source: Source, *, epsilon: float = EPSILON) -> WhiteningSpec:
    """The spec of the whitening of `source`; raises `UserError` where the images are too large."""
    check_source(source)
    return WhiteningSpec(source=source.fingerprint(), image_shape=source.image_shape, epsilon=epsilon)


def whitening_in(artefact: Artefact) -> Whitening:
    """The whitening that an artefact of `WhiteningSpec` holds."""
    tensors, _ = artefact.part(0)
    return Whitening(tensors["zca_offset"], tensors["zca_matrix"])


def of(source: Source, *, epsilon: float = EPSILON, reporter: Reporter | None = None) -> Whitening:
    """The whitening of `source` from the cache, fitted where the cache lacks it; raises what `fit` raises."""
    spec = spec_of(source, epsilon=epsilon)
    return whitening_in(artefacts.get(spec, resources=Resources.of([source]), reporter=reporter))
