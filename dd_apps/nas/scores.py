"""Scores of many architectures by many proxies, computed in parallel, each kept as soon as it is known.

Proxies that rank by accuracy and by loss (`by`) share one training, since a trained network has both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from dd_apps.nas import spaces
from dd_apps.nas.kit import Kit
from dd_apps.nas.proxies.config import ProxyConfig, ZeroCostConfig
from dd_apps.nas.trials import DIED, reason_of
from dd_core.config import Config, decode, plain
from dd_core.errors import Interrupted, Option, UserError
from dd_core.store import Journal
from dd_core.system.parallel import Pool, Workers
from dd_core.system.reporter import Reporter, Silent


class Score(NamedTuple):
    """The score of an architecture by a proxy, and its cost; see `proxies.Scored`.

    value: higher is better; None where the trial failed, for the `reason`. Unknown costs of a failed trial are 0; no
    mean of a report counts the costs of failed trials.
    """

    architecture: str
    value: float | None
    accuracy: float | None = None
    loss: float | None = None
    reason: str | None = None
    seconds: float = 0.0
    core_seconds: float = 0.0
    passes: int = 0


class _Record(Config):
    """A score as a line of the journal; `trial` is the digest of all that determines the score but the architecture."""

    architecture: str
    value: float | None
    accuracy: float | None = None
    loss: float | None = None
    reason: str | None = None
    seconds: float = Field(default=0.0, ge=0)
    core_seconds: float = Field(default=0.0, ge=0)
    passes: int = Field(default=0, ge=0)
    trial: str

    @property
    def score(self) -> Score:
        """The record without its trial."""
        return Score(**self.model_dump(exclude={"trial"}))


@dataclass(frozen=True, slots=True)
class _Job:
    """One architecture under one proxy of the kit."""

    kit: Kit
    architecture: str
    index: int
    trial: str


def score_all(
    kit: Kit,
    architectures: Sequence[str],
    *,
    workers: Workers | Pool | None = None,
    journal: Path | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, dict[str, Score]]:
    """The score of each architecture by each proxy of the kit: by the proxy's name in tables, then by architecture.

    A trial that raises has failed, for the reason in its score. journal: folder of finished scores, from which an
    interrupted call resumes, also with other architectures and proxies; fresh: discard these scores. Raises `UserError`
    for a journal of other images, space or seed, for a proxy that cannot be made, for an architecture that the space
    lacks, and where two proxies have the same name.
    """
    names = [config.called for config in kit.proxies]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"proxies are told apart by name; two are called '{min(twice)}'")
    tools, reporter = kit.tools(), reporter or Silent()
    trials = [tools.trial(index) for index in range(len(kit.proxies))]
    for index in range(len(kit.proxies)):
        tools.proxy(index)  # refuses a proxy that cannot be made before anything is scored
    for architecture in architectures:
        spaces.sample_of(tools.space, architecture)
    pool = Pool(workers) if workers is None or isinstance(workers, Workers) else nullcontext(workers)
    with _opened(kit, journal, fresh=fresh) as book, pool as slots:
        known = {} if book is None else {(line.trial, line.architecture): line.score for line in _lines(book)}
        jobs = {(job.trial, job.architecture): job for job in _jobs(kit, trials, architectures)}
        missing = [job for key, job in jobs.items() if key not in known]
        done = len(jobs) - len(missing)
        with reporter.stage("scoring architectures", total=len(jobs), first=done) as stage:
            for index, record in slots.as_finished(_scored, missing, lost=_lost):
                known[missing[index].trial, record.architecture] = record.score
                if book is not None:
                    book.append(plain(record))
                stage.advance()
    return {
        config.called: {name: _score(known[trial, name], config) for name in architectures}
        for config, trial in zip(kit.proxies, trials, strict=True)
    }


def _jobs(kit: Kit, trials: Sequence[str], architectures: Sequence[str]) -> Iterator[_Job]:
    """Jobs of zero-cost proxies first, since they are the cheapest and show errors early."""
    free = [index for index, config in enumerate(kit.proxies) if isinstance(config, ZeroCostConfig)]
    others = [index for index in range(len(kit.proxies)) if index not in free]
    for index in (*free, *others):
        for architecture in architectures:
            yield _Job(kit, architecture, index, trials[index])


def _scored(job: _Job) -> _Record:
    begun = time.perf_counter()
    try:
        tools = job.kit.tools()
        outcome: dict[str, Any] = plain(tools.score(job.index, spaces.sample_of(tools.space, job.architecture)))
    except Interrupted:
        raise
    except Exception as error:  # such as a network that cannot be built, that diverges, or that is too large
        outcome = {"value": None, "reason": reason_of(error), "seconds": time.perf_counter() - begun}
    return _Record.model_validate({**outcome, "trial": job.trial, "architecture": job.architecture})


def _lost(job: _Job) -> _Record:
    return _Record(trial=job.trial, architecture=job.architecture, value=None, reason=DIED)


def _score(score: Score, config: ProxyConfig) -> Score:
    """The score with the value by which the proxy ranks: accuracy or minus loss for a trained network."""
    if score.loss is None or isinstance(config, ZeroCostConfig):
        return score
    return score._replace(value=score.accuracy if config.by == "accuracy" else -score.loss)


@contextmanager
def _opened(kit: Kit, folder: Path | None, *, fresh: bool) -> Iterator[Journal | None]:
    if folder is None:
        yield None
        return
    book = Journal(folder=folder, work="scoring", option=Option("journal"), contents="scores of")
    with book.locked():
        book.claim(kit.tools().identity(), fresh=fresh)
        yield book


def _lines(book: Journal) -> list[_Record]:
    return [decode(_Record, line, where=str(book.folder)) for line in book.records()]
