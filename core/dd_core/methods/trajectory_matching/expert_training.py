"""How expert trajectories are trained; values only, so that the command line can list them without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dd_core.augment.names import Strategy
from dd_core.config import Config


class Sharpness(Config):
    """A step towards flat minima: by the gradient at the worst point nearby (GSAM, in ASAM's neighbourhood)."""

    rho: float = Field(
        default=0.01, gt=0, description="radius of the neighbourhood in which the worst point is sought (rho)"
    )
    alpha: float = Field(default=0.3, ge=0, description="weight of GSAM's surrogate gap (alpha); FTD has 0.3 or 1")


class Training(Config):
    """How an expert is trained: by SGD, or GSAM where `sharpness` is given, on mini-batches under DSA."""

    epochs: int = Field(default=50, ge=1, description="epochs that an expert is trained for; DATM has 100")
    learning_rate: float = Field(default=0.01, gt=0, description="learning rate of the experts' SGD")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of the experts' SGD")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of the experts' SGD")
    decay: bool = Field(
        default=False, description="multiply the experts' learning rate by 0.1 in the epochs past the middle one"
    )
    batch_size: int = Field(default=256, ge=1, description="real images in a mini-batch of an expert's training")
    augmentation: Strategy = Field(
        default="none",
        description="DSA strategy of the experts' training, kinds joined by _; auto: all six kinds, without flip where "
        "the images are digits",
    )
    sharpness: Sharpness | None = Field(
        default=None, description="train experts towards flat minima by GSAM with these settings; none: plain SGD"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision in which the experts' weights are kept on disk"
    )
