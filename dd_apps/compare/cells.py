"""The jobs of one cell of a comparison, and the record of its score: values that are sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dd_apps.data import Data
from dd_core import runner, store
from dd_core.config import Config, digest, plain
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import Diverged
from dd_core.evaluation import Evaluation, evaluate, protocols
from dd_core.evaluation.records import digest_of
from dd_core.images import Source
from dd_core.methods import decode_method
from dd_core.recipe import RATE_BYTES
from dd_core.runner import RunOptions
from dd_core.system.parallel import Workers
from dd_core.training import for_network

VERSION = 1  # raise it when a change of the code changes the figures of a cell
Stored = Literal["uint8", "as-made"]


class Cell(Config):
    """One row at one ipc, on one kind of network, under one seed.

    baseline: the method that chooses or averages real images of as many bytes as the set of `method` has; empty: that
    distilled set is scored itself. network: empty if the protocol trains no network.
    """

    method: str
    baseline: str
    ipc: int
    network: str
    seed: int


class CellRecord(Config):
    """What was measured in a cell, as a line of the journal; `reason` says why a cell has no score.

    images: number of stored images that were scored. bytes: their size, with soft labels and learned learning rates.
    rates: number of learned learning rates. training: digest of how networks were trained; methods with equal digests
    may share a row of real images. content: digest of the scored set. short: whether a class has fewer real images than
    the bytes have room for. making: seconds that making the set took.
    """

    key: str
    cell: Cell
    evaluation: Evaluation | None = None
    images: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    rates: int = Field(default=0, ge=0)
    training: str = ""
    content: str = ""
    short: bool = False
    making: float = Field(default=0.0, ge=0)
    reason: str | None = None


@dataclass(frozen=True)
class MakeJob:
    """A set that is to be made from the training images and written to the file `out`."""

    config: MethodConfig
    size: Size
    seed: int
    out: Path
    data: Data


@dataclass(frozen=True)
class ScoreJob:
    """A cell that is to be scored.

    distilled: file of the distilled set. real: file of the real images that are scored in its place; None: the set
    itself is scored. keep: folder for the scores of finished networks.
    """

    cell: Cell
    key: str
    distilled: Path
    real: Path | None
    short: bool
    data: Data
    protocol: str
    nets: int
    stored: Stored
    keep: Path
    device: str
    threads: int


def made(job: MakeJob, *, options: RunOptions) -> str | None:
    """Make a set, unless its file is complete; returns the reason if the method diverges, which is a result too."""
    train = images_of(job.data, "train")
    try:
        runner.distill(job.config, train, job.size, seed=job.seed, out=job.out, options=options)
    except Diverged as error:
        return str(error)
    return None


def scored(job: ScoreJob) -> CellRecord:
    """Score a cell; if its networks diverge, the record gives the reason in place of a score."""
    train, test = (images_of(job.data, split) for split in ("train", "test"))
    ds = as_stored(store.read_set(job.distilled), job.stored)
    if job.real is not None:
        ds = in_place_of(ds, store.read_set(job.real))
    network = job.cell.network or None
    rates = 0 if job.real is not None else learned_rates(ds)
    record = CellRecord(
        key=job.key,
        cell=job.cell,
        images=len(ds),
        bytes=bytes_of(ds) if job.real is None else ds.nbytes,
        rates=rates,
        training=_training(ds, job.protocol, network, train.name),
        content=ds.digest(),
        short=job.short,
        making=runner.seconds_of(job.real or job.distilled),
    )
    try:
        evaluation = evaluate(
            ds,
            train=train,
            test=test,
            network=network,
            protocol=job.protocol,
            nets=job.nets,
            seed=job.cell.seed,
            workers=Workers(threads=job.threads),
            device=job.device,
            keep=job.keep,
        )
    except Diverged as error:
        return record.model_copy(update={"reason": str(error)})
    return record.model_copy(update={"evaluation": evaluation})


# --- sets and their bytes ----------------------------------------------------------------------------------------


def as_stored(ds: DistilledSet, stored: Stored) -> DistilledSet:
    """A distilled set in the stored form that is counted in bytes and shown to networks."""
    return ds.quantised() if stored == "uint8" else ds


def learned_rates(ds: DistilledSet) -> int:
    """Number of learning rates that the method learned with the set."""
    made_by = ds.manifest.provenance
    assert made_by is not None
    meant = decode_method({"name": made_by.method, **made_by.config}).recipe
    return ds.manifest.recipe.learned_rates(meant)


def bytes_of(ds: DistilledSet) -> int:
    """Bytes of a distilled set: pixels and soft labels as stored, and learned rates."""
    return ds.nbytes + RATE_BYTES * learned_rates(ds)


def in_place_of(ds: DistilledSet, real: DistilledSet) -> DistilledSet:
    """Real images, or averages of them, in place of the images of a distilled set: uint8, with hard labels.

    Networks are fed and trained as the distilled set's manifest says, so that only the images differ. Learned steps of
    the recipe are left out, because they name blocks of the distilled set's own images.
    """
    ours, theirs = ds.quantised(), real.quantised()
    recipe = ds.manifest.recipe.model_copy(update={"steps": ()})
    manifest = ours.manifest.model_copy(update={"targets": "none", "formation": 1, "recipe": recipe})
    return replace(ours, images=theirs.images, labels=theirs.labels, targets=None, manifest=manifest)


def _training(ds: DistilledSet, protocol: str, network: str | None, source: str) -> str:
    """A digest of how networks are trained and fed, and of the number of images."""
    recipe = for_network(protocols.load(protocol).recipe(ds.manifest.recipe, source_name=source), network)
    return digest([len(ds), plain(recipe), digest_of(ds.input_form())])


# --- the images of a worker --------------------------------------------------------------------------------------

_held: dict[tuple[Data, str], Source] = {}


def hold(data: Data, split: str, source: Source) -> None:
    """Keep images that this process has loaded, for the jobs that run in this process."""
    _held[data, split] = source


def images_of(data: Data, split: str) -> Source:
    """The images of a split, loaded once in each process; images of other data are dropped."""
    key = (data, split)
    if key not in _held:
        for other, _ in [key for key in _held if key[0] != data]:
            _held.pop((other, "train"), None)
            _held.pop((other, "test"), None)
        _held[key] = data.load(split)
    return _held[key]


def key_of(cell: Cell, facts: Mapping[str, Any]) -> str:
    """A digest of all that determines the figures of a cell, as its name in the journal."""
    return digest({"version": VERSION, "cell": plain(cell), **facts})
