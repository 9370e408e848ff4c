"""The task `distill`: distil one data set by one method, and score the result on several networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field, JsonValue, model_validator

from dd_core import surroundings
from dd_core.config import Config
from dd_core.distilled import DISTRIBUTIONS, DistilledSet, Size
from dd_core.errors import UserError, unknown_name
from dd_core.evaluation.protocols import check_protocol, recipe_of, settings_of
from dd_core.methods import decode_method
from dd_core.networks.names import family

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation
    from dd_core.images import Source
    from dd_core.runner import RunOptions


Start = Literal["default", "xavier", "pretrained"]


class DistillScenario(Config):
    """One distilled set and its evaluation."""

    data: str = Field(description="data set, or folder:PATH")
    image_size: int | None = Field(default=None, ge=1, description="pixels a side; none keeps the images as they are")
    skip_corrupt: bool = Field(default=False, description="leave out images that cannot be decoded")
    pretrain_on: str | None = Field(
        default=None, description="data set, or folder:PATH, that networks are pre-trained on; none: `data` itself"
    )
    method: dict[str, JsonValue] = Field(description="name of the method, and its options")
    ipc: int | None = Field(default=None, ge=1, description="images per class")
    images: int | None = Field(default=None, ge=1, description="images in all, instead of ipc")
    seed: int = Field(default=0, ge=0, description="of the distillation and of the evaluation")
    protocol: str = Field(default="recipe", description="how networks are trained on the set")
    networks: tuple[str, ...] = Field(default=(), description="networks to evaluate; none given: the method's own")
    nets: int = Field(default=5, ge=1, description="fresh networks of each kind")
    start: Start | None = Field(default=None, description="where networks start; none: where the set means them to")

    @model_validator(mode="after")
    def _can_be_run(self) -> DistillScenario:
        if (self.ipc is None) == (self.images is None):
            raise ValueError("give either ipc (images per class) or images (in all)")
        try:
            check_names(protocol=self.protocol, networks=self.networks, start=self.start)
            config = decode_method(self.method)
            if config.starts == "one" and self.start is None and {*self.networks} - {config.recipe.network}:
                raise UserError(f"networks: the set is for one {config.recipe.network}, and for no other network")
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def title(self) -> str:
        """What is done, from the values: method, data and size."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        images = f"{self.images} images in all" if self.ipc is None else a_class(self.ipc)
        start = "" if self.pretrain_on is None else f", networks pre-trained on {self.pretrain_on}"
        return f"{self.method['name']} on {self.data}{size}, {images}{start}"


def a_class(ipc: int) -> str:
    """`1 image a class`, `10 images a class`."""
    return f"{ipc} image{'' if ipc == 1 else 's'} a class"


@dataclass(frozen=True)
class Data:
    """Real images by name, as the user asked for them."""

    name: str
    image_size: int | None = None
    skip_corrupt: bool = False
    _told: set[str] = field(default_factory=set, init=False, compare=False, repr=False)

    def load(self, split: str, *, options: RunOptions) -> Source:
        """One split; what is worth saying goes to the reporter. Raises `UserError`."""
        from dd_core import datasets

        return datasets.load(
            self.name,
            split=split,
            image_size=self.image_size,
            skip_corrupt=self.skip_corrupt,
            workers=options.workers,
            progress=datasets.once(options.reporter.message, self._told),
        )


def to_pretrain_on(name: str | None, source: Source, *, skip_corrupt: bool, options: RunOptions) -> Source | None:
    """The training images called `name`, resized to those of `source`; None where no name is given."""
    if name is None:
        return None
    height, width = source.image_shape[1:]
    return Data(name, height if height == width else None, skip_corrupt).load("train", options=options)


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
def run(scenario: DistillScenario, *, out: Path, options: RunOptions) -> tuple[DistilledSet, Scored]:
    """Distil into `out`, then evaluate. Raises what the runner raises."""
    from dd_core import runner

    data = Data(scenario.data, scenario.image_size, scenario.skip_corrupt)
    train = data.load("train", options=options)
    other = to_pretrain_on(scenario.pretrain_on, train, skip_corrupt=scenario.skip_corrupt, options=options)
    config = decode_method(scenario.method)
    size = Size(ipc=scenario.ipc, images=scenario.images)
    ds = runner.distill(config, train, size, seed=scenario.seed, out=out, options=options, pretrain_on=other)
    if scenario.protocol == "knn" or scenario.start in DISTRIBUTIONS:
        other = None  # what is scored starts from no pre-trained network
    scoring = Scoring(scenario.protocol, scenario.networks, scenario.nets, scenario.seed, scenario.start, other)
    return ds, score(ds, train, data.load("test", options=options), scoring, options=options)


@surroundings.own()
def score(ds: DistilledSet, train: Source, test: Source, scoring: Scoring, *, options: RunOptions) -> Scored:
    """Evaluate on each network in turn; raises `UserError` where set and data do not belong together."""
    from dd_core.evaluation import evaluate

    warnings = list(_other_data(ds, train))
    for warning in warnings:
        options.reporter.message(f"warning: {warning}")
    evaluations: list[Evaluation] = []
    for network in scoring.networks or (None,):
        own = recipe_of(scoring.protocol, ds.manifest.recipe, source_name=train.name).network
        options.reporter.message(_plan(ds, scoring, network or own))
        one = evaluate(
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


def data_of(ds: DistilledSet, given: str | None, *, skip_corrupt: bool) -> Data:
    """The data to score a set on: the ones given, or where the set came from, at the set's own image size.

    Raises `UserError` where the set cannot say by name where it came from.
    """
    height, width = ds.images.shape[2:]
    size = height if height == width else None
    made = ds.manifest.provenance
    if given is not None:
        return Data(given, size, skip_corrupt)
    if made is None or made.source == "folder":
        found = "does not say what it was made from" if made is None else "was made from a folder"
        raise UserError(f"the set {found}; name the real images: --data folder:PATH")
    return Data(made.source, size, skip_corrupt)


def check_names(*, protocol: str, networks: Sequence[str], start: str | None = None) -> None:
    """Raise `UserError` for names that do not exist or do not go together, without loading torch."""
    check_protocol(protocol, networks, start=start is not None)
    if start is not None and start not in get_args(Start):
        raise unknown_name("start", start, get_args(Start))
    for network in networks:
        family(network)
