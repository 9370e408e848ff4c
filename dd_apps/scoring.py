"""How a set is scored on one network after the other, and what a reader is warned of: what the tasks share.

Imports no torch: the command line checks names before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from dd_core import evaluation, surroundings
from dd_core.distilled import DistilledSet
from dd_core.errors import unknown_name
from dd_core.evaluation.protocols import check_protocol, recipe_of, settings_of
from dd_core.networks.names import family
from dd_core.recipe import DISTRIBUTIONS

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation
    from dd_core.images import Source
    from dd_core.runner import RunOptions


Start = Literal["default", "xavier", "pretrained"]


@dataclass(frozen=True)
class Scoring:
    """How a set is scored; without networks or a start, as the set's recipe has them."""

    protocol: str = "recipe"
    networks: Sequence[str] = ()
    nets: int = 5
    seed: int = 0
    start: str | None = None
    pretrain_on: Source | None = None


@dataclass(frozen=True)
class Scored:
    """The scores on each network, and what a reader should be warned of."""

    evaluations: Sequence[Evaluation]
    warnings: Sequence[str] = field(default=())


@surroundings.own()
def score(ds: DistilledSet, train: Source, test: Source, scoring: Scoring, *, options: RunOptions) -> Scored:
    """Evaluate on each network in turn; raises `UserError` where set and data do not belong together."""
    warnings = list(_other_data(ds, train))
    for warning in warnings:
        options.reporter.message(f"warning: {warning}")
    evaluations: list[Evaluation] = []
    for network in scoring.networks or (None,):
        own = recipe_of(scoring.protocol, ds.manifest.recipe, source_name=train.name).network
        options.reporter.message(_plan(ds, scoring, network or own))
        one = evaluation.evaluate(
            ds,
            train=train,
            test=test,
            network=network,
            protocol=scoring.protocol,
            nets=scoring.nets,
            seed=scoring.seed,
            start=scoring.start,
            pretrain_on=scoring.pretrain_on,
            workers=options.workers,
            device=options.device,
            say=options.reporter.message,
        )
        evaluations.append(one)
    elsewhere = list(_other_start(evaluations))
    for warning in elsewhere:
        options.reporter.message(f"warning: {warning}")
    return Scored(evaluations, [*warnings, *elsewhere])


def _plan(ds: DistilledSet, scoring: Scoring, network: str) -> str:
    """What is about to be done, on one line."""
    settings = len(settings_of(scoring.protocol, images=len(ds)))
    first = f"choosing from {settings} settings on validation images, then " if settings else ""
    if scoring.protocol == "knn":
        return f"k-nn: {first}scoring the set, and {scoring.nets} draws of random real images"
    alone = ds.manifest.recipe.for_one_network and scoring.start is None
    ours = "the one" if alone else scoring.nets
    if "pretrained" in (scoring.start, ds.manifest.recipe.initialisation) and scoring.start not in DISTRIBUTIONS:
        first += "pre-training networks that are not in the cache, then "
    return f"{network}: {first}training {ours} on the set, {scoring.nets} on random real images"


def _other_data(ds: DistilledSet, train: Source) -> Iterator[str]:
    made = ds.manifest.provenance
    if made is not None and made.fingerprint != train.fingerprint():
        yield (
            f"this set was distilled from other training images (source {made.source}, fingerprint "
            f"{made.fingerprint[:12]}...; the ones given have {train.fingerprint()[:12]}...)"
        )


def _other_start(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    for one in evaluations:
        if not one.as_meant:
            particular = one.made_for.startswith("sha256:")
            what = "one particular network" if particular else f"other networks, '{one.made_for}' ones"
            yield f"this set is for {what}, and is scored on a {one.network} that starts from '{one.start}' weights"


def check_names(*, protocol: str, networks: Sequence[str], start: str | None = None) -> None:
    """Raise `UserError` for names that do not exist or do not go together, without loading torch."""
    check_protocol(protocol, networks, start=start is not None)
    if start is not None and start not in get_args(Start):
        raise unknown_name("start", start, get_args(Start))
    for network in networks:
        family(network)
