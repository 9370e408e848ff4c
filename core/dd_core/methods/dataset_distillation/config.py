"""`dataset-distillation`: learned images and learning rates (Wang, Zhu, Torralba and Efros 2018, algorithm 1).

A network takes a few steps of gradient descent on the synthetic images, each step with a learning rate of its
own, and the loss of where it arrives on *real* images is what images and rates descend on, through all steps:

    theta_{t+1} = theta_t - eta_t grad l(x_t, theta_t)        minimise over x, eta:  E_theta_0  l(x_real, theta_T)

`start` says what theta_0 is. `random`: drawn anew at every outer iteration, so that the set is good for any draw from
that distribution. `fixed`: one draw, and the set is good for that network only, whose digest is in the recipe. The
pre-trained ones start from networks trained on real images: a pool to draw from, or one of them (section 3.3; where
those images are another data set's, the set adapts a network to the one that is distilled). `attack` is the
paper's section 3.5, and not for use: networks are to take one class for another.

The authors' code has Adam (0.5, 0.999), noise to start from, rates kept positive by softplus and halved steps; its
defaults are 10 blocks, 3 epochs, alpha 0.01 and eta_0 0.02 on LeNet. Ours suit one image a class of small images, and
were chosen on a split of the digits' training images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from dd_core.artefacts import ArtefactSpec
from dd_core.distilled import Size
from dd_core.distiller import Context, MethodConfig, PixelsConfig
from dd_core.errors import UserError, unknown_name
from dd_core.methods import dataset_distillation
from dd_core.recipe import DISTRIBUTIONS, Pretraining, Recipe, StartingPool
from dd_core.system.budget import BATCH_BYTES, BatchBytes, Footprint

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.dataset_distillation.distiller import DatasetDistillationDistiller

POOL = "starting weights"  # role of the networks to start from, where they are not drawn anew all the time

Start = Literal["random", "fixed", "random-pretrained", "fixed-pretrained"]


class DatasetDistillationConfig(PixelsConfig):
    """Hyper-parameters of dataset distillation; the recipe's network is the one that learns (theta)."""

    name: ClassVar[str] = "dataset-distillation"
    summary: ClassVar[str] = "learned images and learning rates for a few steps of training (Wang et al. 2018)"

    steps: int = Field(default=1000, ge=0, description="outer iterations")
    blocks: int = Field(
        default=1,
        ge=1,
        description="blocks that the images of each class are dealt to equally; an inner step learns from one block",
    )
    epochs: int = Field(
        default=10,
        ge=1,
        description="passes of the inner loop over the blocks; every step of it has a learning rate of its own (eta)",
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
        description="learning rate of Adam on the inner learning rates before softplus; none: lr_img, as in the paper, "
        "with which they can overshoot",
    )
    decay_every: int = Field(
        default=0,
        ge=0,
        description="outer iterations between two halvings of Adam's learning rates; 0: a quarter of steps",
    )
    clip: float | None = Field(
        default=None,
        gt=0,
        description="largest norm that the gradient of the pixels, and that of the inner learning rates, is cut to "
        "before Adam: some random networks give a hundred times the usual norm; none: no cut, as in the paper",
    )
    lr_inner: float = Field(default=0.3, gt=0, description="initial learning rate of every inner step (eta_0)")
    gradient: Literal["auto", "full", "adjoint", "truncated"] = Field(
        default="auto",
        description="how the outer loss is differentiated through the inner steps: full keeps every step's graph, "
        "adjoint computes the steps again, truncated looks at the last `window` steps only; auto: full while the "
        "graphs fit into half of the memory that is free at the first step, else adjoint (the two differ by rounding)",
    )
    window: int | None = Field(
        default=None, ge=1, description="last inner steps that gradient 'truncated' differentiates through"
    )
    start: Start = Field(
        default="random",
        description="where networks start (theta_0): random, drawn anew in each outer iteration; fixed, one network "
        "and no other; random-pretrained, any network of a pool of pre-trained ones; fixed-pretrained, one pre-trained "
        "network",
    )
    start_seed: int = Field(
        default=0, ge=0, description="seed of the starting weights, where start is fixed or pretrained"
    )
    pool: int = Field(
        default=20,
        ge=1,
        description="pre-trained networks that start random-pretrained draws from (paper: 200 to 2000)",
    )
    pretraining: Pretraining = Field(
        default=Pretraining(), description="how networks are pre-trained, where start is pretrained"
    )
    attack: tuple[str, str] | None = Field(
        default=None,
        description="two classes, for the paper's attack experiment: networks that train on the set are to take images "
        "of the first class for the second; none: no attack",
    )
    recipe: Recipe = Field(
        default=Recipe(network="convnet-1-w64-nonorm", initialisation="xavier"),
        description="the network that learns from the set (theta) and how it is initialised; the learned order and "
        "learning rates are filled in",
    )

    @field_validator("recipe")
    @classmethod
    def _recipe_names_a_distribution(cls, recipe: Recipe) -> Recipe:
        if recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError("initialisation: 'default' or 'xavier'; `start` says what is fixed or pre-trained")
        return recipe

    def starting_weights(self, source: Source) -> StartingPool | None:
        """The pool that theta_0 comes from; None where it is drawn anew all the time."""
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
        """The networks to start from, unless they are drawn anew all the time."""
        weights = self.starting_weights(source)
        return {} if weights is None else {POOL: dataset_distillation.pool_spec(self, source, weights)}

    def pretrained_on(self, other: Source) -> MethodConfig:
        """The same, adapting networks that are pre-trained on `other`; raises `UserError` where `start` has none."""
        if not self.start.endswith("pretrained"):
            raise UserError(f"start '{self.start}' pre-trains no networks; random-pretrained and fixed-pretrained do")
        return self.model_copy(update={"pretraining": dataset_distillation.pretrained_on(other, self.pretraining)})

    def rehearsal(self, source: Source, size: Size) -> tuple[MethodConfig, Source]:
        """The same steps, with networks that are drawn anew."""
        return self.model_copy(update={"start": "random"}), source

    @property
    def starts(self) -> Literal["fresh", "pretrained", "one"]:
        """Where networks start that its sets are for."""
        starts: dict[str, Literal["fresh", "pretrained", "one"]] = {
            "random": "fresh",
            "random-pretrained": "pretrained",
        }
        return starts.get(self.start, "one")

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for what would fail, or silently mislead, in the loop.

        Images that are no grid of tiles, blocks that do not divide the images that networks see of each class, a window
        that is not within the steps, an attack on a class that is none, and a network whose outputs depend on more
        than its arguments.
        """
        super().check(source, size)
        dataset_distillation.check_steps(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of the inner loop over the images of a block, and of the outer loss within its budget."""
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
            raise UserError(f"attack: '{self.attack[0]}' is not to be taken for itself; name two classes")
        return victim, target

    def build(self, context: Context) -> DatasetDistillationDistiller:
        """Start from noise; raises what `check` raises."""
        self.check(context.source, context.size)
        return dataset_distillation.DatasetDistillationDistiller(self, context)
