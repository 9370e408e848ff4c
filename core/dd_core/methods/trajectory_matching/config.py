"""`mtt`, `ftd`, `datm`, `m-datm`, `tesla`: matching training trajectories (Cazenavette et al. 2022).

Experts are trained on the real images, and their weights are kept after every epoch. A student starts from an expert's
weights, learns from the synthetic images for N steps, and should reach the expert's weights of M epochs later
(equation 2):

    theta_0 = expert_t,   theta_{i+1} = theta_i - alpha grad l(A(x), theta_i),   i = 0 .. N-1

    minimise over x and alpha:   || theta_N - expert_{t+M} ||^2 / || expert_t - expert_{t+M} ||^2

The start t is uniform in [T-, T+), A is the augmentation (DSA), drawn anew at every inner step, and alpha, the
student's learning rate, becomes the learning rate of the set's recipe. The other methods are other defaults:

- `ftd` (Du et al. 2023): experts in flat minima, and an average of the pixels over the outer iterations;
- `datm` (Guo et al. 2024): experts in flat minima; t from [T-, T), where T grows from T_0 to T+; initial images that an
  expert classifies rightly; learned soft labels, at first the experts' mean logits; no update where the loss is high;
- `m-datm` (the ECCV-2024 challenge's winner, arXiv 2410.13311): `datm` for an evaluator that ignores the set's labels
  and learning rate: hard labels, a fixed alpha, and a narrow range of easy epochs;
- `tesla` (Cui et al. 2023): an approximate gradient, which holds the graph of one inner step at a time.

This file has the options; `distiller` is the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dd_core.artefacts import ArtefactSpec
from dd_core.augment.names import Strategy
from dd_core.distilled import Size
from dd_core.distiller import Context, MethodConfig, PixelsConfig
from dd_core.methods import trajectory_matching
from dd_core.methods.trajectory_matching.expert_training import Sharpness, Training
from dd_core.recipe import DISTRIBUTIONS, Recipe
from dd_core.system.budget import Footprint
from dd_core.unroll.options import Compile, require_pairs

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.trajectory_matching.distiller import TrajectoryMatchingDistiller

EXPERTS = "experts"  # role of the experts among the artefacts


class MTTConfig(PixelsConfig):
    """Hyper-parameters of matching training trajectories; experts and students are the recipe's network."""

    name: ClassVar[str] = "mtt"
    summary: ClassVar[str] = "learned images that lead networks along the paths of experts (Cazenavette et al. 2022)"

    steps: int = Field(default=300, ge=0, description="outer iterations (paper: 5000; DATM: 10000)")
    syn_steps: int = Field(default=20, ge=1, description="steps of a student on the synthetic images (N)")
    expert_epochs: int = Field(
        default=2, ge=1, description="epochs of the expert that the student's syn_steps steps should match (M)"
    )
    first_epoch: int = Field(
        default=0,
        ge=0,
        description="first epoch of an expert whose weights a student may start from (T-); 0: the initial weights",
    )
    last_epoch: int = Field(
        default=10, ge=1, description="end (exclusive) of an expert's epochs that a student may start from (T+)"
    )
    range_start: int | None = Field(
        default=None,
        ge=1,
        description="initial end of the start-epoch range (T_0); grows to last_epoch; none: last_epoch from the "
        "beginning",
    )
    range_growth: int = Field(
        default=100,
        ge=1,
        description="outer iterations in which the end of the start-epoch range grows from range_start to last_epoch",
    )
    range_below: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="running mean of the loss below which the start-epoch range grows by one epoch, and the mean is "
        "reset to 1; none: the range grows with the outer iterations, by range_growth",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        description="loss above which an outer iteration updates nothing (DATM: 1); none: all iterations update",
    )
    initial: Literal["random", "right"] = Field(
        default="random",
        description="real images that the set starts from: random ones, or random ones that an expert classifies "
        "rightly",
    )
    soft_labels: bool = Field(
        default=False,
        description="learn soft labels beside the pixels; each starts as the mean logits of the experts that "
        "classify its image rightly",
    )
    lr_label: float = Field(default=0.5, ge=0, description="learning rate of SGD on the soft labels' logits (lr_y)")
    batch_syn: int | None = Field(
        default=None, ge=1, description="synthetic images in a student's mini-batch; none: all of them"
    )
    lr_img: float = Field(
        default=100.0,
        ge=0,
        description="learning rate of SGD on the pixels; 0: images stay the real ones that the set starts from, and "
        "only soft labels are learned",
    )
    lr_lr: float = Field(
        default=1e-7, ge=0, description="learning rate of SGD on the student's learning rate; 0 leaves it as it is"
    )
    momentum: float = Field(
        default=0.5, ge=0, lt=1, description="momentum of SGD on the pixels and on the student's learning rate"
    )
    ema: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="decay of a moving average of the pixels over the outer iterations, which becomes the set; none: "
        "the last pixels become the set",
    )
    lr_student: float = Field(default=0.005, gt=0, description="initial learning rate of a student (alpha)")
    zca: bool = Field(
        default=False,
        description="whiten images (ZCA fitted on the real images) for experts, students and the set",
    )
    statistics: Literal["data", "imagenet"] = Field(
        default="data",
        description="mean and std that images are normalised with: data: of the real images; imagenet: ImageNet's; "
        "with zca images are whitened instead",
    )
    augmentation: Strategy = Field(
        default="auto",
        description="DSA strategy that a student's mini-batches are augmented with (A); none: no augmentation; auto: "
        "all transforms, without flip for digits",
    )
    gradient: Literal["auto", "full", "adjoint", "truncated", "tesla"] = Field(
        default="auto",
        description="how the distance is differentiated through a student's steps: full keeps every step's graph, "
        "adjoint computes each step again and holds one step's graph, truncated differentiates through the last "
        "`window` steps only, tesla approximates the gradient and holds one step's graph; auto: full if the graphs fit "
        "into half of the free memory and steps are neither compiled nor captured, else adjoint",
    )
    compile: Compile = None
    amp: bool = Field(
        default=False,
        exclude_if=lambda amp: not amp,
        description="whether students compute in mixed precision (bfloat16, torch's autocast), with float32 weights; "
        "the cosine that `cosine_every` logs is to float32's gradient then, and logged every 100 iterations by default",
    )
    window: int | None = Field(
        default=None, ge=1, description="number of last student steps that gradient 'truncated' differentiates through"
    )
    cosine_every: int = Field(
        default=0,
        ge=0,
        description="outer iterations between two logs of the cosine between the pixels' gradient, as `gradient` "
        "computes it, and the exact gradient; 0: no such log",
    )
    also: Literal["features", "gradients"] | None = Field(
        default=None,
        description="second distance that is minimised, between synthetic and real images of each class at the "
        "weights where a student starts: of mean features (DM) or of gradients (DC); none: no second distance",
    )
    also_weight: float = Field(default=0.1, gt=0, description="weight of the second distance that `also` names")
    batch_real: int = Field(
        default=64, ge=1, description="real images of each class in the second distance that `also` names"
    )
    experts: int = Field(default=10, ge=1, description="number of experts (paper: 100)")
    experts_seed: int = Field(
        default=0, ge=0, description="seed of the experts' initial weights, orders of images and augmentations"
    )
    keep: Literal["matched", "all"] = Field(
        default="matched",
        description="epochs of an expert whose weights are kept in the cache: matched: those of the start-epoch range "
        "and its targets; all: all epochs, so that runs with other ranges use the same experts",
    )
    training: Training = Field(default=Training(augmentation="auto"), description="how experts are trained")
    recipe: Recipe = Field(
        default=Recipe(epochs=1001, augmentation="auto"),
        description="how networks train on the set, and the network of experts and students; the student's final "
        "learning rate is filled in",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MTTConfig:
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(
                f"recipe.initialisation: give {' or '.join(map(repr, DISTRIBUTIONS))}, "
                f"not '{self.recipe.initialisation[:20]}'"
            )
        start = self.last_epoch if self.range_start is None else self.range_start
        if not self.first_epoch < start <= self.last_epoch:
            what = "" if self.range_start is None else f", range_start {start}"
            raise ValueError(
                f"students can start from no epoch: first_epoch {self.first_epoch}{what}, last_epoch "
                f"{self.last_epoch}; give first_epoch < range_start <= last_epoch"
            )
        if self.zca and self.statistics != "data":
            raise ValueError(
                f"statistics '{self.statistics}' normalise pixels, and zca whitens them instead; leave out one"
            )
        if self.zca and (self.formation != 1 or self.clamp):
            raise ValueError("formation and clamp need pixels that are not whitened; leave them out, or leave out zca")
        if self.lr_img == 0 and not (self.soft_labels and self.lr_label):
            raise ValueError(
                "lr_img 0 learns no pixels, so set soft_labels and an lr_label above 0, or a larger lr_img"
            )
        if self.soft_labels and self.formation != 1:
            raise ValueError(
                "formation stores several images in one, and soft_labels are learned for one image each; leave out one"
            )
        if self.range_below is not None and self.range_start is None:
            raise ValueError("range_below says when the range grows, and needs a range_start to grow from")
        if self.matched > self.training.epochs:
            raise ValueError(
                f"last_epoch {self.last_epoch} and expert_epochs {self.expert_epochs} need experts of "
                f"{self.matched} epochs; training.epochs is {self.training.epochs}, raise it"
            )
        require_pairs(self.gradient, compile=self.compile)
        if self.gradient == "truncated" and (self.window is None or self.window > self.syn_steps):
            raise ValueError(f"gradient 'truncated' needs a window from 1 to {self.syn_steps} steps, not {self.window}")
        return self

    @property
    def matched(self) -> int:
        """The last epoch of an expert that students are compared with."""
        return self.last_epoch - 1 + self.expert_epochs

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The experts, and with `zca` the whitening of their images."""
        experts = trajectory_matching.experts_spec(self, source)
        return {EXPERTS: experts, **experts.needs()}

    def rehearsal(self, source: Source, size: Size) -> tuple[MethodConfig, Source]:
        """The same student steps, with one expert that learns from a few images for one epoch."""
        return trajectory_matching.rehearsal(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of a step of an expert, or of a student's steps with their gradient, whichever is larger."""
        return trajectory_matching.footprint(self, source, size, device)

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for what would fail after experts have been trained.

        That is: a class with too few images to start from, images that the formation cannot cut into tiles or that are
        too large to be whitened, ImageNet's statistics for images without 3 channels, and a network whose outputs
        depend on more than weights and images (batch norm, dropout).
        """
        super().check(source, size)
        trajectory_matching.check_source(self, source, size)

    def build(self, context: Context) -> TrajectoryMatchingDistiller:
        """Start from real images; raises what `check` raises."""
        self.check(context.source, context.size)
        return trajectory_matching.TrajectoryMatchingDistiller(self, context)


FLAT = Training(augmentation="auto", sharpness=Sharpness())


class FTDConfig(MTTConfig):
    """Hyper-parameters of FTD: trajectory matching with experts in flat minima, and averaged pixels."""

    name: ClassVar[str] = "ftd"
    summary: ClassVar[str] = "mtt with experts in flat minima, and averaged images (Du et al. 2023)"

    ema: float | None = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="decay of a moving average of the pixels over the outer iterations, which becomes the set "
        "(paper: 0.999 to 0.9999 in 5000 iterations); none: the last pixels become the set",
    )
    training: Training = Field(default=FLAT, description="how experts are trained: towards flat minima, by GSAM")


class DATMConfig(MTTConfig):
    """Hyper-parameters of DATM: start epochs whose difficulty suits the size of the set, and soft labels."""

    name: ClassVar[str] = "datm"
    summary: ClassVar[str] = (
        "mtt from start epochs whose difficulty suits the size of the set, with soft labels (Guo et al. 2024)"
    )

    range_start: int | None = Field(
        default=5,
        ge=1,
        description="initial end of the start-epoch range (T_0); grows to last_epoch; none: last_epoch from the "
        "beginning",
    )
    threshold: float | None = Field(
        default=1.0,
        gt=0,
        description="loss above which an outer iteration updates nothing; none: all iterations update",
    )
    initial: Literal["random", "right"] = Field(
        default="right",
        description="real images that the set starts from: random ones, or random ones that an expert classifies "
        "rightly",
    )
    soft_labels: bool = Field(
        default=True,
        description="learn soft labels beside the pixels; each starts as the mean logits of the experts that "
        "classify its image rightly",
    )
    training: Training = Field(
        default=FLAT.model_copy(update={"epochs": 20}),
        description="how experts are trained: towards flat minima, by GSAM; the experts of the last epoch choose the "
        "images that the set starts from, and give the initial soft labels",
    )


class MDATMConfig(DATMConfig):
    """Hyper-parameters of M-DATM: DATM for an evaluator that sets the hard labels and the learning rate itself."""

    name: ClassVar[str] = "m-datm"
    summary: ClassVar[str] = "datm for networks that are trained with hard labels (ECCV 2024 challenge)"

    syn_steps: int = Field(default=5, ge=1, description="steps of a student on the synthetic images (N)")
    last_epoch: int = Field(
        default=5,
        ge=1,
        description="end (exclusive) of an expert's epochs that a student may start from (T+); early epochs are easy "
        "to match",
    )
    range_start: int | None = Field(
        default=None,
        ge=1,
        description="initial end of the start-epoch range (T_0); grows to last_epoch; none: last_epoch from the "
        "beginning",
    )
    soft_labels: bool = Field(
        default=False,
        description="learn soft labels beside the pixels; the challenge's evaluator ignores them, as it labels images "
        "by their place in the set",
    )
    lr_lr: float = Field(
        default=0.0,
        ge=0,
        description="learning rate of SGD on the student's learning rate; 0 leaves the student's rate at lr_student",
    )
    lr_student: float = Field(
        default=0.01, gt=0, description="learning rate of a student (alpha); 0.01 is that of the challenge's evaluator"
    )


class TESLAConfig(MTTConfig):
    """Hyper-parameters of TESLA: trajectory matching by its approximate gradient (see `unroll`)."""

    name: ClassVar[str] = "tesla"
    summary: ClassVar[str] = "mtt by an approximate gradient, with one inner step's graph in memory (Cui et al. 2023)"

    gradient: Literal["auto", "full", "adjoint", "truncated", "tesla"] = Field(
        default="tesla",
        description="how the distance is differentiated through a student's steps: full keeps every step's graph, "
        "adjoint computes each step again and holds one step's graph, truncated differentiates through the last "
        "`window` steps only, tesla approximates the gradient and holds one step's graph; auto: full if the graphs fit "
        "into half of the free memory and steps are neither compiled nor captured, else adjoint",
    )
