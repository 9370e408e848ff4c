"""`average`: the mean image of each class (Wang et al. 2018, baseline "average real images").

For n images a class, the real images of the class are dealt at random into n groups, and each group is averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dd_core import selection
from dd_core.distiller import Context, SelectionConfig

if TYPE_CHECKING:
    from torch import Tensor


class AverageConfig(SelectionConfig):
    """Settings of `average`, whose images are means of real images, float32 in [0, 1]."""

    name: ClassVar[str] = "average"
    summary: ClassVar[str] = "averages of random groups of real images"

    def select(self, context: Context) -> Tensor:
        """Average; raises `UserError` where a class has fewer images than groups."""
        return selection.group_averages(context.source, context.counts, streams=context.streams)
