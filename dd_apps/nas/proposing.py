"""NNI's strategies, made from their configs: each is seeded and maximises, and none sleeps between trials."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dd_apps.nas import spaces  # spaces imports nni without its warnings
from dd_apps.nas.strategies import EvolutionConfig, GridConfig, RandomConfig, StrategyConfig
from dd_core import streams
from dd_core.errors import UserError

import nni  # isort: skip
from nni.algorithms.hpo.tpe_tuner import TpeTuner  # isort: skip
from nni.nas.space import ExecutableModelSpace  # isort: skip
from nni.nas.strategy import GridSearch, Random, RegularizedEvolution  # isort: skip
from nni.nas.strategy.base import Strategy  # isort: skip
from nni.nas.strategy.hpo import HPOTunerStrategy  # isort: skip


def proposer(config: StrategyConfig, *, seed: int) -> Strategy:
    """The strategy of a config; its draws come from `seed` alone."""
    number = streams.counter(seed, "search", 0) % 2**32  # in the range that numpy's RandomState takes
    if isinstance(config, RandomConfig):
        return Random(seed=number)
    if isinstance(config, GridConfig):
        return GridSearch(shuffle=config.shuffle, seed=number)
    if isinstance(config, EvolutionConfig):
        return Evolution(seed=number, **config.model_dump(exclude={"name"}))
    # NNI's default minimises, and would look for the worst networks
    tuner = TpeTuner(optimize_mode="maximize", seed=number, tpe_args={"n_startup_jobs": config.startup})
    return TunerSearch(tuner)


class Evolution(RegularizedEvolution):
    """Regularized evolution that draws a random sample while the population is empty.

    NNI's own class raises then, which happens if all models of the first population run at the same time.
    """

    def new_individual(self) -> ExecutableModelSpace:
        """A mutation of a parent, or a random sample without a population."""
        return super().new_individual() if self._population else self.random()


class TunerSearch(HPOTunerStrategy):
    """A tuner as a strategy; NNI's own loop sleeps for a second after each trial."""

    def _run(self) -> None:
        self.tuner.update_search_space(_legacy(self.model_space))
        while self.wait_for_resource():
            try:
                sample: spaces.Sample = self.tuner.generate_parameters(self._model_count)
            except nni.NoMoreTrialError:
                return
            model = self.model_space.freeze(sample)
            self._model_to_id[model] = self._model_count
            self._model_count += 1
            self.engine.submit_models(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence NNI within the block: its strategies log to stdout."""
    logger = logging.getLogger("nni")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _legacy(space: ExecutableModelSpace) -> dict:
    choices = {}
    for label, leaf in space.simplify().items():
        try:
            choices[label] = leaf.as_legacy_dict()
        except NotImplementedError:
            kind = type(leaf).__name__
            raise UserError(f"tpe: '{label}' is a {kind}; use another strategy, or single choices only") from None
    return choices
