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
    """Cluster centres, float32 in [0, 1]; one image a class is the class average."""

    name: ClassVar[str] = "k-means"
    summary: ClassVar[str] = "centres of clusters of real images; with one image a class, its average"

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The largest class as bytes and as float64: the algorithm wants all the points at once."""
        images = selection.largest_class(source)
        return Footprint(9 * prod(source.image_shape) * images, ("number of images in the largest class",))

    def select(self, context: Context) -> Tensor:
        """Cluster; raises `UserError` where a class has fewer images than clusters."""
        return selection.cluster_centres(context.source, context.counts, streams=context.streams)
