"""A budget in seconds becomes a number of trials once, by a measurement that the folder of the search keeps.

Afterwards no clock matters: a resumed search, even on a busier machine, keeps its number of trials.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from numpy.random import RandomState
from pydantic import Field

from dd_apps.nas import spaces  # spaces imports nni without its warnings
from dd_apps.nas.strategies import SearchConfig
from dd_apps.nas.trials import Attempt, Outcome, TrialFunction, died
from dd_apps.report.words import several
from dd_core import store, streams
from dd_core.config import Config, decode
from dd_core.errors import Option, UserError
from dd_core.system.parallel import Pool
from dd_core.system.reporter import Reporter

from nni.nas.nn.pytorch import ModelSpace  # isort: skip
from nni.nas.space import SimplifiedModelSpace  # isort: skip

MEASURED = 4  # least number of trials that are measured


class Pace(Config):
    """The pace of trials by the wall clock, with as many trials in parallel as in the search."""

    seconds_a_trial: float = Field(gt=0)
    trials: int = Field(ge=1, description="number of random samples that were measured")
    workers: int = Field(ge=1)

    def trials_within(self, seconds: float) -> int:
        """The number of trials that end within the seconds, at least one."""
        return max(1, math.floor(seconds / self.seconds_a_trial))


def trials_of(
    config: SearchConfig,
    space: ModelSpace,
    trial: TrialFunction,
    pool: Pool,
    *,
    folder: Path | None,
    fresh: bool,
    reporter: Reporter,
) -> int:
    """The number of trials of a search: that of its config, or as many as fit into the config's seconds.

    The pace is measured once and kept in `folder`; the measurement comes on top of the budget. Raises `UserError` where
    every measured trial fails.
    """
    if config.max_trials is not None:
        return config.max_trials
    assert config.max_seconds is not None
    pace = _kept(folder, fresh=fresh)
    if pace is None:
        pace = measured(config, space, trial, pool)
        if folder is not None:
            store.write_json(_file(folder), pace.model_dump())
    count = pace.trials_within(config.max_seconds)
    on = several(pace.workers, "worker")
    reporter.message(
        f"{config.max_seconds:g} s are {several(count, 'trial')}, at {pace.seconds_a_trial:.3g} s a trial on {on} "
        f"(measured once, on {pace.trials} random samples)"
    )
    return count


def measured(config: SearchConfig, space: ModelSpace, trial: TrialFunction, pool: Pool) -> Pace:
    """The pace of random samples, after each worker has loaded what trials need."""
    together = min(pool.workers.count, config.batch)
    count = together * -(-MEASURED // together)
    attempt, samples = Attempt(trial), _samples(space, together + count, seed=config.seed)
    outcomes = [*pool.run(attempt, samples[:together], lost=died)]
    begun = time.perf_counter()
    outcomes += pool.run(attempt, samples[together:], lost=died)
    seconds = time.perf_counter() - begun
    _require_value(outcomes)
    return Pace(seconds_a_trial=seconds / count, trials=count, workers=pool.workers.count)


def _samples(space: ModelSpace, count: int, *, seed: int) -> list[spaces.Sample]:
    """Random samples of the space."""
    draws = RandomState(streams.counter(seed, "pace", 0) % 2**32)
    model = SimplifiedModelSpace.from_model(space)
    samples = [model.random(random_state=draws).sample for _ in range(count)]
    return [dict(sample) for sample in samples if sample is not None]


def _require_value(outcomes: list[Outcome]) -> None:
    if all(outcome.value is None for outcome in outcomes):
        raise UserError(
            f"{Option('max_seconds')}: all {len(outcomes)} trials that measure the pace failed, the first: "
            f"{outcomes[0].reason}"
        )


def _kept(folder: Path | None, *, fresh: bool) -> Pace | None:
    """The pace that an earlier call measured, or None; `fresh` removes its file."""
    if folder is None or not (file := _file(folder)).exists():
        return None
    if fresh:
        with store.disk_errors(file):
            file.unlink()
        return None
    return decode(Pace, store.read_json(file), where=str(file))


def _file(folder: Path) -> Path:
    return folder / "pace.json"
