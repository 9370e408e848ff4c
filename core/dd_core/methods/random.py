"""`random`: images drawn at random from each class. The baseline that every other method is shown beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dd_core import selection
from dd_core.distiller import Context, SelectionConfig

if TYPE_CHECKING:
    from torch import Tensor


class RandomConfig(SelectionConfig):
    """Settings of `random`, whose images are real ones, drawn without replacement; unchanged, uint8."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "real images, drawn at random: the baseline that every method has to beat"

    def select(self, context: Context) -> Tensor:
        """Draw; raises `UserError` where a class is too small."""
        source, counts = context.source, context.counts
        return source.take(selection.random_indices(source, counts, streams=context.streams, stream="random"))
