"""`herding`: real images whose mean follows the class mean (Welling 2009; iCaRL 2017, algorithm 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dd_core.distiller import SelectionConfig
from dd_core.system.budget import Footprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.distilled import Size
    from dd_core.images import Source
    from dd_core.streams import Streams


class HerdingConfig(SelectionConfig):
    """Greedy picks, uint8, as they are."""

    name: ClassVar[str] = "herding"

    features: Literal["pixels", "random-network"] = Field(
        default="pixels",
        description="space whose mean is followed (phi): pixels, or the recipe's network at its initialisation",
    )

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """Of pixels: the largest class as bytes and as float32, whose square distances are taken a part at a time."""
        from dd_core.selection import largest_class

        each = 5 * prod(source.image_shape) if self.features == "pixels" else 0
        return Footprint(each * largest_class(source), ("number of images in the largest class",) if each else ())

    def select(self, source: Source, counts: Sequence[int], *, streams: Streams, device: torch.device) -> Tensor:
        """Pick; raises `UserError` where a class is too small."""
        import torch

        from dd_core.selection import herd, members_of

        describe = self._describer(source, streams=streams, device=device)
        picks = [
            members[herd(describe(members), counts[index])] for index, members in enumerate(members_of(source, counts))
        ]
        return source.take(torch.cat(picks))

    def _describer(self, source: Source, *, streams: Streams, device: torch.device) -> Callable[[Tensor], Tensor]:
        """A function from rows of `source` to (n, D) features on the CPU."""
        import torch

        from dd_core import networks
        from dd_core.images import channel_stats, normalise
        from dd_core.system.footprint import prediction_batch

        if self.features == "pixels":
            return lambda rows: source.take(rows).flatten(1).float().div_(255)
        mean, std = channel_stats(source)
        network = networks.for_source(self.recipe.network, source, seed=streams.seed).to(device).eval()

        def embed(images: Tensor) -> Tensor:
            return networks.embed(network, normalise(images, mean, std))

        size = prediction_batch(embed, source.image_shape, device, most=1024)

        @torch.no_grad()
        def describe(rows: Tensor) -> Tensor:
            return torch.cat([embed(source.take(part).to(device)).cpu() for part in rows.split(size)])

        return describe
