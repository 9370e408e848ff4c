"""`sre2l`: squeeze, recover, relabel (Yin, Xing and Shen 2023).

Squeeze: a teacher is trained on the real images. Each of its batch norms then has the running mean and variance of its
inputs for real images. Recover: pixels are optimised so that the teacher gives them their label, and so that the inputs
of every batch norm have the statistics that they have for real images (equation 8 of the paper):

    minimise over x:   CE(teacher(v(x)), y) + r_bn sum_l s_l (|| mu_l(v(x)) - mean_l || + || sigma_l^2(v(x)) - var_l ||)

v is a view: one crop, mirrored and rolled, for all images of a batch; s_l is 10 for the first batch norm and 1 for
others. Relabel: the teacher labels every view that a network is trained on; a protocol does that (`sre2l-fkd`).

Nothing is unrolled: an iteration costs one forward and one backward pass of the teacher, at any resolution. This file
has the options; `recovery` is the loop.
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
    """How images are recovered from a teacher: by Adam on their pixels, its learning rate falling to 0 by a cosine."""

    iterations: int = Field(default=1000, ge=1, description="steps of Adam on each image (SRe2L: 1000 to 4000)")
    batch_size: int = Field(
        default=100, ge=1, description="images recovered together, whose joint statistics match the batch norms'"
    )
    learning_rate: float = Field(default=0.25, gt=0, description="initial learning rate of Adam on normalised pixels")
    betas: tuple[Beta, Beta] = Field(
        default=(0.5, 0.9), description="decay rates of Adam's two moving averages (beta_1, beta_2)"
    )
    r_bn: float = Field(
        default=0.01, ge=0, description="weight of the distance from the batch norms' statistics in the loss (alpha_BN)"
    )
    first_bn: float = Field(
        default=10.0, ge=0, description="factor of the first batch norm in the distance of statistics; others have 1"
    )
    initial: Literal["noise", "real", "mosaics"] = Field(
        default="noise",
        description="what the pixels start from: normal noise, random real images of their class, or mosaics of the "
        "real crops that the teacher classifies best, as in method rded",
    )
    crop: tuple[Fraction, Fraction] | None = Field(
        default=None,
        description="smallest and largest fraction of the images' area that the crop of an iteration shows; none: the "
        "whole images, as in SRe2L at 32 px",
    )
    curriculum: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="fraction of the iterations in which the smallest crop shrinks, along a cosine, from the whole "
        "image to the first value of `crop` (CDA's milestone); 0: `crop` holds from the beginning",
    )
    flip: bool = Field(default=False, description="whether images are mirrored in a random half of the iterations")
    jitter: tuple[int, int] = Field(
        default=(0, 4), description="least and largest number of pixels by which an iteration rolls the images"
    )
    tv: float = Field(default=0.0, ge=0, description="weight of the images' total variation in the loss; 0: none")
    l2: float = Field(default=0.0, ge=0, description="weight of the images' mean L2 norm in the loss; 0: none")
    amp: bool = Field(
        default=False, description="whether the teacher computes in mixed precision (bfloat16, torch's autocast)"
    )
    snapshots: int = Field(
        default=0,
        ge=0,
        le=1000,
        exclude_if=lambda count: count == 0,
        description="intermediate states of the pixels to keep in the cache, for `inspect --animate`; 0: none",
    )
    log_every: int = Field(default=50, ge=1, description="iterations between two records of the losses")

    @model_validator(mode="after")
    def _fits_together(self) -> RecoverConfig:
        for name, (low, high) in {"crop": self.crop or (1, 1), "jitter": self.jitter}.items():
            if low > high:
                raise ValueError(f"{name}: from {low:g} to {high:g} is no range; give the smaller number first")
        if self.curriculum and self.crop is None:
            raise ValueError(f"curriculum: {self.curriculum:g} shrinks the crop, and crop is none; give a crop")
        return self


class SRe2LConfig(MethodConfig):
    """Hyper-parameters of SRe2L; the teacher is the recipe's network, unless `teacher.network` names another."""

    name: ClassVar[str] = "sre2l"
    summary: ClassVar[str] = (
        "images recovered from a trained network, which also labels them; for any image size (Yin et al. 2023)"
    )

    steps: int = Field(
        default=0, ge=0, le=0, description="outer iterations: always 0; recover.iterations counts those of each image"
    )
    teacher: TeacherConfig = Field(default=TeacherConfig(), description="how the teacher is trained (squeeze)")
    recover: RecoverConfig = Field(default=RecoverConfig(), description="how images are recovered from the teacher")
    mosaic: MosaicConfig = Field(
        default=MosaicConfig(), description="how the mosaics of real crops are made, where recover.initial is mosaics"
    )
    recipe: Recipe = Field(
        default=TAUGHT,
        description="how networks train on the set; in protocol sre2l-fkd the teacher labels every view of an image",
    )

    @model_validator(mode="after")
    def _starts_anywhere(self) -> SRe2LConfig:
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(
                f"recipe.initialisation: give {' or '.join(map(repr, DISTRIBUTIONS))}, "
                f"not '{self.recipe.initialisation[:20]}'"
            )
        return self

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The teacher, and the images recovered from it."""
        recovery = sre2l.recovery_spec(self, source, size, seed)
        return {TEACHER: recovery.teacher, RECOVERY: recovery}

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for images without labels, for a teacher without batch norms, and for too few images.

        Too few: where `recover.initial` is real or mosaics, and a class has fewer than its images start from.
        """
        sre2l.check_source(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of a step of the teacher's training, or of an iteration on a batch, whichever is larger."""
        return sre2l.footprint(self, source, size, device)

    def build(self, context: Context) -> FinishedDistiller:
        """The recovered images as a set."""
        return FinishedDistiller(sre2l.recovered_set(self, context))
