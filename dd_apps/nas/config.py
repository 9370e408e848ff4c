"""The keys of scenarios of the tasks `nas-rank` and `nas-search`, for example as below; imports neither torch nor nni.

task = "nas-rank"
data = "digits"
architectures = 40
truth = { epochs = 8, seeds = 2 }
sets.dm-10 = { method = { name = "dm" }, ipc = 10 }
proxies = [
  { kind = "distilled", set = "dm-10", passes = 3000 },
  { kind = "random", like = "dm-10", passes = 3000 },
  { kind = "zero-cost", measure = "synflow" },
]
averages = [["synflow", "dm-10"]]
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue, field_validator, model_validator

from dd_apps.data import DataScenario
from dd_apps.nas.proxies.config import ProxyConfig, sets_of
from dd_apps.nas.space_config import ConvNetsConfig, SpaceConfig
from dd_apps.nas.strategies import SearchConfig
from dd_apps.report.words import several
from dd_apps.task import Outcome
from dd_core.config import Config, decode
from dd_core.errors import UserError, unknown_name
from dd_core.methods import decode_method
from dd_core.recipe import Recipe

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

FEWEST = 3  # architectures that have a correlation
FILE = ".safetensors"  # suffix of `set` and `like` where they name a file


class MadeSet(Config):
    """A distilled set that is made from the training images, without those that validate proxies."""

    method: dict[str, JsonValue] = Field(description="name of the distillation method, and its options")
    ipc: int = Field(ge=1, description="images per class of the set")
    seed: int = Field(default=0, ge=0, description="seed of the distillation")

    @model_validator(mode="after")
    def _method_is_known(self) -> MadeSet:
        try:
            decode_method(self.method).require_labels_used("a proxy")
        except UserError as error:
            raise ValueError(error.text) from None
        return self


class TruthConfig(Config):
    """The true accuracies that proxies are compared with: a table, or full training."""

    file: str | None = Field(
        default=None, description="CSV file with the column 'architecture' and columns of accuracies in percent"
    )
    column: str | None = Field(
        default=None, description="column of the file that has the true accuracies; none: its only column"
    )
    epochs: int | None = Field(
        default=None, ge=1, description="epochs of full training on all training images, which replaces a file"
    )
    seeds: int = Field(default=2, ge=1, description="number of seeds under which each architecture is fully trained")
    recipe: dict[str, JsonValue] = Field(
        default={}, description="fields of the recipe of full training, such as learning_rate"
    )

    @model_validator(mode="after")
    def _one_truth(self) -> TruthConfig:
        if (self.file is None) == (self.epochs is None):
            raise ValueError("give either file (a table of accuracies) or epochs (of full training)")
        if self.file is None and self.column is not None:
            raise ValueError("column goes with file only; leave column out")
        if self.file is not None and self.recipe:
            raise ValueError("recipe goes with epochs (of full training), not with file; leave recipe out")
        try:
            _ = self.training
        except UserError as error:
            raise ValueError(error.text) from None
        return self

    @property
    def training(self) -> Recipe:
        """The recipe of full training."""
        return decode(Recipe, {**self.recipe, "epochs": self.epochs or 1}, key="recipe")


class NasScenario(DataScenario):
    """The keys that ranking and search share: space, images, and the sets of proxies."""

    images: int | None = Field(
        default=None, ge=2, description="number of training images that are used, drawn by the seed; none: all"
    )
    validation: float = Field(
        default=0.1, gt=0, lt=1, description="fraction of each class of the training images that validates proxies"
    )
    space: SpaceConfig = Field(
        default=ConvNetsConfig(), description="search space by its name (convnets, cells, own), and its options"
    )
    sets: dict[str, MadeSet] = Field(
        default={}, description="distilled sets that are made first, by the name that proxies use in `set` and `like`"
    )
    seed: int = Field(
        default=0, ge=0, description="seed of drawn images, of the search, of initial weights and of training"
    )
    workers: int = Field(default=1, ge=1, description="number of architectures that are scored in parallel")

    @field_validator("sets")
    @classmethod
    def _sets_have_names(cls, sets: dict[str, MadeSet]) -> dict[str, MadeSet]:
        for name in sets:
            if name.endswith(FILE) or not name or Path(name).name != name:
                raise ValueError(f"'{name}': expected a plain name such as dm-10, not a file")
        return sets

    def require_sets(self, proxies: Iterable[ProxyConfig]) -> None:
        """Raise ValueError for a proxy whose set is neither in `sets` nor a file, and for a set that no proxy uses."""
        used = [(config, name) for config in proxies for name in sets_of(config).values()]
        for name in self.sets.keys() - {name for _, name in used}:
            raise ValueError(f"sets: no proxy uses '{name}'")
        for config, name in used:
            if name not in self.sets and not name.endswith(FILE):
                known = [*self.sets, f"a file *{FILE}"]
                raise ValueError(f"proxy '{config.called}': {unknown_name('set', name, known).text}")

    @property
    def on(self) -> str:
        """Space and data, in words."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        return f"{self.space.name} on {self.data}{size}"


class RankScenario(NasScenario):
    """Proxies rank the same architectures, and are compared with the true ranking."""

    architectures: int | tuple[str, ...] = Field(
        default=60,
        description="number of architectures that the seed draws, from the truth's file if there is one, else from the "
        "space; or a list of their names",
    )
    truth: TruthConfig = Field(description="accuracies that proxies are compared with: a file, or full training")
    proxies: tuple[ProxyConfig, ...] = Field(min_length=1, description="proxies that are compared")
    averages: tuple[tuple[str, ...], ...] = Field(
        default=(), description="lists of proxies' names; for each list, the mean rank of its proxies is one more proxy"
    )

    @field_validator("architectures")
    @classmethod
    def _enough(cls, architectures: int | tuple[str, ...]) -> int | tuple[str, ...]:
        names = [*range(architectures)] if isinstance(architectures, int) else architectures
        if len({*names}) < max(FEWEST, len(names)):
            raise ValueError(f"expected at least {FEWEST} architectures, and none twice")
        return architectures

    @model_validator(mode="after")
    def _fits_together(self) -> RankScenario:
        self.require_sets(self.proxies)
        names = [config.called for config in self.proxies]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"proxies: two are called '{name}'; give one of them another name")
        for parts in self.averages:
            for name in parts:
                if name not in names:
                    raise ValueError(f"averages: {unknown_name('proxy', name, names).text}")
            if len({*parts}) < max(2, len(parts)):
                raise ValueError("averages: expected at least two proxies in a list, and none twice")
        if len({frozenset(parts) for parts in self.averages}) < len(self.averages):
            raise ValueError("averages: expected each list once")
        return self

    @property
    def title(self) -> str:
        """Number of architectures, space, data and truth, on one line."""
        count = self.architectures if isinstance(self.architectures, int) else len(self.architectures)
        truth = self.truth
        trained = truth.epochs and f"full training, {several(truth.epochs, 'epoch')}"
        source = trained or f"the table {truth.file}"
        return f"proxies of {count} architectures, {self.on}, against {source}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Make sets and truth, score every architecture, and compare."""
        from dd_apps.nas.rank_task import run_task  # loads torch and nni

        return run_task(self, folder, options)


class SearchScenario(NasScenario, SearchConfig):
    """One search by one proxy."""

    proxy: ProxyConfig = Field(description="proxy whose value the search maximises")
    best: int = Field(default=5, ge=1, description="number of best architectures that are reported, as table and code")

    @model_validator(mode="after")
    def _proxy_has_its_set(self) -> SearchScenario:
        self.require_sets([self.proxy])
        return self

    @property
    def search(self) -> SearchConfig:
        """The fields of the search alone."""
        return SearchConfig(**{name: getattr(self, name) for name in SearchConfig.model_fields})

    @property
    def title(self) -> str:
        """Strategy, space, data, proxy and budget, on one line."""
        budget = f"{self.max_seconds:g} s" if self.max_trials is None else f"{self.max_trials} trials"
        return f"{self.strategy.name} search of {self.on} by {self.proxy.called}, {budget}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Make the set, search, and report the best."""
        from dd_apps.nas.search_task import run_task  # loads torch and nni

        return run_task(self, folder, options)
