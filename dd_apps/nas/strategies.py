"""The fields of a search: strategy, options and budget. A scenario contains them, so nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from dd_core.config import Config
from dd_core.errors import unknown_name


class RandomConfig(Config):
    """Random search: samples of equal probability, none of them twice."""

    name: Literal["random"] = "random"


class GridConfig(Config):
    """Grid search: every sample of the space once."""

    name: Literal["grid"] = "grid"
    shuffle: bool = Field(default=True, description="true: samples are tried in random order within each 100")


class EvolutionConfig(Config):
    """Regularized evolution: mutates the best of a few networks of a population (Real et al. 2019, Algorithm 1)."""

    name: Literal["evolution"] = "evolution"
    population_size: int = Field(default=20, ge=1, description="number of latest networks, which may be parents")
    sample_size: int = Field(default=5, ge=1, description="networks drawn from the population; the best is the parent")
    mutation_prob: float = Field(default=0.05, gt=0, le=1, description="probability that a choice is drawn anew")

    @model_validator(mode="after")
    def _sample_within_population(self) -> EvolutionConfig:
        if self.sample_size > self.population_size:
            raise ValueError(f"sample_size {self.sample_size} is more than population_size {self.population_size}")
        return self


class TPEConfig(Config):
    """Tree-structured Parzen estimator: tries samples like the best and unlike the others (Bergstra et al. 2011)."""

    name: Literal["tpe"] = "tpe"
    startup: int = Field(default=20, ge=1, description="random trials before the estimator chooses")


StrategyConfig = RandomConfig | GridConfig | EvolutionConfig | TPEConfig
STRATEGIES: dict[str, type[StrategyConfig]] = {
    **{"random": RandomConfig, "grid": GridConfig, "evolution": EvolutionConfig, "tpe": TPEConfig}
}


class SearchConfig(Config):
    """The settings that decide, together with the space and the trial, which samples a search tries."""

    strategy: StrategyConfig = Field(
        default=RandomConfig(),
        discriminator="name",
        description="name of the search strategy (random, grid, evolution, tpe), and its options",
    )
    max_trials: int | None = Field(
        default=None, ge=1, description="number of trials after which the search ends; none: max_seconds is given"
    )
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="seconds of trials after which the search ends, instead of max_trials; a measurement at the "
        "beginning turns them into a number of trials",
    )
    batch: int = Field(
        default=4, ge=1, description="samples that the strategy proposes before it gets their values; run in parallel"
    )
    seed: int = Field(default=0, ge=0, description="seed of the search strategy's draws")
    noisy: bool = Field(
        default=False,
        description="true: a sample that the strategy proposes again is trained again; false: its value is repeated",
    )
    asynchronous: bool = Field(
        default=False,
        description="true: the strategy gets each value as soon as it is known, so the order in which trials end "
        "changes the search; false: it gets the values of a batch together",
    )

    @field_validator("strategy", mode="before")
    @classmethod
    def _known(cls, strategy: object) -> object:
        given = {"name": strategy} if isinstance(strategy, str) else strategy
        if isinstance(given, Mapping) and isinstance(name := given.get("name"), str) and name not in STRATEGIES:
            raise ValueError(unknown_name("search strategy", name, STRATEGIES).text)
        return given

    @model_validator(mode="after")
    def _one_budget(self) -> SearchConfig:
        if (self.max_trials is None) == (self.max_seconds is None):
            raise ValueError("give either max_trials or max_seconds")
        return self

    def random_trials(self) -> int:
        """The number of trials at the beginning that the strategy draws without learning from any."""
        if isinstance(self.strategy, EvolutionConfig):
            return self.strategy.population_size
        return self.strategy.startup if isinstance(self.strategy, TPEConfig) else 0

    def identity(self) -> dict[str, JsonValue]:
        """The fields that decide which samples are tried; a search of more trials is the same search."""
        return self.model_dump(mode="json", exclude={"max_trials", "max_seconds"})
