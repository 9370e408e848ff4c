"""The figures of an evaluation. Imports no torch: reports are made from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from dd_core.config import Config
from dd_core.evaluation.verdicts import Verdict, new_draw
from dd_core.recipe import StartingPool


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


class Taught(Config):
    """Who labelled what networks saw: its network, how its batch norms normalised, its accuracy on training images."""

    network: str
    mode: Literal["eval", "batch-stats"]
    training_accuracy: float


class Evaluation(Config):
    """One set, one protocol, one kind of network: its score and its twin's, with all that a figure has to say.

    `start` is where the networks started and `made_for` where the set means them to, in the words of
    `Recipe.initialisation`; `weights` describes pre-trained or particular ones. `as_meant` says whether they are what
    the set is for (held-out ones, where there is a choice). `before` is the accuracy of pre-trained networks before
    they saw the set. Networks are scored by the true labels, a set for an attack too.

    `chosen` has, for the set (`accuracy`) and for the twin (`random_real`), the setting that did best on validation
    images, and how well (`validation`); None where the protocol leaves no choice. Where no network is trained (k-nn)
    the set has one score, and `start` is `none`. `teacher` labelled what all networks saw; None: images have labels.
    `augmentation` is the name of the caller's own function that took the place of the recipe's; None: the recipe's.
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
        """Whether networks were trained; else `network` names what was scored instead, on `nets` draws of the twin."""
        return self.start != "none"

    @property
    def twin_wins(self) -> bool:
        """Whether the mean accuracy of random real images is at least the set's: no test, which `verdict` is."""
        return self.random_real.mean >= self.accuracy.mean

    @property
    def verdict(self) -> Verdict:
        """Whether the set is ahead of sets of random real images: Student's t for one more draw, paired by network."""
        return new_draw(self.accuracy.per_network, self.random_real.per_network)
