"""What a backbone was worth on a target, and what was done to find out; imports no torch."""

from __future__ import annotations

from pydantic import Field

from dd_core.config import Config


class TransferScore(Config):
    """The accuracy on all test images, at the end of what `done` says; nothing is chosen on test images.

    fraction: of each class's training images, at least one, whose labels were learned; `labels` of them. features: how
    many an image has; None where all weights learned. mean, std: what images were normalised by; whitened: whether
    images were whitened then.
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
