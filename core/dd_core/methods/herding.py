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
    """Settings of `herding`, whose images are real ones, picked greedily; unchanged, uint8."""

    name: ClassVar[str] = "herding"
    summary: ClassVar[str] = "real images whose mean follows the mean of their class (Welling 2009)"

    features: Literal["pixels", "random-network"] = Field(
        default="pixels",
        description="space in which the mean of the picked images follows the class mean (phi): pixels, or the "
        "features of the recipe's network before any training",
    )

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The pixels of the largest class as uint8 and as float32; 0, which means unknown, for a network's features."""
        if self.features != "pixels":
            return Footprint(0)
        images = selection.largest_class(source)
        return Footprint(5 * prod(source.image_shape) * images, ("number of images in the largest class",))

    def select(self, context: Context) -> Tensor:
        """The picked images, class-major; raises `UserError` where a class is too small."""
        source, counts = context.source, context.counts
        if self.features == "pixels":
            return source.take(selection.herded_indices(source, counts, selection.pixel_features(source)))
        network = networks.for_source(self.recipe.network, source, seed=context.streams.seed).to(context.device).eval()
        features = selection.network_features(source, network, device=context.device)
        return source.take(selection.herded_indices(source, counts, features))
