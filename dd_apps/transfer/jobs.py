"""The jobs of workers: pre-train a backbone on a row's lesson, or score it on a target; and the records of both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import nn

from dd_apps.transfer.config import TargetConfig
from dd_apps.transfer.drawing import target_of
from dd_apps.transfer.fine_tuning import fine_tune
from dd_apps.transfer.preparing import Lesson, Whole
from dd_apps.transfer.pretraining import pretrain
from dd_apps.transfer.probes import Features
from dd_apps.transfer.scores import TransferScore
from dd_apps.transfer.settings import FineTuning, ScoringConfig
from dd_apps.transfer.weights import load_backbone, save_backbone
from dd_core import artefacts, store
from dd_core.artefacts import Resources
from dd_core.config import Config, canonical, digest, plain
from dd_core.errors import Diverged
from dd_core.images import InputForm, Source
from dd_core.networks.own import built
from dd_core.system import device as devices
from dd_core.training.feature_teachers import FeatureTeacherSpec, backbone_of

KEPT = 2  # number of targets whose images a worker keeps in memory


@dataclass(frozen=True)
class Place:
    """One row for one backbone under one seed."""

    row: str
    backbone: str
    seed: int
    lesson: Lesson | None
    image_shape: tuple[int, int, int]
    device: str

    def facts(self, threads: int) -> dict[str, Any]:
        """All that determines the weights."""
        lesson = None if self.lesson is None else [self.lesson.digest, plain(self.lesson.recipe)]
        environment = devices.environment(devices.resolve(self.device)).model_copy(update={"threads": threads})
        return {
            "lesson": lesson,
            "backbone": self.backbone,
            "seed": self.seed,
            "image_shape": list(self.image_shape),
            "environment": plain(environment),
        }

    def key(self, threads: int) -> str:
        """A digest that names the weights."""
        return digest(self.facts(threads))


@dataclass(frozen=True)
class PretrainJob:
    """Pre-train, and write the weights to `out`."""

    place: Place
    key: str
    out: Path


@dataclass(frozen=True)
class ScoreJob:
    """Score the backbone in the file `weights` on a target; None: a backbone with its initial weights."""

    place: Place
    key: str
    weights: Path | None
    target: TargetConfig
    scores: tuple[ScoringConfig, ...]
    fractions: tuple[float, ...]
    images_seed: int
    skip_corrupt: bool


class JobRecord(Config):
    """The outcome of a job, as a line of the journal; `reason` says why it has no scores, or no weights.

    values: by the name of the way of scoring, then by fraction; remarks: notes on the training, for the report.
    """

    key: str
    values: dict[str, dict[str, TransferScore]] = Field(default={})
    reason: str | None = None
    remarks: tuple[str, ...] = ()
    seconds: float = Field(default=0.0, ge=0)


def pretrained(job: PretrainJob) -> JobRecord:
    """Pre-train a backbone; if training diverges, the record gives the reason."""
    begun, said, place = time.perf_counter(), list[str](), job.place
    assert place.lesson is not None
    ds = store.read_set(place.lesson.file)
    try:
        if place.lesson.whole is not None:
            model = _of_whole(place, place.lesson.whole)
        else:
            options: dict[str, Any] = {"seed": place.seed, "device": place.device, "say": said.append}
            model = pretrain(place.backbone, ds, recipe=place.lesson.recipe, **options)
    except Diverged as error:
        return JobRecord(key=job.key, reason=str(error), seconds=time.perf_counter() - begun)
    save_backbone(model, job.out, backbone=place.backbone, ds=ds)
    return JobRecord(key=job.key, remarks=tuple(said), seconds=time.perf_counter() - begun)


def _of_whole(place: Place, whole: Whole) -> nn.Module:
    """The backbone after self-supervised training on all images; it is an artefact, which is made once."""
    config = whole.teacher.model_copy(update={"network": place.backbone, "seed": place.seed})
    resources = Resources.of([whole.source], device=place.device)
    return backbone_of(artefacts.get(FeatureTeacherSpec.of(whole.source, config), resources=resources)).network


def scored(job: ScoreJob) -> JobRecord:
    """Score a backbone in every way at every fraction; if anything diverges, the record gives the reason."""
    begun, said, place = time.perf_counter(), list[str](), job.place
    train, test = _images(job)
    # images are normalised as those of the set; without a set, by the target's own mean and std
    form = InputForm.of(train) if place.lesson is None else store.read_set(place.lesson.file).input_form()
    model = _backbone(job)
    frozen: Features | None = None
    values: dict[str, dict[str, TransferScore]] = {}
    try:
        for settings in job.scores:
            by_fraction = values.setdefault(settings.called, {})
            if not isinstance(settings, FineTuning) and frozen is None:
                frozen = Features.of(model, train, test, form=form, device=place.device)
            for fraction in job.fractions:
                if isinstance(settings, FineTuning):
                    ways: dict[str, Any] = {"fraction": fraction, "seed": place.seed, "device": place.device}
                    score = fine_tune(model, train, test, form=form, settings=settings, say=said.append, **ways).score
                else:
                    assert frozen is not None
                    score = frozen.score(settings, fraction=fraction, seed=place.seed, device=place.device)
                by_fraction[f"{fraction:g}"] = score
    except Diverged as error:
        return JobRecord(key=job.key, reason=str(error), seconds=time.perf_counter() - begun)
    remarks = tuple(dict.fromkeys(said))
    return JobRecord(key=job.key, values=values, remarks=remarks, seconds=time.perf_counter() - begun)


def _backbone(job: ScoreJob) -> nn.Module:
    place = job.place
    if job.weights is None:
        return built(place.backbone, place.image_shape, outputs=1, seed=place.seed)
    return load_backbone(job.weights, backbone=place.backbone).model


_held: dict[str, tuple[Source, Source]] = {}


def _images(job: ScoreJob) -> tuple[Source, Source]:
    """The target's images; this process keeps those of the last two targets in memory."""
    shape = job.place.image_shape
    key = canonical([plain(job.target), list(shape), job.skip_corrupt, job.images_seed])
    if key not in _held:
        while len(_held) >= KEPT:
            del _held[next(iter(_held))]
        _held[key] = target_of(job.target, shape, skip_corrupt=job.skip_corrupt, seed=job.images_seed)
    return _held[key]


def lost(job: PretrainJob | ScoreJob) -> JobRecord:
    """The record of a job whose worker processes died."""
    return JobRecord(key=job.key, reason="its worker process died at every attempt, most likely for lack of memory")


def target_facts(train: Source, test: Source, scores: Sequence[ScoringConfig], fractions: Sequence[float]) -> list[Any]:
    """All that determines the scores of given weights."""
    return [train.fingerprint(), test.fingerprint(), [plain(score) for score in scores], list(fractions)]
