"""`herding`: real images whose mean follows the class mean (Welling 2009; iCaRL 2017, algorithm 4)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dd_core import networks, selection
from dd_core.distiller import Context, SelectionConfig
from dd_core.system.budget import Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.distilled import Size
    from dd_core.images import Source


class HerdingConfig(SelectionConfig):
    """Greedy picks, uint8, as they are."""

    name: ClassVar[str] = "herding"
    summary: ClassVar[str] = "real images whose mean follows the mean of their class (Welling 2009)"

    features: Literal["pixels", "random-network"] = Field(
        default="pixels",
        description="space in which picks follow the class mean (phi): pixels, or the features of the recipe's network "
        "at its initialisation",
    )

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """Of pixels: the largest class as bytes and as float32, whose square distances are taken a part at a time."""
        if self.features != "pixels":
            return Footprint(0)
        images = selection.largest_class(source)
        return Footprint(5 * prod(source.image_shape) * images, ("number of images in the largest class",))

    def select(self, context: Context) -> Tensor:
        """Pick; raises `UserError` where a class is too small."""
        source, counts = context.source, context.counts
        if self.features == "pixels":
            return source.take(selection.herded_indices(source, counts, selection.pixel_features(source)))
        network = networks.for_source(self.recipe.network, source, seed=context.streams.seed).to(context.device).eval()
        features = selection.network_features(source, network, device=context.device)
        return source.take(selection.herded_indices(source, counts, features))
