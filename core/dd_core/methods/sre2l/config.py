"""`sre2l`: squeeze, recover, relabel (Yin, Xing and Shen 2023).

Squeeze: a teacher is trained on the real images. Each of its batch norms then knows the mean and the variance of its
inputs over all of them. Recover: pixels are optimised until the teacher labels them as it should, and until every batch
norm meets in them what it met in real images (equation 8 of the paper):

    minimise over x:   CE(teacher(v(x)), y) + r_bn sum_l s_l (|| mu_l(v(x)) - mean_l || + || sigma_l^2(v(x)) - var_l ||)

v is a crop, mirrored and rolled, one for all images of a batch; s_l is 10 for the first batch norm and 1 for others.
Relabel: the teacher labels every view that a network is trained on, which is the protocols' work (`sre2l-fkd`).

Nothing is unrolled: an image costs a forward and a backward pass of one network, at any resolution. This file says what
can be set; `recovery` is the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dd_core.artefacts import ArtefactSpec
from dd_core.config import Config
from dd_core.distilled import Size
from dd_core.distiller import Context, FinishedDistiller, MethodConfig
from dd_core.methods import sre2l
from dd_core.recipe import DISTRIBUTIONS, Beta, Recipe
from dd_core.training.mosaic_config import MosaicConfig
from dd_core.training.teacher_config import TAUGHT, TeacherConfig

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.system.budget import Footprint

TEACHER, MOSAICS, RECOVERY = "teacher", "mosaics", "recovery"  # roles among the artefacts
Fraction = Annotated[float, Field(gt=0, le=1)]


class RecoverConfig(Config):
    """How images are recovered from a teacher: Adam on their pixels, its rate going to zero along a cosine."""

    iterations: int = Field(default=1000, ge=1, description="steps of Adam on each image (SRe2L: 1000 to 4000)")
    batch_size: int = Field(
        default=100, ge=1, description="images recovered together, whose statistics are matched together"
    )
    learning_rate: float = Field(default=0.25, gt=0, description="initial learning rate of Adam on normalised pixels")
    betas: tuple[Beta, Beta] = Field(
        default=(0.5, 0.9), description="decay rates of Adam's two moving averages (beta_1, beta_2)"
    )
    r_bn: float = Field(default=0.01, ge=0, description="weight of the batch norms' statistics (alpha_BN)")
    first_bn: float = Field(default=10.0, ge=0, description="factor of the first batch norm's statistics")
    initial: Literal["noise", "real", "mosaics"] = Field(
        default="noise",
        description="what the pixels start from: normal noise, random real images of their class, or mosaics of real "
        "crops that the teacher knows best, as method rded makes them",
    )
    crop: tuple[Fraction, Fraction] | None = Field(
        default=None,
        description="smallest and largest part of the images' area that the crop of an iteration shows; none: the "
        "whole images, as SRe2L has it at 32 px",
    )
    curriculum: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="part of the iterations in which the smallest crop shrinks from the whole image to its size along "
        "a cosine (CDA's milestone); 0: it has its size from the beginning",
    )
    flip: bool = Field(default=False, description="whether half of the iterations see the images mirrored")
    jitter: tuple[int, int] = Field(
        default=(0, 4), description="least and largest number of pixels by which an iteration rolls the images"
    )
    tv: float = Field(default=0.0, ge=0, description="weight of the total variation of the pixels")
    l2: float = Field(default=0.0, ge=0, description="weight of the mean L2 norm of the images")
    amp: bool = Field(default=False, description="whether the teacher computes in bfloat16 where torch deems it safe")
    snapshots: int = Field(
        default=0,
        ge=0,
        le=1000,
        exclude_if=lambda count: count == 0,
        description="states of the pixels on their way that are kept in the cache, for `inspect --animate`",
    )
    log_every: int = Field(default=50, ge=1, description="iterations between two records of the losses")

    @model_validator(mode="after")
    def _fits_together(self) -> RecoverConfig:
        for name, (low, high) in {"crop": self.crop or (1, 1), "jitter": self.jitter}.items():
            if low > high:
                raise ValueError(f"{name}: from {low:g} to {high:g} is no range")
        if self.curriculum and self.crop is None:
            raise ValueError("curriculum: it shrinks the crop, and there is none")
        return self


class SRe2LConfig(MethodConfig):
    """Hyper-parameters of SRe2L; the teacher is the recipe's network unless it has one of its own."""

    name: ClassVar[str] = "sre2l"
    summary: ClassVar[str] = (
        "images recovered from a trained network, which labels them: any size, many classes (Yin et al. 2023)"
    )

    steps: int = Field(
        default=0, ge=0, le=0, description="outer iterations; none: recover.iterations counts those of each image"
    )
    teacher: TeacherConfig = Field(default=TeacherConfig(), description="how the teacher is trained (squeeze)")
    recover: RecoverConfig = Field(default=RecoverConfig(), description="how images are recovered from the teacher")
    mosaic: MosaicConfig = Field(
        default=MosaicConfig(), description="how the mosaics are made that recover.initial 'mosaics' starts from"
    )
    recipe: Recipe = Field(
        default=TAUGHT,
        description="how networks train on the set; protocol sre2l-fkd has the teacher label what they see",
    )

    @model_validator(mode="after")
    def _starts_anywhere(self) -> SRe2LConfig:
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(f"recipe.initialisation: {' or '.join(map(repr, DISTRIBUTIONS))}")
        return self

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The teacher, and the images recovered from it."""
        recovery = sre2l.recovery_spec(self, source, size, seed)
        return {TEACHER: recovery.teacher, RECOVERY: recovery}

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for a teacher without batch norms, and where a class has too few images to start from."""
        sre2l.check_source(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The teacher's step of training, or an iteration on a batch of images."""
        return sre2l.footprint(self, source, size, device)

    def build(self, context: Context) -> FinishedDistiller:
        """The recovered images as a set."""
        return FinishedDistiller(sre2l.recovered_set(self, context))
