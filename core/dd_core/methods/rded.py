"""`rded`: mosaics of the crops of real images that a teacher knows best (Sun, Shi, Liu and Lin 2024).

Nothing is optimised. A crop is realistic where the teacher's loss on it is small, and diverse because each image gives
one; four of them, made smaller, are an image. Networks are trained on views that the teacher labels (`sre2l-fkd`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dd_core import selection, training
from dd_core.artefacts import ArtefactSpec
from dd_core.distilled import Size
from dd_core.distiller import Context, FinishedDistiller, MethodConfig
from dd_core.recipe import Recipe
from dd_core.training.mosaic_config import MosaicConfig
from dd_core.training.teacher_config import TAUGHT, TeacherConfig

if TYPE_CHECKING:
    from dd_core.images import Source

TEACHER, MOSAICS = "teacher", "mosaics"  # roles among the artefacts


class RDEDConfig(MethodConfig):
    """Hyper-parameters of RDED; the teacher is the recipe's network unless it has one of its own."""

    name: ClassVar[str] = "rded"
    summary: ClassVar[str] = (
        "mosaics of real crops that a trained network finds most like their class, nothing learned (Sun et al. 2024)"
    )

    steps: int = Field(default=0, ge=0, le=0, description="outer iterations; this method has none")
    teacher: TeacherConfig = Field(default=TeacherConfig(), description="how the teacher is trained")
    mosaic: MosaicConfig = Field(default=MosaicConfig(), description="how crops are drawn and put together")
    recipe: Recipe = Field(
        default=TAUGHT,
        description="how networks train on the set; protocol sre2l-fkd has the teacher label what they see",
    )

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The teacher, and the mosaics that it chooses the crops of."""
        counts = size.per_class(len(source.classes))
        mosaics = training.mosaics_of(source, self.recipe, self.teacher, self.mosaic, counts=counts, seed=seed)
        return {TEACHER: mosaics.teacher, MOSAICS: mosaics}

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` where a class has fewer images than the mosaics have crops, and for too small images."""
        training.check_mosaics(self.mosaic, source, size.per_class(len(source.classes)))

    def build(self, context: Context) -> FinishedDistiller:
        """The mosaics as raw pixels, normalised as the teacher's inputs are; raises what `check` raises."""
        images = training.mosaics_in(context.artefacts[MOSAICS])
        form = training.form_in(context.artefacts[TEACHER])
        ds = selection.real_set(context.source, images, context.counts, self.recipe, statistics=(form.mean, form.std))
        return FinishedDistiller(ds)
