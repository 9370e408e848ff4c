"""Architecture search: a strategy of NNI proposes samples of a space, and a trial gives each a value.

A trial is a function of a sample: it builds the network, scores it by a proxy, and returns the score, of which more is
better. With a journal, an interrupted search resumes: the strategy runs again from its start and gets recorded outcomes
in place of trials, so that it has its whole history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field, JsonValue, model_validator

from dd_apps.nas import spaces, timing
from dd_apps.nas.engine import Ledger, PoolExecutionEngine
from dd_apps.nas.proposing import proposer, quiet
from dd_apps.nas.strategies import SearchConfig
from dd_apps.nas.streaming import StreamingEngine
from dd_apps.nas.trials import Outcome, TrialFunction, key_of
from dd_core.config import Config, decode
from dd_core.errors import FRESH, Option, UserError
from dd_core.store import Journal
from dd_core.system.parallel import Pool, Workers
from dd_core.system.progress import reporting
from dd_core.system.reporter import Reporter, Silent, Stage

from nni.nas.nn.pytorch import ModelSpace  # isort: skip (spaces imports nni without its warnings)
from nni.nas.space import SimplifiedModelSpace  # isort: skip

_JOURNAL = Option("journal")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # address in a function's repr, which differs between processes


@dataclass(frozen=True)
class Trial:
    """One trial of a search: the `index`-th sample that the strategy proposed, and its outcome; see `Outcome`."""

    index: int
    architecture: str
    sample: spaces.Sample
    value: float | None
    reason: str | None
    seconds: float | None
    repeats: int | None


class Record(Config):
    """A trial that has ended, as a line of the journal."""

    index: int = Field(ge=0)
    architecture: str
    sample: dict[str, JsonValue]
    value: float | None
    reason: str | None
    seconds: float | None
    repeats: int | None

    @model_validator(mode="after")
    def _ended_once(self) -> Record:
        if (self.value is None) == (self.reason is None):
            raise ValueError("a trial ends with a value or with a reason")
        return self

    def outcome(self) -> Outcome:
        """The record's outcome."""
        return Outcome(self.value, self.reason, self.seconds, self.repeats)


class _JournalLedger(Ledger):
    """Reads the outcomes of earlier calls from a journal, and adds those of this call."""

    def __init__(self, space: ModelSpace, journal: Journal | None) -> None:
        lines = [] if journal is None else journal.records()
        records = [decode(Record, line, where=str(journal and journal.folder)) for line in lines]
        self.space, self.journal = space, journal
        self.stage: Stage = Silent()
        self.order = [record.index for record in records]
        self.records = {record.index: record for record in records}

    def recall(self, index: int, sample: spaces.Sample) -> Outcome | None:
        """The recorded outcome; raises `UserError` where the record is of another sample."""
        record = self.records.get(index)
        if record is None:
            return None
        if record.sample != _plain(sample):
            assert self.journal is not None
            raise UserError(
                f"{self.journal.folder}: its trial {index} is of {record.architecture}, but this search proposes "
                f"{spaces.architecture_of(self.space, sample)}; use another {_JOURNAL}, or {FRESH}"
            )
        return record.outcome()

    def note(self, index: int, sample: spaces.Sample, outcome: Outcome) -> None:
        """Record a trial that has ended."""
        if self.journal is not None:
            name = spaces.architecture_of(self.space, sample)
            self.journal.append({"index": index, "architecture": name, "sample": _plain(sample), **asdict(outcome)})
        self.stage.advance(None if outcome.value is None else {"value": outcome.value})


def search(
    space: ModelSpace,
    trial: TrialFunction,
    config: SearchConfig,
    *,
    workers: Workers | Pool | None = None,
    journal: Path | None = None,
    identity: Mapping[str, JsonValue] | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
    progress: bool = False,
) -> list[Trial]:
    """Every trial of a search, in the order in which the strategy proposed them.

    trial: gives a sample its value, of which more is better; workers need it to be picklable. A trial that raises, or
    whose value is not finite, has failed, and the search goes on. Space, trial and config determine the history, not
    the workers, unless the search is asynchronous. workers: run the trials; an open pool serves several searches.
    journal: folder of finished trials, from which an interrupted call, or a call with more trials, resumes. identity:
    all that determines the values of `trial`, required with a journal. fresh: discard the journal's trials. A budget in
    seconds becomes a number of trials once, which the journal keeps (`timing`). progress: show a bar of the trials if
    no `reporter` is given. Raises `UserError` for a journal of another search, and for a space that the strategy cannot
    search.
    """
    heard = reporting(reporter, progress=progress)
    pool = Pool(workers) if workers is None or isinstance(workers, Workers) else nullcontext(workers)
    with _opened(space, config, journal, identity, fresh=fresh) as book, pool as slots, quiet():
        ledger, where = _JournalLedger(space, book), book and book.folder
        trials = timing.trials_of(config, space, trial, slots, folder=where, fresh=fresh, reporter=heard)
        first = sum(index < trials for index in ledger.order)
        with heard.stage(f"{config.strategy.name} search", total=trials, first=first) as stage:
            ledger.stage = stage
            history = _history(space, _engine(slots, trial, config, trials, ledger), config)
    _comment(history, config, trials, slots, heard)
    return history


def best(history: Sequence[Trial], k: int = 1) -> list[Trial]:
    """The `k` trials with the highest values, the highest first; fewer if fewer trials have a value.

    Of equal values the earlier trial comes first. A trial that repeats an earlier trial's sample is left out.
    """
    own = [trial for trial in history if trial.repeats is None]
    scored = sorted((-trial.value, trial.index) for trial in own if trial.value is not None)
    return [history[index] for _, index in scored[:k]]


def _engine(pool: Pool, trial: TrialFunction, config: SearchConfig, trials: int, ledger: Ledger) -> PoolExecutionEngine:
    kind = StreamingEngine if config.asynchronous else PoolExecutionEngine
    return kind(pool, trial, max_trials=trials, batch=config.batch, noisy=config.noisy, ledger=ledger)


def _history(space: ModelSpace, engine: PoolExecutionEngine, config: SearchConfig) -> list[Trial]:
    """Run the strategy to its end, and wait for all models that it submitted."""
    try:
        proposer(config.strategy, seed=config.seed)(SimplifiedModelSpace.from_model(space), engine)
        engine.wait_models()
    finally:
        engine.shutdown()
    return [
        Trial(index, spaces.architecture_of(space, sample), sample, **asdict(outcome))
        for index, (sample, outcome) in enumerate(engine.trials())
    ]


def _comment(history: Sequence[Trial], config: SearchConfig, trials: int, pool: Pool, reporter: Reporter) -> None:
    """Tell the user of a search that ended early, that was only random, or that left workers idle."""
    name = config.strategy.name
    if len(history) < trials:
        reporter.message(f"{name} found no new sample after {len(history)} of {trials} trials")
    if trials <= config.random_trials():
        reporter.message(f"{name} learns nothing from its first {config.random_trials()} trials: this search is random")
    if pool.workers.count > config.batch:
        reporter.message(f"{pool.workers.count} workers: only {config.batch} had work, by {Option('batch')}")


@contextmanager
def _opened(
    space: ModelSpace,
    config: SearchConfig,
    folder: Path | None,
    trial: Mapping[str, JsonValue] | None,
    *,
    fresh: bool,
) -> Iterator[Journal | None]:
    """The journal of a search, if it has one."""
    if folder is None:
        yield None
        return
    if trial is None:
        raise UserError(f"{_JOURNAL} needs {Option('identity')}: all that determines the values of a trial")
    settings = {**config.identity(), "space": _identity(space), "trial": dict(trial)}
    journal = Journal(folder=folder, work="search", option=_JOURNAL, contents="a search with")
    with journal.locked():
        journal.claim(settings, fresh=fresh)
        yield journal


def _identity(space: ModelSpace) -> dict[str, JsonValue]:
    """The identity of a space: its class, its arguments, and its choices."""
    arguments = {**dict(enumerate(space.trace_args)), **space.trace_kwargs}
    choices = {label: [leaf, *getattr(leaf, "values", [])] for label, leaf in space.simplify().items()}
    return {
        "class": f"{type(space).__module__}.{type(space).__qualname__}",
        "arguments": {str(name): _text(value) for name, value in arguments.items()},
        "choices": {label: _text(values) for label, values in choices.items()},
    }


def _plain(sample: spaces.Sample) -> dict[str, JsonValue]:
    """A sample as JSON values."""
    return json.loads(_ADDRESS.sub("", key_of(sample)))


def _text(value: object) -> str:
    return _ADDRESS.sub("", repr(value))
