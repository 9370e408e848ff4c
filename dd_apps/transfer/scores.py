"""The score of a backbone on a target; imports no torch."""

from __future__ import annotations

from pydantic import Field

from dd_core.config import Config


class TransferScore(Config):
    """The accuracy on all test images, after the last step of training; nothing is chosen on test images.

    done: the way of scoring, in words. fraction: fraction of each class's training images, at least one, whose labels
    were learned. labels: their number. tested: number of test images. features: number of features of an image, None
    where all weights were trained. mean, std: normalisation of images. whitened: whether images were whitened too.
    """

    accuracy: float = Field(ge=0, le=1)
    done: str
    fraction: float
    labels: int
    tested: int
    classes: int
    seed: int
    features: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    whitened: bool = False
