"""`k-means`: the centres of each class's clusters in pixel space (Wang et al. 2018, baseline "k-means")."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar

from dd_core import selection
from dd_core.distiller import Context, SelectionConfig
from dd_core.system.budget import Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.distilled import Size
    from dd_core.images import Source


class KMeansConfig(SelectionConfig):
    """Settings of `k-means`, whose images are cluster centres, float32 in [0, 1]; at 1 ipc, class averages."""

    name: ClassVar[str] = "k-means"
    summary: ClassVar[str] = "centres of clusters of each class's real images; at one image a class, the class average"

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The pixels of the largest class as uint8 and as float64: k-means takes all images of a class at once."""
        images = selection.largest_class(source)
        return Footprint(9 * prod(source.image_shape) * images, ("number of images in the largest class",))

    def select(self, context: Context) -> Tensor:
        """Cluster; raises `UserError` where a class has fewer images than clusters."""
        return selection.cluster_centres(context.source, context.counts, streams=context.streams)
