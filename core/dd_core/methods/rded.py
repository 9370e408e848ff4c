"""`rded`: mosaics of the crops of real images that a teacher knows best (Sun, Shi, Liu and Lin 2024).

Nothing is optimised. Each real image gives its crop with the smallest loss of the teacher; of these crops, those with
the smallest losses are reduced, and 2 x 2 of them (`mosaic.factor`) make an image. The teacher labels the views that
networks learn from (protocol `sre2l-fkd`).
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
        "mosaics of the real crops that a trained network classifies best; no pixel is learned (Sun et al. 2024)"
    )

    steps: int = Field(default=0, ge=0, le=0, description="outer iterations; this method has none")
    teacher: TeacherConfig = Field(default=TeacherConfig(), description="how the teacher is trained")
    mosaic: MosaicConfig = Field(default=MosaicConfig(), description="how crops are drawn and put together")
    recipe: Recipe = Field(
        default=TAUGHT,
        description="how networks train on the set; in protocol sre2l-fkd the teacher labels every view of an image",
    )

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The teacher, and the mosaics of the crops that the teacher chooses."""
        counts = size.per_class(len(source.classes))
        mosaics = training.mosaics_of(source, self.recipe, self.teacher, self.mosaic, counts=counts, seed=seed)
        return {TEACHER: mosaics.teacher, MOSAICS: mosaics}

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` where a class has fewer images than its mosaics have crops, and for images too small."""
        training.check_mosaics(self.mosaic, source, size.per_class(len(source.classes)))

    def build(self, context: Context) -> FinishedDistiller:
        """The mosaics as raw pixels, normalised as the teacher's inputs are; raises what `check` raises."""
        images = training.mosaics_in(context.artefacts[MOSAICS])
        form = training.form_in(context.artefacts[TEACHER])
        ds = selection.real_set(context.source, images, context.counts, self.recipe, statistics=(form.mean, form.std))
        return FinishedDistiller(ds)
