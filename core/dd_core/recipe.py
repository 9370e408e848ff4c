"""How to train on a set: what a method means a network to go through, from its first weights to its last epoch.

A field that was added later is written only where it differs from its default: files of earlier versions mean what they
meant, and a set that does not use the field has the bytes that it always had.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment.names import Strategy, resolve_strategy
from dd_core.config import Config, checked
from dd_core.networks.names import family

DISTRIBUTIONS = ("default", "xavier")  # of freshly initialised weights


class ScheduledStep(Config):
    """One step of a learned training order: which block of images, and the learning rate for it."""

    epoch: int = Field(ge=0)
    step: int = Field(ge=0, description="block of images, class-major within it")
    learning_rate: float = Field(gt=0)


class Pretraining(Config):
    """How networks are trained on real images before they meet the set: Adam (0.5, 0.999), halved rate."""

    source: str = Field(
        default="", description="fingerprint of those images; none: the ones distilled. `--pretrain-on` fills it in"
    )
    name: str = Field(default="", description="what those images are called; filled in with the fingerprint")
    epochs: int = Field(default=10, ge=1, description="passes over the images (paper: 40 for MNIST on LeNet)")
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam (paper: 2e-4 for LeNet, else 1e-3)")
    decay_every: int = Field(default=5, ge=1, description="epochs between halvings of that rate")
    batch_size: int = Field(default=128, ge=1, description="images in a mini-batch")


class StartingPool(Config):
    """A pool of starting weights: with the network and the form of the images, all that determines them.

    Network i is the same in a pool of any size.
    """

    distribution: Literal["default", "xavier"] = Field(description="what the networks are drawn from")
    count: int = Field(ge=1, description="networks")
    seed: int = Field(default=0, ge=0, description="of the draws")
    held_out: bool = Field(default=False, description="other draws, for evaluation")
    pretraining: Pretraining | None = Field(default=None, description="none: the weights are as they were drawn")


class Recipe(Config):
    """How to train on the set, as its method meant it."""

    network: str = Field(default="convnet", description="network that the set was distilled with; `list networks`")
    optimiser: Literal["sgd", "adamw"] = Field(default="sgd", description="what updates the weights")
    learning_rate: float = Field(default=0.01, gt=0, description="of the optimiser")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="of the optimiser")
    schedule: Literal["constant", "step", "cosine"] = Field(
        default="step", description="step: times 0.1 after half of the epochs; cosine: to zero"
    )
    epochs: int = Field(default=300, ge=1, description="passes over the set")
    batch_size: int = Field(default=256, ge=1, description="images in a mini-batch")
    augmentation: Strategy = Field(default="none", description="DSA strategy, kinds joined by _; auto: see `dm`")
    align_corners: bool = Field(
        default=True, description="how DSA's scale and rotate place pixels; the ECCV-2024 challenge has it off"
    )
    temperature: float = Field(default=1.0, gt=0, description="of soft targets")
    initialisation: str = Field(
        default="default",
        description="where a network starts: 'default' or 'xavier' distribution, 'pretrained' as `weights` says, "
        "or the very weights by their digest sha256:...",
    )
    weights: StartingPool | None = Field(default=None, description="what pretrained or particular weights are made of")
    steps: tuple[ScheduledStep, ...] = Field(
        default=(), description="learned order and rates; where given, plain SGD over it replaces the epochs"
    )

    @model_validator(mode="after")
    def _weights_are_described(self) -> Recipe:
        if (self.weights is None) != (self.initialisation in DISTRIBUTIONS):
            what = "says nothing of" if self.weights is None else "needs no"
            raise ValueError(f"initialisation '{self.initialisation[:20]}' {what} weights")
        return self

    @property
    def for_one_network(self) -> bool:
        """Whether it holds for one particular network only (the paper's fixed initialisation)."""
        return self.initialisation.startswith("sha256:")

    @field_validator("network")
    @classmethod
    def _network_has_a_name(cls, name: str) -> str:
        return checked(name, family)

    @field_validator("initialisation")
    @classmethod
    def _initialisation_is_known(cls, where: str) -> str:
        if where not in (*DISTRIBUTIONS, "pretrained") and not re.fullmatch("sha256:[0-9a-f]{64}", where):
            raise ValueError("'default', 'xavier', 'pretrained', or 'sha256:' and 64 digits of particular weights")
        return where

    def for_source(self, name: str) -> Recipe:
        """With `auto` spelled out for a source, as a set must carry it."""
        return self.model_copy(update={"augmentation": resolve_strategy(self.augmentation, name)})
