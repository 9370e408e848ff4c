"""`k-means`: the centres of each class's clusters in pixel space (Wang et al. 2018, baseline "k-means")."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from dd_core.distiller import SelectionConfig
from dd_core.system.budget import Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.distilled import Size
    from dd_core.images import Source
    from dd_core.streams import Streams


class KMeansConfig(SelectionConfig):
    """Cluster centres, float32 in [0, 1]; one image a class is the class average."""

    name: ClassVar[str] = "k-means"

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The largest class as bytes and as float64: the algorithm wants all the points at once."""
        from dd_core.selection import largest_class

        return Footprint(
            9 * prod(source.image_shape) * largest_class(source), ("number of images in the largest class",)
        )

    def select(self, source: Source, counts: Sequence[int], *, streams: Streams, device: torch.device) -> Tensor:
        """Cluster; raises `UserError` where a class has fewer images than clusters."""
        import torch

        from dd_core.selection import k_means, members_of

        return torch.cat(
            [
                k_means(source.take(members), counts[index], seed=streams.child("k-means", index).seed)
                for index, members in enumerate(members_of(source, counts))
            ]
        )
