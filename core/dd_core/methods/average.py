"""`average`: the mean image of each class (Wang et al. 2018, baseline "average real images").

With several images a class, the class is dealt at random into that many groups and each is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dd_core.distiller import SelectionConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.images import Source
    from dd_core.streams import Streams


class AverageConfig(SelectionConfig):
    """Mean images, float32 in [0, 1]."""

    name: ClassVar[str] = "average"

    def select(self, source: Source, counts: Sequence[int], *, streams: Streams, device: torch.device) -> Tensor:
        """Average; raises `UserError` where a class has fewer images than groups."""
        import torch

        from dd_core.selection import averages, members_of

        means: list[Tensor] = []
        for index, members in enumerate(members_of(source, counts)):
            order = torch.randperm(len(members), generator=streams.generator("groups", index))
            groups = torch.arange(len(members)) % counts[index]
            means.append(averages(source, members[order], groups, counts[index]))
        return torch.cat(means)
