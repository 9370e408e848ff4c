"""`optimized`: the best of many random draws of real images, by their accuracy on *training* images.

A baseline of Wang, Zhu, Torralba and Efros, Dataset Distillation (2018): draw many random sets, train a few networks on
each, and keep the best 20 %. The paper reports the mean over those that are kept; here one of them, drawn by the
seed, is the set, so that its expected score is the paper's figure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import MethodConfig
from dd_core.recipe import Recipe
from dd_core.system.budget import Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.artefacts import Artefact, ArtefactSpec
    from dd_core.images import Source
    from dd_core.streams import Streams


class OptimizedConfig(MethodConfig):
    """Random real images whose networks do best on training images; uint8, as they are."""

    name: ClassVar[str] = "optimized"

    steps: int = Field(default=50, ge=0, description="random sets that are drawn and scored, one in a step")
    networks: int = Field(default=3, ge=1, description="networks that score a set, the same for all (the paper has 20)")
    keep: float = Field(
        default=0.2, gt=0, le=1, description="share of sets that are kept, at least one; the seed draws among them"
    )
    batch_real: int = Field(default=1024, ge=1, description="training images that a set is scored on, one draw for all")
    recipe: Recipe = Field(
        default=Recipe(network="convnet-1-w64-nonorm", initialisation="xavier"),
        description="how to train on a set, while they are scored and afterwards",
    )

    def needs(self, source: Source) -> tuple[ArtefactSpec, ...]:
        """The networks that score a set, where the recipe's are pre-trained or one particular network."""
        if self.recipe.weights is None:
            return ()
        from dd_core.training.starts import spec_of

        count = 1 if self.recipe.for_one_network else self.networks
        weights = self.recipe.weights.model_copy(update={"count": count})
        return (spec_of(self.recipe, source.image_shape, len(source.classes), weights),)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """A network that trains on a draw, or is scored, beside the draw and the real images that score it."""
        from dd_core.training import estimates

        counts, real = size.per_class(len(source.classes)), min(self.batch_real, len(source))
        need = estimates.evaluation(
            self.recipe.for_source(source.name),
            source.image_shape,
            len(source.classes),
            images=sum(counts),
            tested=real,
            sets=1,
            jobs=1,
            device=device,
        )
        return need._replace(bytes=need.bytes + real * prod(source.image_shape))

    def build(
        self,
        *,
        source: Source,
        size: Size,
        artefacts: Mapping[str, Artefact],
        streams: Streams,
        device: torch.device,
    ) -> OptimizedDistiller:
        """Draw the images to score on; raises `UserError` where a class is too small."""
        pool = next((artefacts[spec.digest()] for spec in self.needs(source)), None)
        return OptimizedDistiller(self, source, size=size, pool=pool, streams=streams, device=device)


class OptimizedDistiller:
    """Scores so far; a draw is named by its number and never stored."""

    def __init__(
        self,
        config: OptimizedConfig,
        source: Source,
        *,
        size: Size,
        pool: Artefact | None,
        streams: Streams,
        device: torch.device,
    ) -> None:
        import torch

        from dd_core import images, selection

        self.config, self.source, self.streams, self.device = config, source, streams, device
        self.recipe, self.pool = config.recipe.for_source(source.name), pool
        self.counts = size.per_class(len(source.classes))
        selection.members_of(source, self.counts)
        self.form = images.InputForm.of(source)
        chosen = torch.randperm(len(source), generator=streams.generator("real"))[: config.batch_real]
        labels = images.require_labels(source)[chosen]
        self.real = images.LabelledImages(source.take(chosen), labels, source.classes, source.name)
        self.scores: list[float] = []

    def step(self, index: int) -> dict[str, float]:
        """One draw, scored by each network."""
        from dd_core.selection import labels_of
        from dd_core.training import TrainingData, accuracy, fit

        inputs = self.form(self.source.take(self._draw(index)))
        data = TrainingData(inputs, labels_of(self.counts), None, len(self.counts))

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
        from dd_core.selection import random_indices

        return random_indices(self.source, self.counts, streams=self.streams.child("draw", index), stream="random")

    def state_dict(self) -> dict[str, Any]:
        """The score of each draw so far."""
        return {"scores": list(self.scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the scores."""
        self.scores = list(state["scores"])

    def export(self) -> DistilledSet:
        """One of the best draws, or the first draw where none was scored."""
        from dd_core.selection import real_set

        images = self.source.take(self._draw(self._chosen()))
        return real_set(self.source, images, self.counts, self.recipe)

    def _chosen(self) -> int:
        """The number of the draw that the set is."""
        import torch

        if not self.scores:
            return 0
        best = sorted(range(len(self.scores)), key=lambda draw: -self.scores[draw])
        kept = max(1, round(self.config.keep * len(best)))
        return best[int(torch.randint(kept, (), generator=self.streams.generator("kept")))]
