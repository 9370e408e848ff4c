"""The jobs of an evaluation: training and testing one network is one job, which runs in any process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from dd_core.artefacts import Artefact
from dd_core.config import Config, plain
from dd_core.errors import Diverged
from dd_core.evaluation.protocol import EvaluationProtocol, Setting
from dd_core.evaluation.records import Record, digest_of
from dd_core.evaluation.twins import Twin
from dd_core.images import InputForm, Source, require_labels
from dd_core.networks.own import Network, built
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Reporter
from dd_core.training import TrainingData, initialised, predictions
from dd_core.training.bank import Bank
from dd_core.training.own_augmentation import Augmentation


@dataclass(frozen=True)
class Job:
    """A network to train on `data` and to test, under one setting after another.

    The network is drawn by `seed`, unless it is network `index` of the pool `start`. attack: labels of the attacked
    class and of the class that networks should give it. trial: whether the job helps to choose a setting; its score is
    then 0 where training diverges. teacher: labels views, where the recipe has a teacher; bank: has these labels
    already. own, augmentation: the caller's, instead of the recipe's.
    """

    protocol: EvaluationProtocol
    data: TrainingData | Twin
    recipe: Recipe
    seed: int
    test: Source
    form: InputForm
    device: str
    start: Artefact | None = None
    index: int = 0
    settings: Sequence[Setting] = ({},)
    attack: tuple[int, int] | None = None
    trial: bool = False
    teacher: Artefact | None = None
    bank: Bank | None = None
    own: Network | None = None
    augmentation: Augmentation | None = None
    records: tuple[Record, ...] = ()  # one for each setting, where scores are kept

    def ready(self) -> Job:
        """The job with its twin's pixels."""
        return replace(self, data=self.data.data()) if isinstance(self.data, Twin) else self

    @property
    def torch_device(self) -> torch.device:
        """The device of the job: the CPU where the protocol trains no network."""
        return devices.resolve(self.device if self.protocol.trains_networks else "cpu")


class Outcome(Config):
    """The scores of one network under one setting, as fractions of test images in [0, 1]."""

    accuracy: float
    before: float | None = None
    success: float | None = None
    others: float | None = None


@dataclass(frozen=True)
class Execution:
    """How jobs are run; of these settings only the threads of `workers` can change a score.

    keep: the folder that keeps each finished network's score; fresh: whether scores of earlier calls are ignored.
    """

    workers: Workers
    reporter: Reporter
    keep: Path | None = None
    fresh: bool = False

    def run(self, jobs: Mapping[str, Sequence[Job]], *, name: str) -> dict[str, list[list[Outcome]]]:
        """The outcomes of all jobs by kind, one for each setting of a job; `name` names the work in reports."""
        every = self._with_records(chain(*jobs.values()))
        outcomes = {position: kept for position, job in enumerate(every) if (kept := _kept(job)) is not None}
        missing = [position for position in range(len(every)) if position not in outcomes]
        if outcomes:
            self.reporter.message(f"{name}: {len(outcomes)} of {len(every)} are kept from an earlier call")
        if missing:
            with self.reporter.stage(name, total=len(every), first=len(outcomes)) as stage:
                results = parallel.run(work, _Ready([every[position] for position in missing]), workers=self.workers)
                for position, result in zip(missing, results, strict=True):
                    outcomes[position] = result
                    stage.advance({"accuracy": max(outcome.accuracy for outcome in result)})
        in_order = iter([outcomes[position] for position in range(len(every))])
        return {kind: list(islice(in_order, len(members))) for kind, members in jobs.items()}

    def _with_records(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs, with the records of their scores where `keep` is given."""
        if self.keep is None:
            return list(jobs)
        digests: dict[int, str] = {}  # by object identity: all jobs of a set share one object
        recorded: list[Job] = []
        for job in jobs:
            for value in (job.data, job.form):
                if id(value) not in digests:  # a twin is read here too, and not kept
                    digests[id(value)] = digest_of(value.data() if isinstance(value, Twin) else value)
            facts = {"data": digests[id(job.data)], "form": digests[id(job.form)], **self._facts(job)}
            records = [Record(self.keep, {**facts, "setting": setting}, self.fresh) for setting in job.settings]
            recorded.append(replace(job, records=tuple(records)))
        return recorded

    def _facts(self, job: Job) -> dict[str, Any]:
        """Everything beside `data` and `form` that determines the scores of a job."""
        environment = devices.environment(job.torch_device).model_copy(update={"threads": self.workers.threads})
        teacher = {} if job.teacher is None else {"teacher": job.teacher.content}
        teacher |= {} if job.bank is None else {"bank": job.bank.artefact.content}
        return {
            **teacher,
            "protocol": [job.protocol.name, job.protocol.version],
            "recipe": plain(job.recipe),
            "seed": job.seed,
            "test": job.test.fingerprint(),
            "start": None if job.start is None else [job.start.content, job.index],
            "attack": job.attack,
            "trial": job.trial,
            "environment": plain(environment),
        }


@dataclass(frozen=True)
class _Ready(Sequence[Job]):
    """Jobs that are made ready one by one, as they are taken."""

    jobs: Sequence[Job]

    def __len__(self) -> int:
        return len(self.jobs)

    @overload
    def __getitem__(self, at: int) -> Job: ...
    @overload
    def __getitem__(self, at: slice) -> _Ready: ...
    def __getitem__(self, at: int | slice) -> Job | _Ready:
        return _Ready(self.jobs[at]) if isinstance(at, slice) else self.jobs[at].ready()


def work(job: Job) -> list[Outcome]:
    """Train and test the network of a job under each setting, except where a record keeps the score."""
    if not job.records:
        return [_outcome(job, setting) for setting in job.settings]
    return [_recorded(job, setting, record) for setting, record in zip(job.settings, job.records, strict=True)]


def _kept(job: Job) -> list[Outcome] | None:
    """The kept outcomes of all settings; None where one is missing."""
    outcomes = [record.read(Outcome) for record in job.records]
    kept = [outcome for outcome in outcomes if outcome is not None]
    return kept if len(kept) == len(job.settings) else None


def _recorded(job: Job, setting: Setting, record: Record) -> Outcome:
    # written here and not by the parent process, which may have been killed meanwhile
    outcome = record.read(Outcome)
    if outcome is None:
        outcome = _outcome(job, setting)
        record.write(outcome)
    return outcome


def _outcome(job: Job, setting: Setting) -> Outcome:
    if job.trial:
        try:
            return Outcome(accuracy=_accuracy(job, _trained(job, setting)))
        except Diverged:
            return Outcome(accuracy=0.0)
    before, model = _before(job), _trained(job, setting)
    return Outcome(accuracy=_accuracy(job, model), before=before, **_under_attack(job, model))


def _trained(job: Job, setting: Setting) -> nn.Module:
    own, shape = job.own, job.test.image_shape
    data = job.data
    assert not isinstance(data, Twin), "jobs are made ready before they run"
    model = None if own is None else built(own, shape, outputs=data.classes, seed=job.seed)
    given: dict[str, Any] = {"teacher": job.teacher, "bank": job.bank, "model": model, "augmentation": job.augmentation}
    return job.protocol.fit(
        data,
        job.recipe,
        setting=setting,
        streams=Streams(job.seed),
        device=job.torch_device,
        start=job.start,
        index=job.index,
        **{name: value for name, value in given.items() if value is not None},
    )


def _accuracy(job: Job, model: nn.Module) -> float:
    return job.protocol.score(model, job.test, job.form, device=job.torch_device)


def _before(job: Job) -> float | None:
    """The score of a pre-trained network before it learns from the set; None for a network that is not pre-trained."""
    pool = job.recipe.weights
    if job.start is None or pool is None or pool.pretraining is None:
        return None
    shape, streams = job.test.image_shape, Streams(job.seed)
    return _accuracy(
        job, initialised(job.recipe, shape, job.data.classes, streams=streams, start=job.start, index=job.index)
    )


def _under_attack(job: Job, model: nn.Module) -> dict[str, float]:
    """The success rate of an attack, and the accuracy on all other classes; empty without an attack."""
    if job.attack is None:
        return {}
    attacked, target = job.attack
    labels = require_labels(job.test)
    guesses = predictions(model, job.test, job.form, device=job.torch_device)
    victims = labels == attacked
    return {
        "success": (guesses[victims] == target).float().mean().item(),
        "others": (guesses == labels)[~victims].float().mean().item(),
    }
