"""A search's fields: the strategy by its name, its options, the budget. A scenario holds them, so torch stays out."""

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
    shuffle: bool = Field(default=True, description="whether each 100 samples are tried in random order")


class EvolutionConfig(Config):
    """Regularized evolution: the best of a few of the youngest networks is mutated (Real et al. 2019, Algorithm 1)."""

    name: Literal["evolution"] = "evolution"
    population_size: int = Field(default=20, ge=1, description="networks that are young enough to be parents")
    sample_size: int = Field(default=5, ge=1, description="networks of the population of which the best is the parent")
    mutation_prob: float = Field(default=0.05, gt=0, le=1, description="probability that a choice is drawn anew")

    @model_validator(mode="after")
    def _sample_within_population(self) -> EvolutionConfig:
        if self.sample_size > self.population_size:
            raise ValueError(f"sample_size {self.sample_size} is more than population_size {self.population_size}")
        return self


class TPEConfig(Config):
    """Tree-structured Parzen estimator: samples like the best and unlike the others (Bergstra et al. 2011)."""

    name: Literal["tpe"] = "tpe"
    startup: int = Field(default=20, ge=1, description="random trials before the estimator chooses")


StrategyConfig = RandomConfig | GridConfig | EvolutionConfig | TPEConfig
STRATEGIES: dict[str, type[StrategyConfig]] = {
    **{"random": RandomConfig, "grid": GridConfig, "evolution": EvolutionConfig, "tpe": TPEConfig}
}


class SearchConfig(Config):
    """What decides, with the space and the trial, which samples a search tries."""

    strategy: StrategyConfig = Field(
        default=RandomConfig(),
        discriminator="name",
        description="name of the search strategy (random, grid, evolution, tpe), and its options",
    )
    max_trials: int | None = Field(default=None, ge=1, description="trials after which the search ends")
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="budget instead of max_trials, in seconds of trials; becomes a number of trials once, by measuring",
    )
    batch: int = Field(
        default=4, ge=1, description="samples that the strategy proposes before it learns their values; run in parallel"
    )
    seed: int = Field(default=0, ge=0, description="seed of the search strategy's draws")
    noisy: bool = Field(
        default=False, description="whether a sample is trained again where the strategy proposes it again"
    )
    asynchronous: bool = Field(
        default=False,
        description="whether the strategy learns each value at once; which trial ends first then changes the search",
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
        """How many trials, at the beginning, the strategy draws without learning from any."""
        if isinstance(self.strategy, EvolutionConfig):
            return self.strategy.population_size
        return self.strategy.startup if isinstance(self.strategy, TPEConfig) else 0

    def identity(self) -> dict[str, JsonValue]:
        """The fields that decide which samples are tried; a search of more trials is the same search."""
        return self.model_dump(mode="json", exclude={"max_trials", "max_seconds"})
