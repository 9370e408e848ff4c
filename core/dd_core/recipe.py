"""How networks train on a distilled set, from their initial weights to their last epoch, as its method intends.

A field that is added to a released `Recipe` is written only where it differs from its default. So files of earlier
versions keep their meaning, and a set that does not use the field keeps its bytes.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment.names import Strategy, resolve_strategy
from dd_core.augment.view_config import Views
from dd_core.config import Config, checked
from dd_core.errors import unknown_name
from dd_core.networks.names import family
from dd_core.networks.origins import FRESH, file_of, require_weights

DISTRIBUTIONS = ("default", "xavier")  # of freshly initialised weights

TEACHER_MODES = ("eval", "batch-stats")

LossName = Literal["cross-entropy", "kl", "kl-t2", "mse"]
Optimiser = Literal["sgd", "adam", "adamw"]
Labelling = Literal["none", "eval", "batch-stats"]
Beta = Annotated[float, Field(ge=0, lt=1)]

BETAS = (0.9, 0.999)  # Kingma and Ba 2015
RATE_BYTES = 4  # a learned learning rate, as float32


class ScheduledStep(Config):
    """One step of a learned training order: a block of images, and the learning rate of the step."""

    epoch: int = Field(ge=0, description="pass over the blocks that the step belongs to, from 0")
    step: int = Field(ge=0, description="block of images that the step learns from, class-major within the block")
    learning_rate: float = Field(gt=0, description="learning rate of this one step")


class Pretraining(Config):
    """How networks are pre-trained on real images: by Adam with betas (0.5, 0.999), its rate halved at intervals."""

    source: str = Field(
        default="", description="fingerprint of the images to pre-train on; empty: the images that are distilled"
    )
    name: str = Field(
        default="", description="name of the images to pre-train on; filled in together with their fingerprint"
    )
    weights: str = Field(
        default=FRESH,
        exclude_if=lambda weights: weights == FRESH,
        description="weights that pre-training begins with: fresh, published (those of timm or torchvision), or a "
        ".safetensors, .pth or .pt file; the last layer is always drawn afresh",
    )
    epochs: int = Field(
        default=10,
        ge=0,
        description="passes over the images (paper: 40 for MNIST on LeNet); 0: the weights are not trained",
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="initial learning rate of Adam (paper: 2e-4 for LeNet, else 1e-3)"
    )
    decay_every: int = Field(default=5, ge=1, description="epochs between two halvings of the learning rate")
    batch_size: int = Field(default=128, ge=1, description="images in a mini-batch")

    @property
    def weights_file(self) -> str | None:
        """The file that `weights` names; None for other weights."""
        return file_of(self.weights)

    @field_validator("weights")
    @classmethod
    def _weights_are_somewhere(cls, weights: str) -> str:
        return require_weights(weights)

    @model_validator(mode="after")
    def _is_trained_somehow(self) -> Pretraining:
        if self.weights == FRESH and self.epochs == 0:
            raise ValueError("epochs: 0 epochs pre-train no fresh weights; give 1 or more, or other weights")
        return self


class StartingPool(Config):
    """A pool of initial weights: with the network and the images' shape, these fields determine the weights.

    Network i does not depend on `count`.
    """

    distribution: Literal["default", "xavier"] = Field(description="distribution that weights are drawn from")
    count: int = Field(ge=1, description="networks in the pool")
    seed: int = Field(default=0, ge=0, description="seed of the draws of weights")
    held_out: bool = Field(
        default=False, description="whether the networks are for evaluation, so that no method distils with them"
    )
    pretraining: Pretraining | None = Field(
        default=None, description="how the networks are pre-trained; none: the drawn weights are not trained"
    )


class Recipe(Config):
    """How to train on a distilled set, as its method intends."""

    network: str = Field(default="convnet", description="network to train, by a name of `dd-apps list networks`")
    optimiser: Optimiser = Field(default="sgd", description="optimiser that updates the weights")
    learning_rate: float = Field(default=0.01, gt=0, description="learning rate of the optimiser")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD; Adam and AdamW have betas instead")
    betas: tuple[Beta, Beta] = Field(
        default=BETAS,
        exclude_if=lambda betas: betas == BETAS,
        description="decay rates of Adam's and AdamW's two moving averages (beta_1, beta_2)",
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser; decoupled in AdamW")
    decayed: Literal["all", "matrices"] = Field(
        default="all",
        exclude_if=lambda decayed: decayed == "all",
        description="weights that decay: all; matrices: all but those with one dimension (biases, norms)",
    )
    schedule: Literal["constant", "step", "cosine"] = Field(
        default="step",
        description="course of the learning rate: constant; step: times 0.1 after half of the epochs; cosine: to zero",
    )
    warmup: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda epochs: epochs == 0,
        description="epochs of linear warm-up, in which the learning rate rises to its full value; 0: no warm-up",
    )
    epochs: int = Field(default=300, ge=1, description="passes over the set")
    batch_size: int = Field(default=256, ge=1, description="images in a mini-batch")
    augmentation: Strategy = Field(
        default="none",
        description="DSA strategy, kinds joined by _; auto: all six kinds, without flip where the images are digits",
    )
    align_corners: bool = Field(
        default=True,
        description="align_corners of grid_sample in DSA's scale and rotate; false in the ECCV-2024 challenge",
    )
    views: Views | None = Field(
        default=None,
        exclude_if=lambda views: views is None,
        description="random views of the images (crops, mirrored and mixed) that networks learn from, drawn anew in "
        "every epoch; none: the images themselves, under `augmentation`",
    )
    teacher: Labelling = Field(
        default="none",
        exclude_if=lambda mode: mode == "none",
        description="whether a teacher labels every view: none: no; eval: yes, with the running statistics of its "
        "batch norms; batch-stats: yes, with the statistics of each mini-batch, as in SRe2L's CIFAR-100 figures",
    )
    loss: LossName = Field(
        default="cross-entropy",
        exclude_if=lambda loss: loss == "cross-entropy",
        description="what is minimised: cross-entropy with labels or soft targets; kl: divergence from soft targets; "
        "kl-t2: kl times the squared temperature; mse: mean squared error to logits or features",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="temperature (T) of soft targets and of the logits that learn from them"
    )
    initialisation: str = Field(
        default="default",
        description="initial weights: drawn from the 'default' or 'xavier' distribution, 'pretrained' (drawn from the "
        "pool `weights`), or those of one network, by their digest sha256:...",
    )
    weights: StartingPool | None = Field(
        default=None, description="pool of pre-trained or particular initial weights; none: weights are drawn afresh"
    )
    steps: tuple[ScheduledStep, ...] = Field(
        default=(),
        description="learned order of training steps, each with its own learning rate; where given, plain SGD takes "
        "these steps instead of `epochs` by `optimiser` and `schedule`",
    )

    @model_validator(mode="after")
    def _weights_are_described(self) -> Recipe:
        if (self.weights is None) != (self.initialisation in DISTRIBUTIONS):
            what = "needs the table" if self.weights is None else "takes no"
            raise ValueError(f"initialisation '{self.initialisation[:20]}' {what} weights")
        return self

    @model_validator(mode="after")
    def _views_can_be_learned(self) -> Recipe:
        if self.views is not None and self.steps:
            raise ValueError("views are drawn for each epoch, and learned steps replace epochs; leave out one")
        if self.loss == "mse" and self.views is not None and self.views.mix != "none":
            raise ValueError(f"loss 'mse' cannot learn targets that {self.views.mix} mixes; set views.mix to none")
        if self.loss == "mse" and self.teacher != "none":
            raise ValueError("loss 'mse' cannot learn a teacher's class probabilities; take 'kl', or no teacher")
        return self

    @property
    def for_one_network(self) -> bool:
        """Whether the set is for one particular network only (fixed initialisation of Wang et al. 2018)."""
        return self.initialisation.startswith("sha256:")

    def learned_rates(self, meant: Recipe) -> int:
        """How many learning rates a method learned beside the images: one for each learned step, one for all, or none.

        `meant` is the recipe of the method's config, before anything was learned.
        """
        return len(self.steps) or int(self.learning_rate != meant.learning_rate)

    @field_validator("network")
    @classmethod
    def _network_has_a_name(cls, name: str) -> str:
        return checked(name, family)

    @field_validator("initialisation")
    @classmethod
    def _initialisation_is_known(cls, initialisation: str) -> str:
        named = (*DISTRIBUTIONS, "pretrained")
        if initialisation not in named and not re.fullmatch("sha256:[0-9a-f]{64}", initialisation):
            raise ValueError(
                f"'{initialisation[:20]}' is not 'default', 'xavier', 'pretrained', or 'sha256:' and 64 digits"
            )
        return initialisation

    def for_source(self, name: str) -> Recipe:
        """The recipe with its `auto` settings (augmentation, mirrored views) resolved for the source `name`."""
        views = None if self.views is None else self.views.for_source(name)
        return self.model_copy(update={"augmentation": resolve_strategy(self.augmentation, name), "views": views})


def check_mode(mode: str) -> None:
    """Raise `UserError` for a word that is none of `TEACHER_MODES`."""
    if mode not in TEACHER_MODES:
        raise unknown_name("mode of a teacher", mode, TEACHER_MODES)
