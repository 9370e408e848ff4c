"""Score a distilled set by fresh networks that are trained on it, and beside it the random-real twin.

The twin has the same protocol, the same networks and the same number of images of each class, but real images, drawn
anew for each network. The test images are used once, after the last epoch. Where a protocol chooses among settings,
validation images decide, separately for the set and for the twin.

Networks start from the weights that the set is made for: fresh draws, pre-trained networks that the method has not
used, or one particular network. Other initial weights must be requested, and the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from dd_core.artefacts import Artefact
from dd_core.datasets import plain
from dd_core.datasets.plain import Images
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.evaluation import protocols, teaching, twins
from dd_core.evaluation.checks import attacked, check_attack, check_match, memory_shortage
from dd_core.evaluation.jobs import Execution, Job, Outcome
from dd_core.evaluation.protocol import EvaluationProtocol
from dd_core.evaluation.results import Attack, Evaluation, Score, Taught
from dd_core.evaluation.starts import images_to_pretrain_on, same_start, starting_at
from dd_core.evaluation.tuning import Choice, best, validation_split
from dd_core.evaluation.twins import HardLabels, Labeller
from dd_core.images import Source
from dd_core.networks.own import Network, is_own, name_of, require_network
from dd_core.recipe import Recipe, StartingPool
from dd_core.streams import Streams, require_seed
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.parallel import Pool, Workers
from dd_core.system.progress import reporting
from dd_core.system.reporter import Reporter
from dd_core.training import for_network, require_startable, starts, training_data
from dd_core.training.bank import Bank
from dd_core.training.own_augmentation import Augmentation, check_augmentation
from dd_core.training.own_augmentation import name_of as augmentation_name
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec


@surroundings.own()
def evaluate(
    ds: DistilledSet,
    *,
    train: Source | Images,
    test: Source | Images,
    network: Network | None = None,
    protocol: str | EvaluationProtocol = "recipe",
    nets: int = 5,
    seed: int = 0,
    start: str | StartingPool | None = None,
    pretrain_on: Source | Images | None = None,
    augmentation: Augmentation | None = None,
    labeller: Labeller | None = None,
    teacher: TeacherConfig | None = None,
    teacher_mode: str | None = None,
    bank: Bank | None = None,
    workers: Workers | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    progress: bool = False,
    keep: Path | None = None,
    fresh: bool = False,
) -> Evaluation:
    """Train `nets` fresh networks on `ds`, and `nets` on random images of `train`; score all on `test`.

    `train` and `test` are what `load_data` returns, pairs (images, labels) of arrays, or torch `Dataset`s: see
    `as_source`. Labels of arrays are indices into the classes of the set.

    Every network is a job of its own: the result is the same for any number of workers. Raises `UserError`
    where set and data do not fit together, and for another `network` where the set is for one particular network;
    such a set has one score.

    `network` is the recipe's; or another network's name; or the caller's own network: a function that makes it, such as
    its class, called with (in_channels, outputs, image_size) for each of the `nets`; `module:Class`, which imports such
    a function; or a module, whose copies keep its weights. Scores of a caller's own networks are not kept, because a
    function may change.

    `augmentation` is a function of network inputs (n, C, H, W) that replaces the recipe's augmentation, for the set and
    for the twins; scores are not kept then either.

    `start` gives networks other initial weights than the set is made for: `default` or `xavier` draws, or `pretrained`
    weights, of the recipe's pool or of a given `StartingPool`. Networks are pre-trained on `pretrain_on`, else on the
    images that the pool names, else on `train`. `labeller` labels the twins' images as the set's were labelled; None:
    by their classes. Where the recipe's teacher labels views, of the set and of the twins, that teacher is trained on
    `train`, with the settings of the set's own teacher or with those of `teacher`; `teacher_mode` says how its batch
    norms normalise. A `bank` has the set's views with their labels; the bank's teacher labels the twins' views.

    A protocol that chooses among settings holds back a tenth of `train` to choose by, and twins are drawn from the
    rest. The networks and twins that choose are not those that are tested (except where a set is for one network). The
    method, or pre-training, may have used the held-back images; this can mislead the choice, but not the test. A set
    for an attack is refused by such protocols, because accuracy is not what an attack aims at.

    `keep` is a folder that keeps the score of each finished network: the same call again goes on where it stopped, with
    the same result; with `fresh` it starts over. `reporter` reports progress, and warns where memory will be short;
    without a reporter, `progress` shows a bar, or in a log a line every so often.
    """
    _check_set(ds)
    require_network(network)
    seed = require_seed(seed)
    train, test = (plain.given(data, what=what, like=ds.classes) for data, what in ((train, "train"), (test, "test")))
    if pretrain_on is not None:
        pretrain_on = plain.given(pretrain_on, what="pretrain_on", like=ds.classes)
    kept = keep if _own(network) is None and augmentation is None else None
    execution = Execution(workers or Workers(), reporting(reporter, progress=progress), kept, fresh)
    with Pool(execution.workers):  # one for starting weights, choices and tests
        bench = _prepare(
            ds,
            protocols.load(protocol) if isinstance(protocol, str) else protocol,
            train=train,
            test=test,
            network=network,
            nets=nets,
            seed=seed,
            start=start,
            pretrain_on=pretrain_on,
            augmentation=augmentation,
            labeller=labeller,
            teacher=teacher,
            teacher_mode=teacher_mode,
            bank=bank,
            device=device,
            execution=execution,
        )
        choices = _tune(bench)
        outcomes = _test(bench, choices)
    return _report(bench, choices, outcomes)


def _check_set(ds: Any) -> None:
    if not isinstance(ds, DistilledSet):
        hint = f"; read_set({str(ds)!r}) reads one from a file" if isinstance(ds, (str, Path)) else ""
        raise UserError(f"evaluate scores a DistilledSet, and a {type(ds).__name__} is given{hint}")


def _own(network: Network | None) -> Network | None:
    """`network` if it is the caller's own; None for the name of one of this library's."""
    return network if network is not None and is_own(network) else None


@dataclass(frozen=True)
class _Bench:
    """A set as its protocol prepares it, and everything that the networks to score it have in common.

    real: the images that twins are drawn from, which are `train` without `validation`.
    """

    ds: DistilledSet
    protocol: EvaluationProtocol
    recipe: Recipe
    own: Network | None
    augmentation: Augmentation | None
    pool: Artefact | None
    teacher: Artefact | None
    bank: Bank | None
    train: Source
    real: Source
    validation: Source | None
    test: Source
    labeller: Labeller
    nets: int
    seed: int
    device: str
    execution: Execution

    @property
    def learner(self) -> str:
        """The name of what is trained, for messages and results."""
        return self.protocol.learner(self.recipe) if self.own is None else name_of(self.own)

    @property
    def one_network(self) -> bool:
        """Whether all networks start from the same weights, so that the set has one score."""
        return self.recipe.for_one_network and self.pool is not None


def _prepare(
    ds: DistilledSet,
    protocol: EvaluationProtocol,
    *,
    train: Source,
    test: Source,
    network: Network | None,
    nets: int,
    seed: int,
    start: str | StartingPool | None,
    pretrain_on: Source | None,
    augmentation: Augmentation | None,
    labeller: Labeller | None,
    teacher: TeacherConfig | None,
    teacher_mode: str | None,
    bank: Bank | None,
    device: str,
    execution: Execution,
) -> _Bench:
    """Check that all arguments fit together; find or make initial weights and the teacher."""
    check_match(ds, train, test)
    elsewhere = start is not None or pretrain_on is not None
    protocol.check([] if network is None else [name_of(network)], start=elsewhere)
    own = _own(network)
    if own is not None and elsewhere:
        raise UserError(f"network '{name_of(own)}' has initial weights of its own; leave out start and pretrain_on")
    if nets < 1:
        raise UserError(f"{nets} networks; at least one is needed")
    ds = protocol.prepare(ds, train=train)
    recipe = protocol.recipe(ds.manifest.recipe, source_name=train.name)
    if start is not None:
        recipe = starting_at(recipe, start, train=train, pretrain_on=pretrain_on)
    recipe = teaching.with_mode(for_network(recipe, network), teacher_mode)
    if bank is not None:
        teaching.check_bank(bank, ds, recipe)
    require_startable(ds, recipe)
    if augmentation is not None:
        _check_augmentation(augmentation, protocol, recipe)
    chooses = bool(protocol.settings(images=ds.decoded_count))
    check_attack(ds, test, protocol, chooses=chooses)
    pool = None
    if protocol.trains_networks:
        where, workers = devices.resolve(device), execution.workers
        line = memory_shortage(ds, recipe, tested=len(test), nets=nets, workers=workers, device=where, own=own)
        if line is not None:
            execution.reporter.message(f"warning: {line}")
        pool = starts.of_recipe(
            recipe,
            train.image_shape,
            len(ds.classes),
            count=2 * nets if chooses else nets,  # networks that choose, and networks that are tested
            seed=seed,
            pretrain_on=pretrain_on or images_to_pretrain_on(recipe, train),
            device=device,
            workers=workers,
            reporter=execution.reporter,
        )
    asked = teaching.teacher_of(
        ds,
        recipe,
        train,
        given=teacher,
        bank=bank,
        device=device,
        workers=execution.workers,
        reporter=execution.reporter,
    )
    real, validation = validation_split(train, Streams(seed)) if chooses else (train, None)
    labeller = labeller or HardLabels(attacked(ds))
    images = (train, real, validation, test)
    return _Bench(
        ds, protocol, recipe, own, augmentation, pool, asked, bank, *images, labeller, nets, seed, device, execution
    )


def _check_augmentation(augmentation: Augmentation, protocol: EvaluationProtocol, recipe: Recipe) -> None:
    check_augmentation(augmentation, recipe)
    if not protocol.trains_networks:
        raise UserError(f"protocol '{protocol.name}' trains no network, so it augments nothing; leave out augmentation")


def _tune(bench: _Bench) -> dict[str, Choice]:
    """The best setting on the validation images, for the set and for its twins; empty where nothing is chosen."""
    if bench.validation is None:
        return {}
    settings = bench.protocol.settings(images=bench.ds.decoded_count)
    jobs = _jobs(bench, bench.validation, streams=Streams(bench.seed).child("choosing"), first=bench.nets)
    trials = {kind: [replace(job, settings=settings, trial=True) for job in members] for kind, members in jobs.items()}
    outcomes = bench.execution.run(trials, name=f"{bench.learner} under {len(settings)} settings")
    return {
        kind: best(settings, [[outcome.accuracy for outcome in row] for row in rows]) for kind, rows in outcomes.items()
    }


def _test(bench: _Bench, choices: Mapping[str, Choice]) -> dict[str, list[Outcome]]:
    """The test scores of each network, under the chosen setting."""
    jobs = _jobs(bench, bench.test, streams=Streams(bench.seed), first=0)
    for kind, choice in choices.items():
        jobs[kind] = [replace(job, settings=(choice.setting,)) for job in jobs[kind]]
    outcomes = bench.execution.run(jobs, name=f"{bench.learner} on the set and on real images")
    return {kind: [outcome for (outcome,) in rows] for kind, rows in outcomes.items()}


def _report(bench: _Bench, choices: Mapping[str, Choice], outcomes: Mapping[str, Sequence[Outcome]]) -> Evaluation:
    """The result: scores of the set and its twins, with everything that qualifies them."""
    ds, protocol, recipe, own = bench.ds, bench.protocol, bench.recipe, bench.ds.manifest.recipe
    scores = {kind: _scores(members) for kind, members in outcomes.items()}
    chosen = {kind: {**choice.setting, "validation": choice.validation} for kind, choice in choices.items()}
    where = devices.resolve(bench.device)
    return Evaluation(
        accuracy=scores["accuracy"]["accuracy"],
        random_real=scores["random_real"]["accuracy"],
        before=scores["accuracy"].get("before"),
        attack=_attack(ds, scores),
        protocol=protocol.name,
        network=bench.learner,
        start=recipe.initialisation if protocol.trains_networks else "none",
        made_for=own.initialisation,
        weights=None if bench.pool is None else recipe.weights,
        as_meant=not protocol.trains_networks or same_start(recipe, own),
        nets=bench.nets,
        seed=bench.seed,
        data=f"{bench.test.name}, {len(bench.test)} test images",
        fingerprints={"train": bench.train.fingerprint(), "test": bench.test.fingerprint()},
        images=len(ds),
        bytes=ds.nbytes,
        twin_bytes=len(ds) * prod(bench.train.image_shape),
        augmentation=None if bench.augmentation is None else augmentation_name(bench.augmentation),
        chosen=chosen or None,
        teacher=_taught(bench),
        hardware=devices.hardware(where, threads=bench.execution.workers.threads),
    )


def _taught(bench: _Bench) -> Taught | None:
    """The teacher that labelled views; None without one."""
    if bench.teacher is None or bench.recipe.teacher == "none":
        return None
    spec, accuracy = bench.teacher.spec, bench.teacher.part(0)[1]["accuracy"]
    assert isinstance(spec, TeacherSpec)
    return Taught(network=spec.network, mode=bench.recipe.teacher, training_accuracy=accuracy)


# --- tune and test -------------------------------------------------------------------------------------------


def _jobs(bench: _Bench, test: Source, *, streams: Streams, first: int) -> dict[str, list[Job]]:
    """The jobs: networks on the set (`accuracy`), and each network on a twin drawn for it (`random_real`).

    Where all networks would be the same, the set has one job. first: the first network of the pool to use.
    """
    ds, labeller = bench.ds, bench.labeller
    job = Job(
        bench.protocol,
        training_data(ds, bench.recipe),
        bench.recipe,
        bench.seed,
        test,
        ds.input_form(),
        bench.device,
        bench.pool,
        attack=attacked(ds),
        teacher=bench.teacher,
        own=bench.own,
        augmentation=bench.augmentation,
    )
    on_set = [
        replace(job, seed=streams.child("network", net).seed, index=0 if bench.one_network else first + net)
        for net in range(bench.nets)
    ]
    on_twins = [
        replace(member, data=twins.draw(ds, bench.real, labeller=labeller, streams=streams, index=net))
        for net, member in enumerate(on_set)
    ]
    on_set = [replace(member, bank=bench.bank) for member in on_set]
    alone = bench.one_network or not bench.protocol.trains_networks
    return {"accuracy": on_set[:1] if alone else on_set, "random_real": on_twins}


# --- report --------------------------------------------------------------------------------------------------


def _scores(outcomes: Sequence[Outcome]) -> dict[str, Score]:
    """Each measured quantity over all networks, by name."""
    columns = {name: [getattr(outcome, name) for outcome in outcomes] for name in Outcome.model_fields}
    return {name: Score.of(values) for name, values in columns.items() if None not in values}


def _attack(ds: DistilledSet, scores: Mapping[str, Mapping[str, Score]]) -> Attack | None:
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
