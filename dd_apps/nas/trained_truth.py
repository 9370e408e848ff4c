"""True accuracies by training each architecture fully under several seeds, as an artefact that is made once.

They may be scored on test images, because no proxy sees them and nothing is chosen by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from dd_apps.nas import ranking, spaces
from dd_apps.nas.proxies.trained import RealProxy
from dd_apps.nas.space_config import SpaceConfig
from dd_core.artefacts import Artefact, ArtefactSpec, Progress, Resources, Tensors
from dd_core.config import plain
from dd_core.errors import Diverged
from dd_core.images import Source
from dd_core.recipe import Recipe


class TruthSpec(ArtefactSpec):
    """Every architecture trained on all training images and scored on the test images, under `seeds` seeds.

    A part is one architecture under one seed, which determines initial weights and the order of images. A larger number
    of seeds adds parts and leaves the others as they are.
    """

    kind: ClassVar[str] = "truth"
    verb: ClassVar[str] = "training"
    noun: ClassVar[str] = "network"

    train: str = Field(description="fingerprint of the training images")
    test: str = Field(description="fingerprint of the test images")
    image_shape: tuple[int, int, int] = Field(description="channels, height and width of the images")
    classes: int = Field(description="number of classes of the images")
    space: SpaceConfig = Field(description="space of the architectures")
    architectures: tuple[str, ...] = Field(min_length=1, description="names of the architectures")
    recipe: Recipe = Field(description="recipe of training; its network is not used")
    seeds: int = Field(default=1, ge=1, description="seeds under which each architecture is trained")
    seed: int = Field(default=0, ge=0, description="first of the seeds")

    def determining(self) -> dict[str, Any]:
        """All fields that determine a part: all but the number of seeds."""
        return {name: value for name, value in super().determining().items() if name != "seeds"}

    def sources(self) -> dict[str, str]:
        """Training and test images."""
        return {self.train: "", self.test: ""}

    def parts(self) -> int:
        """The number of parts: a network for each architecture and seed, all of a seed before the next seed."""
        return self.seeds * len(self.architectures)

    def cost(self, resources: Any, parts: int) -> str:
        """The image-passes that `parts` parts take, in words."""
        images = len(resources.sources[self.train])
        return f"{parts * images * self.recipe.epochs:,} image-passes"

    def make_part(self, index: int, *, resources: Resources, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        """No tensors; accuracy and loss of one trained network, None where its training diverged."""
        del progress
        position, architecture = divmod(index, len(self.architectures))
        name, seed = self.architectures[architecture], self.seed + position
        train, test = resources.sources[self.train], resources.sources[self.test]
        channels, height, width = self.image_shape
        space = spaces.of(self.space, in_channels=channels, classes=self.classes, image_size=(height, width))
        network = spaces.build(space, spaces.sample_of(space, name), seed=seed)
        training = RealProxy(train, test, recipe=self.recipe, device=resources.device)
        figures: dict[str, Any] = {"accuracy": None, "loss": None}
        try:
            figures |= plain(training.score(network, seed=seed))
        except Diverged as error:
            figures["reason"] = str(error)
        return {}, {"architecture": name, "seed": seed, **figures}


@dataclass(frozen=True)
class TrainedTruth:
    """Accuracies in percent: means over seeds and those of each seed; `diverged` names architectures without any."""

    accuracies: Mapping[str, float]
    by_seed: Sequence[Mapping[str, float]]
    diverged: Sequence[str]
    seconds: float

    @staticmethod
    def of(artefact: Artefact) -> TrainedTruth:
        """The accuracies in the artefact of a `TruthSpec`."""
        spec = artefact.spec
        assert isinstance(spec, TruthSpec)
        facts = [fact for _, fact in artefact]
        diverged = {fact["architecture"] for fact in facts if fact["accuracy"] is None}
        by_seed = [
            {
                fact["architecture"]: 100 * fact["accuracy"]
                for fact in facts
                if fact["seed"] == spec.seed + position and fact["architecture"] not in diverged
            }
            for position in range(spec.seeds)
        ]
        means = {name: fmean(each[name] for each in by_seed) for name in by_seed[0]}
        return TrainedTruth(means, by_seed, sorted(diverged), sum(fact.get("seconds", 0.0) for fact in facts))

    def ceiling(self) -> ranking.Ranking | None:
        """How well the first seed's accuracies rank the architectures by the second's: a ceiling for proxies.

        None for a single seed.
        """
        if len(self.by_seed) < 2:
            return None
        return ranking.rank(self.by_seed[0], self.by_seed[1])


def truth_spec(
    train: Source, test: Source, space: SpaceConfig, architectures: Sequence[str], recipe: Recipe, **seeds: int
) -> TruthSpec:
    """The spec for these images."""
    return TruthSpec(
        train=train.fingerprint(),
        test=test.fingerprint(),
        image_shape=train.image_shape,
        classes=len(train.classes),
        space=space,
        architectures=tuple(architectures),
        recipe=recipe.for_source(train.name),
        **seeds,
    )
