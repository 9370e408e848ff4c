"""`krr-st`: kernel ridge regression on self-supervised targets (Lee et al. 2024).

A teacher that was trained without labels gives each real image its features. Images X and targets Y are learned such
that a network that has learned X -> Y by squared error is a good start for other tasks. The bilevel problem is made
cheap: its inner problem is solved for the last linear layer alone, in closed form, on top of a fixed network f:

    minimise over X, Y:   || K_rs (K_ss + lambda I)^-1 Y - teacher(x_r) ||^2,   K_ab = f(x_a) f(x_b)^T

over batches of real images x_r. f is drawn from a pool of networks of different ages, which learn X -> Y by full-batch
steps of the recipe's SGD while X and Y change.

This file has the options; `distiller` is the loop, `regression` the closed form, `pool` the networks. With
`objective = labels` the same closed form is a linear probe of labels (as in CLP-DD): a labelled counterpart to compare
with. `inner = unrolled` is the bilevel form that the closed form replaces: a fresh network is trained on X -> Y, with
the gradient through all its steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dd_core.artefacts import ArtefactSpec
from dd_core.distilled import Size
from dd_core.distiller import Context, MethodConfig
from dd_core.methods import krr_st
from dd_core.recipe import DISTRIBUTIONS, Recipe
from dd_core.training.feature_teacher_config import FeatureTeacherConfig

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.krr_st import KRRSTDistiller
    from dd_core.system.budget import Footprint

TEACHER, FEATURES = "teacher", "features"  # roles among the artefacts

PRETRAINED_ON = Recipe(
    network="convnet-batchnorm",
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=1e-3,
    schedule="constant",
    epochs=1000,
    batch_size=256,
    loss="mse",
)


class KRRSTConfig(MethodConfig):
    """Hyper-parameters of KRR-ST."""

    name: ClassVar[str] = "krr-st"
    summary: ClassVar[str] = "images with features for pre-training, from images without labels (Lee et al. 2024)"

    steps: int = Field(default=1000, ge=0, description="outer iterations (paper: 160,000)")
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="initial learning rate of AdamW on images and targets; falls linearly to a thousandth of it "
        "(paper: 1e-4 for CIFAR-100, 1e-5 for Tiny-ImageNet and ImageNet)",
    )
    batch_real: int = Field(default=256, ge=1, description="real images in an outer iteration (paper: 1024)")
    ridge: float = Field(default=1e-6, gt=0, description="ridge penalty (lambda), as a fraction of the kernel's trace")
    networks: int = Field(default=10, ge=1, description="networks in the pool")
    online_steps: int = Field(
        default=100,
        ge=1,
        description="steps of training after which a network of the pool is replaced by a fresh one (paper: 1000)",
    )
    pool: Literal["paper", "as-shipped"] = Field(
        default="paper",
        description="what follows when a network of the pool is replaced by a fresh one: paper: the fresh network is "
        "trained for online_steps steps in turn; as-shipped: it is replaced again at every step, as in the published "
        "code, so that in the end all networks are fresh",
    )
    initial: Literal["real", "noise"] = Field(
        default="real", description="what the synthetic images start from: random real images, or normal noise"
    )
    initial_targets: Literal["teacher", "noise"] = Field(
        default="teacher",
        description="what the targets start from: teacher: the teacher's features of the real images that the "
        "synthetic images start from; noise: normal noise with the features' mean and standard deviation, as always "
        "where `initial` is noise",
    )
    inputs: Literal["normalised", "as-shipped"] = Field(
        default="normalised",
        description="scale in which synthetic images start: normalised, as real images are; as-shipped: pixels in "
        "[0, 1] beside normalised real images, as in the published code, which makes pale pictures",
    )
    objective: Literal["features", "labels"] = Field(
        default="features",
        description="what the regression predicts for real images: features: the teacher's features, without labels; "
        "labels: class labels, by cross-entropy, a supervised counterpart to compare with (CLP-DD)",
    )
    inner: Literal["krr", "unrolled"] = Field(
        default="krr",
        description="how a network learns from images and targets: krr: the last layer of a network of the pool, in "
        "closed form; unrolled: a fresh network, by plain gradient descent at the recipe's learning rate, with the "
        "gradient through its steps",
    )
    unrolled_steps: int = Field(default=10, ge=1, description="steps of gradient descent, where `inner` is unrolled")
    gradient: Literal["full", "adjoint"] = Field(
        default="adjoint",
        description="how inner 'unrolled' is differentiated: full keeps each step's graph, adjoint computes each step "
        "again",
    )
    bounded: bool = Field(default=False, description="keep pixels between black and white")
    tv: float = Field(
        default=0.0, ge=0, description="weight of the images' total variation in the loss, for photographs; 0: none"
    )
    l2: float = Field(
        default=0.0, ge=0, description="weight of the images' mean L2 norm in the loss, for photographs; 0: none"
    )
    teacher: FeatureTeacherConfig = Field(
        default=FeatureTeacherConfig(), description="the self-supervised teacher, and how it is trained"
    )
    recipe: Recipe = Field(
        default=PRETRAINED_ON,
        description="how a backbone is pre-trained on the set; networks of the pool learn by the recipe's SGD at a "
        "constant rate, from all images at each step, without augmentation",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> KRRSTConfig:
        if self.recipe.loss != "mse":
            raise ValueError(f"recipe.loss: {self.name} learns targets by 'mse', not by '{self.recipe.loss}'")
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(
                f"recipe.initialisation: give {' or '.join(map(repr, DISTRIBUTIONS))}, "
                f"not '{self.recipe.initialisation[:20]}'"
            )
        if self.recipe.optimiser != "sgd":
            raise ValueError(f"recipe.optimiser: networks of the pool learn by 'sgd', not by '{self.recipe.optimiser}'")
        if self.objective == "labels" and self.initial_targets == "noise":
            raise ValueError(
                "initial_targets: with objective 'labels' targets start from labels, not from 'noise'; leave it out"
            )
        return self

    @property
    def uses_labels(self) -> bool:
        """Whether the method uses labels: only with `objective` labels."""
        return self.objective == "labels"

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The teacher, and its features of all real images; nothing with `objective` labels."""
        return krr_st.needed(self, source)

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for too few real images, for missing labels, and for a network without features.

        With `inner` unrolled, also for a network with batch norm or dropout.
        """
        krr_st.check_source(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of an outer iteration."""
        return krr_st.footprint(self, source, size, device)

    def build(self, context: Context) -> KRRSTDistiller:
        """Images and targets before their first step."""
        return krr_st.KRRSTDistiller(self, context)
