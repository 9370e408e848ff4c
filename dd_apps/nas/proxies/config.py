"""Proxies as a scenario writes them; imports no torch. `built` makes the proxy of a config.

proxies = [
  { kind = "distilled", set = "dm-10.safetensors", passes = 3000, by = "loss" },
  { kind = "random", like = "dm-10.safetensors", passes = 3000, by = "loss" },
  { kind = "early-stopping", like = "dm-10.safetensors", passes = 3000 },
  { kind = "zero-cost", measure = "synflow" },
]
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from dd_apps.nas import measures
from dd_apps.nas.proxies.scored import By
from dd_core.config import Config, checked, decode, plain
from dd_core.recipe import Recipe

Passes = Annotated[int, Field(ge=1)]


class _ValidatedConfig(Config):
    by: By = Field(
        default="accuracy",
        description="score that ranks: accuracy on the validation images, or loss (minus their mean cross-entropy)",
    )
    recipe: dict[str, JsonValue] = Field(
        default={},
        description="fields of the training recipe to change, such as learning_rate; other fields are those of the "
        "set's recipe, or defaults if no set is named",
    )
    name: str = Field(default="", description="name of the proxy in tables; empty: a name from its kind and its set")

    def trained_by(self, recipe: Recipe) -> Recipe:
        """`recipe` with the fields that the config changes; raises `UserError` for fields that a recipe lacks."""
        return decode(Recipe, {**plain(recipe), **self.recipe}, key="recipe") if self.recipe else recipe


class _TrainedConfig(_ValidatedConfig):
    passes: Passes | None = Field(
        default=None,
        description="image-passes (epochs times images) that a network is trained for, at most, in whole epochs; none: "
        "the recipe's epochs",
    )


class DistilledConfig(_TrainedConfig):
    """Train on a distilled set."""

    kind: Literal["distilled"]
    set: str = Field(description="distilled set that networks are trained on: a file, or a name of the table sets")

    @property
    def called(self) -> str:
        """The proxy's name in tables."""
        return self.name or self.set


class SubsetConfig(_TrainedConfig):
    """Train on as many real images as a distilled set has, by its recipe."""

    kind: Literal["random", "herding", "k-means"]
    like: str = Field(
        description="distilled set whose size, recipe and normalisation the subset gets: a file, or a name of the "
        "table sets"
    )
    seed: int = Field(default=0, ge=0, description="seed by which the subset is selected")

    @property
    def called(self) -> str:
        """The proxy's name in tables."""
        return self.name or f"{self.kind}, like {self.like}"


class PartConfig(_TrainedConfig):
    """Train on a random part of the training images, by the recipe of a distilled set."""

    kind: Literal["part"]
    like: str | None = Field(
        default=None,
        description="distilled set whose recipe and normalisation are used: a file, or a name of the table sets; none: "
        "the recipe's defaults, and the normalisation of the training images",
    )
    fraction: float = Field(
        default=0.25, gt=0, lt=1, description="fraction of each class of the training images that is trained on"
    )
    seed: int = Field(default=0, ge=0, description="seed by which the part of the training images is drawn")

    @property
    def called(self) -> str:
        """The proxy's name in tables."""
        return self.name or f"{self.fraction:g} of the images"


class EarlyStoppingConfig(_ValidatedConfig):
    """Train on all training images, by the recipe of a distilled set, and stop early."""

    kind: Literal["early-stopping"]
    like: str | None = Field(
        default=None,
        description="distilled set whose recipe and normalisation are used: a file, or a name of the table sets; none: "
        "the recipe's defaults, and the normalisation of the training images",
    )
    passes: Passes = Field(description="number of image-passes after which training stops")

    @property
    def called(self) -> str:
        """The proxy's name in tables."""
        return self.name or "early stopping"


class ZeroCostConfig(Config):
    """Measure the untrained network."""

    kind: Literal["zero-cost"]
    measure: str = Field(description="zero-cost measure: " + ", ".join(measures.names()))
    images: int | None = Field(
        default=None, ge=1, description="training images in the mini-batch of a measure; none: 64, and 128 for naswot"
    )
    like: str | None = Field(
        default=None,
        description="distilled set whose normalisation the images get: a file, or a name of the table sets; none: the "
        "normalisation of the training images",
    )
    name: str = Field(default="", description="name of the proxy in tables; empty: the measure's name")

    @field_validator("measure")
    @classmethod
    def _measure_is_known(cls, name: str) -> str:
        return checked(name, measures.by_name)

    @property
    def called(self) -> str:
        """The proxy's name in tables."""
        return self.name or self.measure


ProxyConfig = Annotated[
    DistilledConfig | SubsetConfig | PartConfig | EarlyStoppingConfig | ZeroCostConfig, Field(discriminator="kind")
]


def sets_of(config: ProxyConfig) -> dict[str, str]:
    """The distilled sets that a proxy names, by the config's field (`set` or `like`)."""
    named = {field: getattr(config, field, None) for field in ("set", "like")}
    return {field: name for field, name in named.items() if name is not None}
