"""The results of an evaluation; imports no torch, so that reports load fast."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from dd_core.config import Config
from dd_core.evaluation.verdicts import Verdict, new_draw
from dd_core.recipe import StartingPool


class Score(Config):
    """Accuracies in [0, 1] over networks; std: the sample standard deviation, None for a single network."""

    mean: float
    std: float | None
    per_network: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> Score:
        """Mean and sample standard deviation of `values`."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return Score(mean=statistics.fmean(values), std=std, per_network=tuple(values))


class Attack(Config):
    """The scores of a set for an attack, and those of its twin (`..._real`).

    classes: the attacked class, and the class that networks should take it for; success: the fraction of the attacked
    class's test images that are taken for the latter; others: the accuracy on test images of all other classes.
    """

    classes: tuple[str, str]
    success: Score
    success_real: Score
    others: Score
    others_real: Score


class Taught(Config):
    """A teacher that labelled views: its network, how its batch norms normalised, its accuracy on training images."""

    network: str
    mode: Literal["eval", "batch-stats"]
    training_accuracy: float


class Evaluation(Config):
    """The score of one set under one protocol with one kind of network, its twin's score, and what qualifies them.

    `start` names the initial weights that the networks had, and `made_for` those that the set is made for, in the words
    of `Recipe.initialisation`; `weights` describes a pool of initial weights. `as_meant` says whether both are the same
    (apart from which networks of a pool). `before` is the accuracy of pre-trained networks before they were trained on
    the set. Accuracies are by the true labels, for an attack too.

    `chosen` has, for the set (`accuracy`) and for the twin (`random_real`), the setting that was best on validation
    images, and its accuracy there (`validation`); None where nothing is chosen. Where no network is trained (k-nn) the
    set has one score, and `start` is `none`. `teacher` labelled the views of all networks; None: no teacher did.
    `augmentation` is the name of the caller's own function that replaced the recipe's; None: the recipe's.
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
    teacher: Taught | None = Field(default=None, exclude_if=lambda teacher: teacher is None)
    augmentation: str | None = Field(default=None, exclude_if=lambda name: name is None)
    chosen: dict[str, dict[str, int | float]] | None = None
    hardware: dict[str, Any]

    @property
    def trained_networks(self) -> bool:
        """Whether networks were trained; if not, `network` names what was scored, on `nets` draws of the twin."""
        return self.start != "none"

    @property
    def twin_wins(self) -> bool:
        """Whether the mean accuracy of random real images is at least the set's; `verdict` is the statistical test."""
        return self.random_real.mean >= self.accuracy.mean

    @property
    def verdict(self) -> Verdict:
        """The test whether the set is ahead of random sets of real images: see `verdicts.new_draw`."""
        return new_draw(self.accuracy.per_network, self.random_real.per_network)
