"""Drawing random sets, and scoring each by the networks that train on it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from dd_core import selection
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context
from dd_core.images import InputForm, LabelledImages, Source, require_labels
from dd_core.methods.optimized.config import POOL, OptimizedConfig
from dd_core.recipe import StartingPool
from dd_core.system.budget import Footprint
from dd_core.training import TrainingData, accuracy, estimates, fit, starts


def pool_spec(config: OptimizedConfig, source: Source, weights: StartingPool) -> starts.StartingWeightsSpec:
    """The spec of the pool of networks `weights`, for images shaped like those of `source`."""
    return starts.spec_of(config.recipe, source.image_shape, len(source.classes), weights)


def footprint(config: OptimizedConfig, source: Source, size: Size, device: torch.device) -> Footprint:
    """A network in training or in testing, beside the drawn set and the real images that score it."""
    real = min(config.batch_real, len(source))
    need = estimates.evaluation(
        config.recipe.for_source(source.name),
        source.image_shape,
        len(source.classes),
        images=sum(size.per_class(len(source.classes))),
        tested=real,
        sets=1,
        jobs=1,
        device=device,
    )
    return need._replace(bytes=need.bytes + real * prod(source.image_shape))


class OptimizedDistiller:
    """Scores of the sets drawn so far. A set is not stored: its number determines its images."""

    def __init__(self, config: OptimizedConfig, context: Context) -> None:
        source, streams = context.source, context.streams
        self.config, self.source, self.streams, self.device = config, source, streams, context.device
        self.recipe, self.pool = config.recipe.for_source(source.name), context.artefacts.get(POOL)
        self.counts = context.counts
        selection.members_of(source, self.counts)
        self.form = InputForm.of(source)
        chosen = torch.randperm(len(source), generator=streams.generator("real"))[: config.batch_real]
        labels = require_labels(source)[chosen]
        self.real = LabelledImages(source.take(chosen), labels, source.classes, source.name)
        self.scores: list[float] = []

    def step(self, index: int) -> dict[str, float]:
        """One draw, scored by each network."""
        inputs = self.form(self.source.take(self._draw(index)))
        data = TrainingData(inputs, selection.labels_of(self.counts), None, len(self.counts))

        def score(position: int) -> float:
            streams = self.streams.child("network", position)
            network = fit(
                data,
                self.recipe.network,
                self.recipe,
                streams=streams,
                device=self.device,
                start=self.pool,
                index=position,
            )
            return accuracy(network, self.real, self.form, device=self.device)

        networks = len(self.pool) if self.pool is not None else self.config.networks
        self.scores.append(statistics.fmean(score(position) for position in range(networks)))
        return {"accuracy": self.scores[-1], "best": max(self.scores)}

    def _draw(self, index: int) -> Tensor:
        """Indices of the images of a draw, class-major."""
        return selection.random_indices(
            self.source, self.counts, streams=self.streams.child("draw", index), stream="random"
        )

    def state_dict(self) -> dict[str, Any]:
        """The score of each draw so far."""
        return {"scores": list(self.scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the scores."""
        self.scores = list(state["scores"])

    def export(self) -> DistilledSet:
        """One of the best draws, or the first draw where none was scored."""
        images = self.source.take(self._draw(self._chosen()))
        return selection.real_set(self.source, images, self.counts, self.recipe)

    def _chosen(self) -> int:
        """The number of the draw that becomes the set."""
        if not self.scores:
            return 0
        best = sorted(range(len(self.scores)), key=lambda draw: -self.scores[draw])
        kept = max(1, round(self.config.keep * len(best)))
        return best[int(torch.randint(kept, (), generator=self.streams.generator("kept")))]
