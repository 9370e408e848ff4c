"""All jobs of a scenario: pre-training first, then scoring, in parallel; a journal keeps each record as a job ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd_apps.transfer.config import TransferScenario
from dd_apps.transfer.drawing import target_of
from dd_apps.transfer.jobs import JobRecord, Place, PretrainJob, ScoreJob, lost, pretrained, scored, target_facts
from dd_apps.transfer.preparing import Prepared
from dd_core.config import decode, digest, plain
from dd_core.networks.own import built
from dd_core.runner import RunOptions
from dd_core.store import Journal
from dd_core.system.parallel import Pool, Workers


@dataclass(frozen=True)
class Results:
    """The records of scoring by (row, backbone, seed, target), and of pre-training by (row, backbone, seed)."""

    scores: Mapping[tuple[str, str, int, str], JobRecord]
    pretraining: Mapping[tuple[str, str, int], JobRecord]
    images: Mapping[str, tuple[int, int]]  # training and test images of each target


def run_jobs(scenario: TransferScenario, prepared: Prepared, folder: Path, options: RunOptions) -> Results:
    """Run the jobs that `folder` lacks: an interrupted call resumes, a finished one trains nothing.

    Raises `UserError` before the first job for a backbone or a target that does not fit the source's images.
    """
    workers = options.workers or Workers(count=scenario.workers)
    shape = prepared.source.image_shape
    for backbone in scenario.backbones:
        built(backbone, shape, outputs=2, seed=0)
    facts: dict[str, list[Any]] = {}
    images: dict[str, tuple[int, int]] = {}
    for target in scenario.targets:
        train, test = target_of(target, shape, skip_corrupt=scenario.skip_corrupt, seed=scenario.seed)
        facts[target.called] = target_facts(train, test, scenario.scores, scenario.fractions)
        images[target.called] = len(train), len(test)
    places = [
        Place(row.called, backbone, seed, prepared.lessons[row.called, seed], shape, options.device)
        for row in scenario.rows
        for backbone in scenario.backbones
        for seed in scenario.all_seeds
    ]
    book = Journal(folder=folder / "scores", work="transfer", contents="scores of")
    with book.locked(), Pool(workers) as pool:
        book.claim({"source": prepared.source.fingerprint()}, fresh=options.fresh)
        bench = _Bench(scenario, folder / "weights", workers.threads, pool, book, options, facts)
        return bench.run(places, images)


@dataclass(frozen=True)
class _Bench:
    scenario: TransferScenario
    weights: Path
    threads: int
    pool: Pool
    book: Journal
    options: RunOptions
    facts: Mapping[str, list[Any]]

    def run(self, places: list[Place], images: Mapping[str, tuple[int, int]]) -> Results:
        """Pre-train the backbones that missing scores need, and score them."""
        records = {record.key: record for record in self._records()}
        keys = {place: place.key(self.threads) for place in places}
        jobs = {
            (place.row, place.backbone, place.seed, target.called): self._job(place, keys[place], target)
            for place in places
            for target in self.scenario.targets
        }
        missing = {job.place for job in jobs.values() if job.key not in records}
        training = [
            PretrainJob(place, keys[place], self._file(keys[place]))
            for place in places
            if place.lesson is not None and self._untrained(place, keys[place], records, needed=place in missing)
        ]
        self._do(pretrained, training, records, name="pre-training")
        failed = {key for key, record in records.items() if record.reason is not None}
        waiting = [job for job in jobs.values() if job.key not in records and keys[job.place] not in failed]
        self._do(scored, waiting, records, name="scoring")
        if not self.scenario.keep_weights:
            self._remove(keys.values())
        named = {(place.row, place.backbone, place.seed): keys[place] for place in places if place.lesson is not None}
        results = {name: records.get(job.key) or records[keys[job.place]] for name, job in jobs.items()}
        return Results(results, {name: records[key] for name, key in named.items()}, images)

    def _untrained(self, place: Place, key: str, records: Mapping[str, JobRecord], *, needed: bool) -> bool:
        """Whether a backbone must be pre-trained: for the first time, or because a needed file of weights is gone."""
        if key not in records:
            return True
        return records[key].reason is None and not self._file(key).exists() and (needed or self.scenario.keep_weights)

    def _job(self, place: Place, key: str, target: Any) -> ScoreJob:
        scenario = self.scenario
        return ScoreJob(
            place,
            digest([key, self.facts[target.called]]),
            None if place.lesson is None else self._file(key),
            target,
            scenario.scores,
            scenario.fractions,
            scenario.seed,
            scenario.skip_corrupt,
        )

    def _do(self, function: Callable[[Any], JobRecord], jobs: list[Any], records: dict[str, JobRecord], *, name: str):
        if not jobs:
            return
        with self.options.reporter.stage(name, total=len(jobs)) as stage:
            for _, record in self.pool.as_finished(function, jobs, lost=lost):
                records[record.key] = record
                self.book.append(plain(record))
                stage.advance()

    def _records(self) -> list[JobRecord]:
        return [decode(JobRecord, line, where=str(self.book.folder)) for line in self.book.records()]

    def _file(self, key: str) -> Path:
        return self.weights / f"{key[:24]}.safetensors"

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._file(key).unlink(missing_ok=True)
        with suppress(OSError):
            self.weights.rmdir()
