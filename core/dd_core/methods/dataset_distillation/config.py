"""`dataset-distillation`: learned images and learning rates (Wang, Zhu, Torralba and Efros 2018, algorithm 1).

A network takes a few steps of gradient descent on the synthetic images, each step with a learning rate of its own.
Images and rates are then updated by the gradient, through all steps, of the network's final loss on *real* images:

    theta_{t+1} = theta_t - eta_t grad l(x_t, theta_t)        minimise over x, eta:  E_theta_0  l(x_real, theta_T)

`start` says what theta_0 is. `random`: drawn anew at every outer iteration, so that the set is good for any draw from
that distribution. `fixed`: one draw, and the set is good for that network only, whose digest is in the recipe.
`random-pretrained` and `fixed-pretrained`: drawn from a pool of networks trained on real images, or one such network
(section 3.3; networks that were trained on another data set are adapted to the one that is distilled). `attack` is the
paper's section 3.5, and not for use: networks that train on the set take images of one class for another.

As in the authors' code, Adam has the betas (0.5, 0.999) and a learning rate that is halved again and again, images
start from noise, and softplus keeps the inner learning rates positive. The authors' defaults are 10 blocks, 3 epochs,
alpha 0.01 and eta_0 0.02 on LeNet. Ours suit one image a class of small images, and were chosen on a validation split
of the training images of `digits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dd_core.artefacts import ArtefactSpec
from dd_core.distilled import Size
from dd_core.distiller import Context, MethodConfig, PixelsConfig
from dd_core.errors import UserError, unknown_name
from dd_core.methods import dataset_distillation
from dd_core.recipe import DISTRIBUTIONS, Pretraining, Recipe, StartingPool
from dd_core.system.budget import BATCH_BYTES, BatchBytes, Footprint
from dd_core.unroll.options import Compile, require_pairs

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.dataset_distillation.distiller import DatasetDistillationDistiller

POOL = "starting weights"  # role, among the artefacts, of the networks to start from, unless `start` is random

Start = Literal["random", "fixed", "random-pretrained", "fixed-pretrained"]


class DatasetDistillationConfig(PixelsConfig):
    """Hyper-parameters of dataset distillation; the recipe's network is the one that learns (theta)."""

    name: ClassVar[str] = "dataset-distillation"
    summary: ClassVar[str] = "learned images and learning rates for a few steps of training (Wang et al. 2018)"

    steps: int = Field(default=1000, ge=0, description="outer iterations")
    blocks: int = Field(
        default=1,
        ge=1,
        description="blocks into which the images of each class are divided equally; each inner step takes one block",
    )
    epochs: int = Field(
        default=10,
        ge=1,
        description="passes of the inner loop over all blocks; each of the blocks x epochs inner steps has its own "
        "learned learning rate (eta)",
    )
    networks: int = Field(
        default=1, ge=1, description="initial networks whose gradients are averaged in an outer iteration"
    )
    batch_real: int = Field(
        default=1024, ge=1, description="real images that the outer loss of an outer iteration is computed on"
    )
    batch_bytes: BatchBytes = Field(
        default=BATCH_BYTES,
        description="bytes of images and activations that a batch of real images may take in the network; beyond them "
        "the outer loss is computed in parts",
    )
    lr_img: float = Field(default=0.02, gt=0, description="learning rate of Adam on the pixels (alpha)")
    lr_rates: float | None = Field(
        default=None,
        gt=0,
        description="learning rate of Adam on the inner learning rates, before softplus; none: lr_img, as in the "
        "paper, which can make the inner learning rates overshoot",
    )
    decay_every: int = Field(
        default=0,
        ge=0,
        description="outer iterations between two halvings of Adam's learning rates; 0: a quarter of steps",
    )
    clip: float | None = Field(
        default=None,
        gt=0,
        description="largest norm of the pixels' gradient, and of the inner learning rates' gradient; larger gradients "
        "are scaled down before Adam, as some random networks give a hundred times the usual norm; none: no clipping, "
        "as in the paper",
    )
    lr_inner: float = Field(default=0.3, gt=0, description="initial learning rate of every inner step (eta_0)")
    gradient: Literal["auto", "full", "adjoint", "truncated"] = Field(
        default="auto",
        description="how the outer loss is differentiated through the inner steps: full keeps every step's graph, "
        "adjoint computes each step again and holds one step's graph, truncated differentiates through the last "
        "`window` steps only; auto: full if the graphs fit into half of the memory that is free at the first step "
        "and steps are neither compiled nor captured, else adjoint (full and adjoint differ by rounding)",
    )
    compile: Compile = None
    window: int | None = Field(
        default=None, ge=1, description="last inner steps that gradient 'truncated' differentiates through"
    )
    start: Start = Field(
        default="random",
        description="initial weights of networks (theta_0): random, drawn anew in each outer iteration; fixed, one "
        "random network for all iterations; random-pretrained, drawn from a pool of pre-trained networks; "
        "fixed-pretrained, one pre-trained network",
    )
    start_seed: int = Field(default=0, ge=0, description="seed of the initial weights, for every start but random")
    pool: int = Field(
        default=20,
        ge=1,
        description="number of pre-trained networks to draw from, for start random-pretrained (paper: 200 to 2000)",
    )
    pretraining: Pretraining = Field(
        default=Pretraining(),
        description="how networks are pre-trained, for start random-pretrained and fixed-pretrained",
    )
    attack: tuple[str, str] | None = Field(
        default=None,
        description="two classes, for the paper's attack experiment: networks that train on the set should take images "
        "of the first class for the second; none: no attack",
    )
    recipe: Recipe = Field(
        default=Recipe(network="convnet-1-w64-nonorm", initialisation="xavier"),
        description="the network that learns from the set (theta) and how it is initialised; the order of inner steps "
        "and their learned learning rates are filled in",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> DatasetDistillationConfig:
        require_pairs(self.gradient, compile=self.compile)
        return self

    @field_validator("recipe")
    @classmethod
    def _recipe_names_a_distribution(cls, recipe: Recipe) -> Recipe:
        if recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(
                f"initialisation: give 'default' or 'xavier', not '{recipe.initialisation[:20]}'; for fixed or "
                "pre-trained weights set `start`"
            )
        return recipe

    def starting_weights(self, source: Source) -> StartingPool | None:
        """The pool that theta_0 is taken from; None where `start` is random."""
        if self.start == "random":
            return None
        given = self.pretraining
        pretraining = given if given.source else dataset_distillation.pretrained_on(source, given)
        return StartingPool(
            distribution="xavier" if self.recipe.initialisation == "xavier" else "default",
            count=self.pool if self.start == "random-pretrained" else 1,
            seed=self.start_seed,
            pretraining=None if self.start == "fixed" else pretraining,
        )

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The pool of networks to start from; nothing where `start` is random."""
        weights = self.starting_weights(source)
        return {} if weights is None else {POOL: dataset_distillation.pool_spec(self, source, weights)}

    def pretrained_on(self, other: Source) -> MethodConfig:
        """This config with networks that are pre-trained on `other`; raises `UserError` where `start` has none."""
        if not self.start.endswith("pretrained"):
            raise UserError(
                f"start '{self.start}' pre-trains no networks; take start random-pretrained or fixed-pretrained"
            )
        return self.model_copy(update={"pretraining": dataset_distillation.pretrained_on(other, self.pretraining)})

    def rehearsal(self, source: Source, size: Size) -> tuple[MethodConfig, Source]:
        """The same steps, with freshly drawn networks instead of pre-trained ones."""
        compile = None if self.compile else self.compile  # a forecast waits for no compiler
        return self.model_copy(update={"start": "random", "compile": compile}), source

    @property
    def starts(self) -> Literal["fresh", "pretrained", "one"]:
        """The initial weights of the networks that the sets are for: see `MethodConfig.starts`."""
        starts: dict[str, Literal["fresh", "pretrained", "one"]] = {
            "random": "fresh",
            "random-pretrained": "pretrained",
        }
        return starts.get(self.start, "one")

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for what would fail, or silently mislead, in the loop.

        That is: images that the formation cannot cut into tiles, blocks that do not divide the images that networks see
        of each class, a window outside the steps, an attack that does not name two classes, and a network whose outputs
        depend on more than weights and images (batch norm, dropout).
        """
        super().check(source, size)
        dataset_distillation.check_steps(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of the inner loop over the images of a block, and of the outer loss within `batch_bytes`."""
        return dataset_distillation.footprint(self, source, size, device)

    def attacked(self, source: Source) -> tuple[int, int] | None:
        """The labels of the attack's two classes; raises `UserError` where they are not two classes of `source`."""
        if self.attack is None:
            return None
        for name in self.attack:
            if name not in source.classes:
                raise unknown_name("class", name, source.classes)
        victim, target = map(source.classes.index, self.attack)
        if victim == target:
            raise UserError(f"attack: '{self.attack[0]}' is named twice; name two different classes")
        return victim, target

    def build(self, context: Context) -> DatasetDistillationDistiller:
        """Start from noise; raises what `check` raises."""
        self.check(context.source, context.size)
        return dataset_distillation.DatasetDistillationDistiller(self, context)
