"""Score a distilled set: fresh networks trained on it, and beside them the random-real twin.

The twin is the same protocol, the same networks and the same number of images of each class, with real
images drawn anew for each network. The test images are looked at once, after the last epoch. Where a protocol
leaves a choice, validation images decide, for the set and for the twin each by itself.

Networks start where the set means them to: drawn afresh, pre-trained and held out from those that the set was made
with, or one particular network. That they start elsewhere has to be asked for, and the result says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from dd_core import selection, surroundings
from dd_core.artefacts import Artefact
from dd_core.config import Config
from dd_core.distilled import DistilledSet
from dd_core.errors import Diverged, UserError, unknown_name
from dd_core.evaluation.protocols import check_protocol, recipe_of, seen_by, settings_of
from dd_core.evaluation.tuning import NearestNeighbours, Setting, best, validation_split
from dd_core.evaluation.verdicts import Verdict, new_draw
from dd_core.images import InputForm, Source, require_labels
from dd_core.recipe import DISTRIBUTIONS, Pretraining, Recipe, StartingPool
from dd_core.streams import Streams
from dd_core.system import device as devices
from dd_core.system import parallel
from dd_core.system.footprint import shortage
from dd_core.system.parallel import Workers
from dd_core.system.threads import computing
from dd_core.training import (
    TrainingData,
    accuracy,
    estimates,
    fit,
    for_network,
    initialised,
    predictions,
    require_startable,
    training_data,
)
from dd_core.training import starts as weights

NEIGHBOURS = "k-nn"  # the network of an evaluation that trains none


class Score(Config):
    """Accuracies in [0, 1] over networks; std is the sample's, None where there is one network: it shows no spread."""

    mean: float
    std: float | None
    per_network: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> Score:
        """Mean and sample standard deviation of `values`."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return Score(mean=statistics.fmean(values), std=std, per_network=tuple(values))


class Attack(Config):
    """What networks make of the class under attack, and of all others: of the set and of the twin (`..._real`).

    `success` is the fraction of its test images that are taken for the class that they are meant to be taken for,
    `others` the accuracy on the test images of the other classes.
    """

    classes: tuple[str, str]
    success: Score
    success_real: Score
    others: Score
    others_real: Score


class Evaluation(Config):
    """One set, one protocol, one kind of network: its score and its twin's, with all that a figure has to say.

    `start` is where the networks started and `made_for` where the set means them to, in the words of
    `Recipe.initialisation`; `weights` describes pre-trained or particular ones. `as_meant` says whether they are what
    the set is for (held-out ones, where there is a choice). `before` is the accuracy of pre-trained networks before
    they saw the set. Networks are scored by the true labels, a set for an attack too.

    `chosen` has, for the set (`accuracy`) and for the twin (`random_real`), the setting that did best on validation
    images, and how well (`validation`); None where the protocol leaves no choice. Under k-nn the set has one score.
    """

    accuracy: Score
    random_real: Score
    protocol: str
    network: str
    start: str
    made_for: str
    weights: StartingPool | None = None
    as_meant: bool = True
    nets: int
    seed: int
    data: str
    fingerprints: dict[str, str]
    images: int
    bytes: int
    twin_bytes: int
    epoch: Literal["last"] = "last"
    before: Score | None = None
    attack: Attack | None = None
    chosen: dict[str, dict[str, int | float]] | None = None
    hardware: dict[str, Any]

    @property
    def twin_wins(self) -> bool:
        """Whether the mean accuracy of random real images is at least the set's: no test, which `verdict` is."""
        return self.random_real.mean >= self.accuracy.mean

    @property
    def verdict(self) -> Verdict:
        """Whether the set is ahead of sets of random real images: Student's t for one more draw, paired by network."""
        return new_draw(self.accuracy.per_network, self.random_real.per_network)


@dataclass(frozen=True)
class _Job:
    """One network to train and to test; `start` and `index` are the weights that it starts from, unless it is drawn."""

    data: TrainingData
    network: str
    recipe: Recipe
    seed: int
    test: Source
    form: InputForm
    device: str
    start: Artefact | None = None
    index: int = 0
    setting: Setting = field(default_factory=dict)
    attack: tuple[int, int] | None = None


class _Result(NamedTuple):
    accuracy: float
    before: float | None = None
    success: float | None = None
    others: float | None = None


Jobs = Mapping[str, list[_Job]]  # by what they score: accuracy, random_real
Result = TypeVar("Result")


@surroundings.own()
def evaluate(
    ds: DistilledSet,
    *,
    train: Source,
    test: Source,
    network: str | None = None,
    protocol: str = "recipe",
    nets: int = 5,
    seed: int = 0,
    start: str | StartingPool | None = None,
    pretrain_on: Source | None = None,
    workers: Workers | None = None,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Train `nets` fresh networks on `ds` and as many on random images of `train`; score all on `test`.

    Every network is a job of its own: the result is the same for any number of workers. Raises `UserError`
    where set and data do not belong together, and for another `network` where the set is for one particular network;
    such a set has one score.

    `start` has networks start elsewhere than the set means them to: `default` or `xavier` draws, or `pretrained` (as
    the recipe or a `StartingPool` has it). Those are pre-trained on `pretrain_on`, else on the images that are meant
    there, else on `train`.

    A protocol with a choice holds a tenth of `train` back for it, and the twins are drawn from the rest. Networks and
    twins that choose are others than those that are tested (but for the one network of a set that is for one). A
    distilled set, and pre-trained networks, may have seen the images held back; that can mislead the choice, and does
    not touch the test. A set for an attack cannot be scored so: what is best for it is not what is right.

    `say` is given one line where more memory will be needed than is free.
    """
    _check_match(ds, train, test)
    check_protocol(protocol, [network] if network else [], start=start is not None or pretrain_on is not None)
    if nets < 1:
        raise UserError(f"{nets} networks; at least one is needed")
    ds = seen_by(protocol, ds, train)
    own = ds.manifest.recipe
    recipe = recipe_of(protocol, own, source_name=train.name)
    if start is not None:
        recipe = _started(recipe, start, train=train, pretrain_on=pretrain_on)
    recipe = for_network(recipe, network)
    require_startable(ds, recipe)
    network = NEIGHBOURS if protocol == "knn" else recipe.network
    settings, streams = settings_of(protocol, images=len(ds)), Streams(seed)
    pool = None
    if network != NEIGHBOURS:
        if say is not None and (line := _shortage(ds, recipe, test, nets, workers or Workers(), device)) is not None:
            say(f"warning: {line}")
        count = 2 * nets if settings else nets  # those that choose and those that are tested
        pool = weights.of_recipe(
            recipe,
            train.image_shape,
            len(ds.classes),
            count=count,
            seed=seed,
            pretrain_on=pretrain_on or _meant(recipe, train),
            device=device,
            workers=workers,
        )
    form, attack = ds.input_form(), _indices(ds)
    if attack is not None and settings:
        raise UserError(
            f"protocol '{protocol}' chooses what is right, and the set is for an attack; use another protocol"
        )
    if attack is not None and attack[0] not in require_labels(test):
        raise UserError(f"the set attacks class '{ds.classes[attack[0]]}', of which {test.name} has no test image")
    job = _Job(training_data(ds, recipe), network, recipe, seed, test, form, device, pool, attack=attack)
    real, held = validation_split(train, streams) if settings else (train, None)
    jobs = _jobs(job, ds, real, nets, streams)
    chosen: dict[str, tuple[Setting, float]] = {}
    if held is not None:
        others = replace(job, test=held, index=nets)
        trials = _jobs(others, ds, real, nets, streams.child("choosing"))
        chosen = _choose(trials, settings, workers)
        jobs = {who: [replace(one, setting=chosen[who][0]) for one in jobs[who]] for who in jobs}
    results = _run(_score, jobs, workers)
    scores = {who: _scores(several) for who, several in results.items()}
    return Evaluation(
        accuracy=scores["accuracy"]["accuracy"],
        random_real=scores["random_real"]["accuracy"],
        before=scores["accuracy"].get("before"),
        attack=_attack(ds, scores),
        protocol=protocol,
        network=network,
        start="none" if network == NEIGHBOURS else recipe.initialisation,
        made_for=own.initialisation,
        weights=None if pool is None else recipe.weights,
        as_meant=network == NEIGHBOURS or _kind(recipe) == _kind(own),
        nets=nets,
        seed=seed,
        data=f"{test.name}, {len(test)} test images",
        fingerprints={"train": train.fingerprint(), "test": test.fingerprint()},
        images=len(ds),
        bytes=ds.nbytes,
        twin_bytes=len(ds) * int(np.prod(train.image_shape)),
        chosen={who: {**setting, "validation": value} for who, (setting, value) in chosen.items()} or None,
        hardware=devices.hardware(devices.resolve(device), threads=(workers or Workers()).threads),
    )


def _shortage(ds: DistilledSet, recipe: Recipe, test: Source, nets: int, workers: Workers, device: str) -> str | None:
    """What is to be said where memory will be short: `nets` networks on the set, and as many on twins of their own."""
    where = devices.resolve(device)
    need = estimates.evaluation(
        recipe,
        test.image_shape,
        len(ds.classes),
        images=len(ds),
        tested=len(test),
        sets=nets + 1,
        jobs=min(workers.count, 2 * nets),
        device=where,
    )
    return shortage(need, where)


def _started(recipe: Recipe, start: str | StartingPool, *, train: Source, pretrain_on: Source | None) -> Recipe:
    """The recipe with its networks starting elsewhere."""
    if isinstance(start, str) and start in DISTRIBUTIONS:
        return recipe.model_copy(update={"initialisation": start, "weights": None})
    if isinstance(start, str) and start != "pretrained":
        raise unknown_name("start", start, (*DISTRIBUTIONS, "pretrained"))
    distribution = "xavier" if recipe.initialisation == "xavier" else "default"
    known = (
        start if isinstance(start, StartingPool) else recipe.weights or StartingPool(distribution=distribution, count=1)
    )
    how = known.pretraining or Pretraining()
    if pretrain_on is not None or not how.source:
        how = weights.pretrained_on(pretrain_on or train, how)
    return recipe.model_copy(
        update={"initialisation": "pretrained", "weights": known.model_copy(update={"pretraining": how})}
    )


def _kind(recipe: Recipe) -> dict[str, Any]:
    """Where a recipe's networks start, whichever of them."""
    which = {"count": 1, "seed": 0, "held_out": False}
    meant = None if recipe.weights is None else recipe.weights.model_copy(update=which)
    return {"initialisation": recipe.initialisation, "weights": meant}


def _meant(recipe: Recipe, train: Source) -> Source | None:
    """The training images, where networks are pre-trained on these very ones."""
    how = None if recipe.weights is None else recipe.weights.pretraining
    return train if how is not None and how.source == train.fingerprint() else None


def _indices(ds: DistilledSet) -> tuple[int, int] | None:
    """The classes of an attack as labels."""
    attack = ds.manifest.attack
    return None if attack is None else (ds.classes.index(attack[0]), ds.classes.index(attack[1]))


def _scores(results: Sequence[_Result]) -> dict[str, Score]:
    """What was measured, by name, over networks."""
    columns = {name: [getattr(one, name) for one in results] for name in _Result._fields}
    return {name: Score.of(values) for name, values in columns.items() if None not in values}


def _attack(ds: DistilledSet, scores: Mapping[str, dict[str, Score]]) -> Attack | None:
    if ds.manifest.attack is None:
        return None
    ours, real = scores["accuracy"], scores["random_real"]
    return Attack(
        classes=ds.manifest.attack,
        success=ours["success"],
        success_real=real["success"],
        others=ours["others"],
        others_real=real["others"],
    )


def _check_match(ds: DistilledSet, train: Source, test: Source) -> None:
    for source in (train, test):
        if source.classes != ds.classes:
            raise UserError(
                f"the set has the classes {_some(ds.classes)}, and {source.name} has {_some(source.classes)}"
            )
        if source.image_shape != ds.images.shape[1:]:
            theirs, ours = "x".join(map(str, source.image_shape)), "x".join(map(str, ds.images.shape[1:]))
            raise UserError(f"the set has {ours} images (C x H x W), and {source.name} has {theirs}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def _twin(ds: DistilledSet, train: Source, streams: Streams, index: int) -> TrainingData:
    """As many real images of each class as the set has, drawn for network `index`, with their own labels.

    Where the set attacks a class, its images are labelled as the class that they are to be taken for.
    """
    assert ds.labels is not None
    counts = np.bincount(ds.labels, minlength=len(ds.classes)).tolist()
    chosen = selection.random_indices(train, counts, streams=streams.child("twin", index), stream="random")
    with computing(1):  # whitening in several differs in the last bits
        inputs = ds.input_form()(train.take(chosen))
    labels = selection.labels_of(counts)
    if (attack := _indices(ds)) is not None:
        labels = labels.where(labels != attack[0], attack[1])
    return TrainingData(inputs, labels, None, len(ds.classes))


def _jobs(job: _Job, ds: DistilledSet, train: Source, nets: int, streams: Streams) -> Jobs:
    """`job` for each network: on the set, and on a twin drawn for it. Without networks to vary the set has one job."""
    one_network = job.recipe.for_one_network and job.start is not None
    each = [
        replace(job, seed=streams.child("network", index).seed, index=0 if one_network else job.index + index)
        for index in range(nets)
    ]
    twins = [replace(one, data=_twin(ds, train, streams, index)) for index, one in enumerate(each)]
    return {"accuracy": each[:1] if one_network or job.network == NEIGHBOURS else each, "random_real": twins}


def _choose(trials: Jobs, settings: Sequence[Setting], workers: Workers | None) -> dict[str, tuple[Setting, float]]:
    """The best of `settings` and its mean score, for each kind of jobs."""
    results = _run(partial(_score_each, settings), trials, workers)
    return {who: best(settings, scores) for who, scores in results.items()}


def _run(function: Callable[[_Job], Result], jobs: Jobs, workers: Workers | None) -> dict[str, list[Result]]:
    """The results of all jobs, kind by kind."""
    results = iter(list(parallel.run(function, chain(*jobs.values()), workers=workers)))
    return {who: list(islice(results, len(several))) for who, several in jobs.items()}


def _score_each(settings: Sequence[Setting], job: _Job) -> list[float]:
    """The score under each setting, 0 where training diverges."""

    def score(setting: Setting) -> float:
        try:
            return accuracy(*_trained(job, setting), device=_device(job))
        except Diverged:
            return 0.0

    return [score(setting) for setting in settings]


def _score(job: _Job) -> _Result:
    device, before = _device(job), None
    weights = job.recipe.weights
    if job.start is not None and weights is not None and weights.pretraining is not None:
        shape, streams = job.test.image_shape, Streams(job.seed)
        untouched = initialised(job.recipe, shape, job.data.classes, streams=streams, start=job.start, index=job.index)
        before = accuracy(untouched, job.test, job.form, device=device)
    model, test, form = _trained(job, job.setting)
    if job.attack is None:
        return _Result(accuracy(model, test, form, device=device), before)
    guesses, labels = predictions(model, test, form, device=device), require_labels(test)
    attacked, right = labels == job.attack[0], guesses == labels
    return _Result(
        accuracy=int(right.sum()) / len(right),
        before=before,
        success=(guesses[attacked] == job.attack[1]).float().mean().item(),
        others=right[~attacked].float().mean().item(),
    )


def _trained(job: _Job, setting: Setting) -> tuple[nn.Module, Source, InputForm]:
    """The network of a job, trained under a setting, and what to test it on."""
    if job.network == NEIGHBOURS:
        return NearestNeighbours(job.data, **setting), job.test, job.form
    recipe, streams = job.recipe.model_copy(update=setting), Streams(job.seed)
    model = fit(job.data, job.network, recipe, streams=streams, device=_device(job), start=job.start, index=job.index)
    return model, job.test, job.form


def _device(job: _Job) -> torch.device:
    return torch.device("cpu") if job.network == NEIGHBOURS else devices.resolve(job.device)
