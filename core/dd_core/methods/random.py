"""`random`: images drawn at random from each class. The baseline that every other method is shown beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dd_core.distiller import SelectionConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.images import Source
    from dd_core.streams import Streams


class RandomConfig(SelectionConfig):
    """Real images drawn without replacement; uint8, as they are."""

    name: ClassVar[str] = "random"

    def select(self, source: Source, counts: Sequence[int], *, streams: Streams, device: torch.device) -> Tensor:
        """Draw; raises `UserError` where a class is too small."""
        from dd_core.selection import random_indices

        return source.take(random_indices(source, counts, streams=streams, stream="random"))
