"""How expert trajectories are trained; values only, so that the command line can list them without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dd_core.augment.names import Strategy
from dd_core.config import Config


class Sharpness(Config):
    """A step that seeks flat minima: the gradient at the worst point nearby (GSAM with ASAM's neighbourhood)."""

    rho: float = Field(default=0.01, gt=0, description="radius of the neighbourhood (rho)")
    alpha: float = Field(default=0.3, ge=0, description="weight of the surrogate gap (alpha); FTD has 0.3 or 1")


class Training(Config):
    """How an expert is trained: SGD at a constant rate, mini-batches under DSA."""

    epochs: int = Field(default=50, ge=1, description="epochs of an expert; DATM has 100")
    learning_rate: float = Field(default=0.01, gt=0, description="of SGD")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(default=0.0, ge=0, description="of SGD")
    decay: bool = Field(default=False, description="rate x0.1 from the middle epoch on")
    batch_size: int = Field(default=256, ge=1, description="real images in a mini-batch")
    augmentation: Strategy = Field(default="none", description="DSA strategy; auto: all, without flip for digits")
    sharpness: Sharpness | None = Field(default=None, description="flat experts; none: plain SGD")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the weights as they are kept")
