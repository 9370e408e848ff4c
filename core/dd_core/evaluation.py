"""Score a distilled set: fresh networks trained on it, and beside them the random-real twin.

The twin is the same protocol, the same networks and the same number of images of each class, with real
images drawn anew for each network. The test images are looked at once, after the last epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from dd_core import device as devices
from dd_core import parallel, selection
from dd_core.config import Config
from dd_core.distilled import DistilledSet, Pixels, Recipe
from dd_core.errors import UserError
from dd_core.images import Source, normalise
from dd_core.parallel import Workers
from dd_core.protocols import recipe_of
from dd_core.streams import Streams
from dd_core.training import TrainingData, accuracy, fit, training_data


class Score(Config):
    """Accuracies in [0, 1] over networks; std is the sample's, and 0 for one network."""

    mean: float
    std: float
    per_network: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> Score:
        """Mean and standard deviation of `values`."""
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return Score(mean=statistics.fmean(values), std=std, per_network=tuple(values))


class Evaluation(Config):
    """One set, one protocol, one kind of network: its score and its twin's, with all that a figure has to say."""

    accuracy: Score
    random_real: Score
    protocol: str
    network: str
    nets: int
    seed: int
    data: str
    fingerprints: dict[str, str]
    images: int
    bytes: int
    twin_bytes: int
    epoch: Literal["last"] = "last"
    hardware: dict[str, Any]

    @property
    def twin_wins(self) -> bool:
        """Whether random real images do at least as well."""
        return self.random_real.mean >= self.accuracy.mean


@dataclass(frozen=True)
class _Job:
    data: TrainingData
    network: str
    recipe: Recipe
    seed: int
    test: Source
    pixels: Pixels
    device: str


def evaluate(
    ds: DistilledSet,
    *,
    train: Source,
    test: Source,
    network: str | None = None,
    protocol: str = "recipe",
    nets: int = 5,
    seed: int = 0,
    workers: Workers | None = None,
    device: str = "auto",
) -> Evaluation:
    """Train `nets` fresh networks on `ds` and as many on random images of `train`; score all on `test`.

    Every network is a job of its own: the result is the same for any number of workers. Raises `UserError`
    where set and data do not belong together.
    """
    _check_match(ds, train, test)
    if nets < 1:
        raise UserError(f"{nets} networks; at least one is needed")
    recipe = recipe_of(protocol, ds.manifest.recipe, source_name=train.name)
    network = network or recipe.network
    distilled = training_data(ds, recipe)
    twins = [_twin(ds, train, Streams(seed), index) for index in range(nets)]
    jobs = [
        _Job(data, network, recipe, Streams(seed).child("network", index % nets).seed, test, ds.manifest.pixels, device)
        for index, data in enumerate([distilled] * nets + twins)
    ]
    scores = list(parallel.run(_score, jobs, workers=workers))
    return Evaluation(
        accuracy=Score.of(scores[:nets]),
        random_real=Score.of(scores[nets:]),
        protocol=protocol,
        network=network,
        nets=nets,
        seed=seed,
        data=f"{test.name}, {len(test)} test images",
        fingerprints={"train": train.fingerprint(), "test": test.fingerprint()},
        images=len(ds),
        bytes=ds.nbytes,
        twin_bytes=len(ds) * int(np.prod(train.image_shape)),
        hardware=devices.hardware(devices.resolve(device), threads=(workers or Workers()).threads),
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
    """As many real images of each class as the set has, drawn for network `index`, with their own labels."""
    assert ds.labels is not None
    counts = np.bincount(ds.labels, minlength=len(ds.classes)).tolist()
    chosen = selection.random_indices(train, counts, streams=streams.child("twin", index), stream="random")
    pixels = ds.manifest.pixels
    inputs = normalise(train.take(chosen), pixels.mean, pixels.std)
    return TrainingData(inputs, selection.labels_of(counts), None, len(ds.classes))


def _score(job: _Job) -> float:
    device = torch.device(devices.resolve(job.device))
    model = fit(job.data, job.network, job.recipe, streams=Streams(job.seed), device=device)
    return accuracy(model, job.test, job.pixels, device=device)
