"""`krr-st`: kernel ridge regression on self-supervised targets (Lee et al. 2024).

A teacher that was trained without labels gives each real image its features. Images X and targets Y are learned such
that a network that has learned X -> Y by squared error is a good start for other tasks. The bilevel problem is made
cheap: of the inner one, only the last linear layer is solved, on a network f that is held fixed, and in closed form:

    minimise over X, Y:   || K_rs (K_ss + lambda I)^-1 Y - teacher(x_r) ||^2,   K_ab = f(x_a) f(x_b)^T

over batches of real images x_r. f is drawn from a pool of networks, each of which learns X -> Y by full-batch steps of
the recipe as X and Y change, and each of which is of another age.

This file says what can be set; `distiller` is the loop, `regression` the closed form, `pool` the networks. With
`objective = labels` the same closed form is a linear probe of labels, which bounds what labels would give (CLP-DD);
`inner = unrolled` is the bilevel form that the closed one replaces: a fresh network, trained on X -> Y, with the
gradient through all its steps.
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
        description="first learning rate of AdamW on images and targets; falls to a thousandth along a line (paper: "
        "1e-4 for CIFAR-100, 1e-5 for Tiny-ImageNet and ImageNet)",
    )
    batch_real: int = Field(default=256, ge=1, description="real images in an outer iteration (paper: 1024)")
    ridge: float = Field(default=1e-6, gt=0, description="ridge penalty, as a part of the kernel's trace")
    networks: int = Field(default=10, ge=1, description="networks in the pool")
    online_steps: int = Field(
        default=100,
        ge=1,
        description="steps after which a network of the pool is replaced by a fresh one (paper: 1000)",
    )
    pool: Literal["paper", "as-shipped"] = Field(
        default="paper",
        description="how networks of the pool are replaced: paper: a fresh one grows old in turn; as-shipped: a fresh "
        "one is replaced again at each of its steps, as in the published code, so that soon all are fresh",
    )
    initial: Literal["real", "noise"] = Field(default="real", description="what the images start from")
    initial_targets: Literal["teacher", "noise"] = Field(
        default="teacher",
        description="what the targets start from: the teacher's features of the real images that the images start "
        "from, or noise of the features' mean and deviation, as always where the images start from noise",
    )
    inputs: Literal["normalised", "as-shipped"] = Field(
        default="normalised",
        description="scale of the first images as network inputs: normalised as real images are; as-shipped: pixels in "
        "[0, 1] among normalised real images, as in the published code; drawings of them are pale",
    )
    objective: Literal["features", "labels"] = Field(
        default="features",
        description="what is predicted of real images: the teacher's features, without labels; or labels, by "
        "cross-entropy (a labelled bound, CLP-DD)",
    )
    inner: Literal["krr", "unrolled"] = Field(
        default="krr",
        description="how images and targets are learned from: by the last layer of a network of the pool, in closed "
        "form; or by a fresh network's steps of plain gradient descent at the recipe's rate, with the gradient through "
        "them",
    )
    unrolled_steps: int = Field(default=10, ge=1, description="steps of training of inner 'unrolled'")
    gradient: Literal["full", "adjoint"] = Field(
        default="adjoint",
        description="how inner 'unrolled' is differentiated: full keeps each step's graph, adjoint computes them again",
    )
    bounded: bool = Field(default=False, description="keep pixels between black and white")
    tv: float = Field(default=0.0, ge=0, description="weight of the images' total variation (natural images)")
    l2: float = Field(default=0.0, ge=0, description="weight of the images' mean L2 norm (natural images)")
    teacher: FeatureTeacherConfig = Field(
        default=FeatureTeacherConfig(), description="the self-supervised teacher, and how it is trained"
    )
    recipe: Recipe = Field(
        default=PRETRAINED_ON,
        description="how a backbone is pre-trained on the set; the networks of the pool learn by its optimiser at a "
        "constant rate, all images at each step, without augmentation",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> KRRSTConfig:
        if self.recipe.loss != "mse":
            raise ValueError("recipe.loss: targets are learned as they are, by 'mse'")
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(f"recipe.initialisation: {' or '.join(map(repr, DISTRIBUTIONS))}")
        if self.recipe.optimiser != "sgd":
            raise ValueError("recipe.optimiser: the networks of the pool learn by 'sgd'")
        if self.objective == "labels" and self.initial_targets == "noise":
            raise ValueError("initial_targets: those of objective 'labels' start from labels, and from no noise")
        return self

    @property
    def uses_labels(self) -> bool:
        """Only the labelled bound looks at labels."""
        return self.objective == "labels"

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The teacher, and its features of all real images; nothing for the labelled bound."""
        return krr_st.needed(self, source)

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for too few real images, and for a network that cannot be unrolled."""
        krr_st.check_source(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """An outer iteration."""
        return krr_st.footprint(self, source, size, device)

    def build(self, context: Context) -> KRRSTDistiller:
        """Images and targets before their first step."""
        return krr_st.KRRSTDistiller(self, context)
