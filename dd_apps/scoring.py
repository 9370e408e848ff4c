"""Scoring of a distilled set on several networks in turn, with warnings: shared by the tasks and the command line.

Imports no torch: the command line checks names before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dd_core import evaluation, training
from dd_core.distilled import DistilledSet
from dd_core.errors import unknown_name
from dd_core.evaluation import protocols
from dd_core.networks.import_paths import check_network
from dd_core.recipe import DISTRIBUTIONS, check_mode
from dd_core.system import surroundings
from dd_core.system.reporter import Silent
from dd_core.training.teacher_config import TeacherConfig

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation
    from dd_core.images import Source
    from dd_core.runner import RunOptions


Start = Literal["default", "xavier", "pretrained"]
SCORES = "scores"  # the folder, beside a run's set or in the cache, of the scores that are kept


@dataclass(frozen=True)
class Scoring:
    """Settings of scoring a set. Where networks, start or teacher are not given, the set's own are used."""

    protocol: str = "recipe"
    networks: Sequence[str] = ()
    nets: int = 5
    seed: int = 0
    start: str | None = None
    pretrain_on: Source | None = None
    teacher: TeacherConfig | None = None
    teacher_mode: str | None = None
    bank: Path | None = None


@dataclass(frozen=True)
class Scored:
    """The set's evaluation on each network, and warnings for the reader."""

    evaluations: Sequence[Evaluation]
    warnings: Sequence[str] = field(default=())


@surroundings.own()
def score(
    ds: DistilledSet, train: Source, test: Source, scoring: Scoring, *, options: RunOptions, keep: Path | None = None
) -> Scored:
    """Evaluate on each network in turn; raises `UserError` where set and data do not belong together.

    keep: folder for the scores of finished networks, from which an interrupted call resumes; None: they are not kept.
    """
    warnings = list(_other_data(ds, train))
    for warning in warnings:
        options.reporter.message(f"warning: {warning}")
    evaluations: list[Evaluation] = []
    networks = scoring.networks or (None,)
    bank = None if scoring.bank is None else training.opened_bank(scoring.bank)
    stages = Silent() if len(networks) == 1 else options.reporter  # a bar over one network tells nothing
    with stages.stage("kinds of network", total=len(networks)) as stage:
        for network in networks:
            options.reporter.message(_plan(ds, train, scoring, network))
            scored = evaluation.evaluate(
                ds,
                train=train,
                test=test,
                network=network,
                protocol=scoring.protocol,
                nets=scoring.nets,
                seed=scoring.seed,
                start=scoring.start,
                pretrain_on=scoring.pretrain_on,
                teacher=scoring.teacher,
                teacher_mode=scoring.teacher_mode,
                bank=bank,
                workers=options.workers,
                device=options.device,
                reporter=options.reporter,
                keep=keep,
                fresh=options.fresh,
            )
            evaluations.append(scored)
            stage.advance()
    elsewhere = list(_other_start(evaluations))
    for warning in elsewhere:
        options.reporter.message(f"warning: {warning}")
    return Scored(evaluations, [*warnings, *elsewhere])


def _plan(ds: DistilledSet, train: Source, scoring: Scoring, network: str | None) -> str:
    """One line that announces what is about to be trained or scored."""
    protocol, own = protocols.load(scoring.protocol), ds.manifest.recipe
    recipe = protocol.recipe(own, source_name=train.name)
    learner = protocol.learner(recipe.model_copy(update={"network": network or recipe.network}))
    settings = len(protocol.settings(images=ds.decoded_count))
    first = f"choosing from {settings} settings on validation images, then " if settings else ""
    if not protocol.trains_networks:
        return f"{learner}: {first}scoring the set, and {scoring.nets} draws of random real images"
    ours = "one particular network" if own.for_one_network and scoring.start is None else scoring.nets
    if "pretrained" in (scoring.start, own.initialisation) and scoring.start not in DISTRIBUTIONS:
        first += "pre-training networks that are not in the cache, then "
    return f"{learner}: {first}training {ours} on the set, {scoring.nets} on random real images"


def _other_data(ds: DistilledSet, train: Source) -> Iterator[str]:
    made = ds.manifest.provenance
    if made is not None and made.fingerprint != train.fingerprint():
        yield (
            f"this set was distilled from other training images (source {made.source}, fingerprint "
            f"{made.fingerprint[:12]}...; the ones given have {train.fingerprint()[:12]}...)"
        )


def _other_start(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    for scored in evaluations:
        if not scored.as_meant:
            meant, network, start = scored.made_for, scored.network, scored.start
            what = "one particular network" if meant.startswith("sha256:") else f"networks with '{meant}' weights"
            yield f"this set is for {what}, and is scored on a {network} that starts from '{start}' weights"


def check_names(
    *, protocol: str, networks: Sequence[str], start: str | None = None, teacher_mode: str | None = None
) -> None:
    """Raise `UserError` for names that do not exist or do not go together, without loading torch."""
    protocols.load(protocol).check(networks, start=start is not None)
    if start is not None and start not in get_args(Start):
        raise unknown_name("start", start, get_args(Start))
    if teacher_mode is not None:
        check_mode(teacher_mode)
    for network in networks:
        check_network(network)
