"""`average`: the mean image of each class (Wang et al. 2018, baseline "average real images").

With several images a class, the class is dealt at random into that many groups and each is averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dd_core import selection
from dd_core.distiller import Context, SelectionConfig

if TYPE_CHECKING:
    from torch import Tensor


class AverageConfig(SelectionConfig):
    """Mean images, float32 in [0, 1]."""

    name: ClassVar[str] = "average"
    summary: ClassVar[str] = "averages of random groups of real images"

    def select(self, context: Context) -> Tensor:
        """Average; raises `UserError` where a class has fewer images than groups."""
        return selection.group_averages(context.source, context.counts, streams=context.streams)
