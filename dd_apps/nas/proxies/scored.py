"""The score of one network by a proxy, and its cost; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dd_core.config import Config

By = Literal["accuracy", "loss"]


class Scored(Config):
    """The score of one network."""

    value: float = Field(description="value by which architectures are ranked; higher predicts a better architecture")
    accuracy: float | None = Field(
        default=None, description="fraction of the validation images that the trained network classifies correctly"
    )
    loss: float | None = Field(
        default=None, description="mean cross-entropy of the trained network on the validation images, in nats"
    )
    seconds: float = Field(ge=0, description="wall-clock seconds from the untrained network to its value")
    core_seconds: float = Field(
        ge=0, description="CPU seconds of all threads of the process from the untrained network to its value"
    )
    passes: int = Field(
        ge=0,
        description="image-passes: images that the network was trained on, or measured with, each repetition counted",
    )
