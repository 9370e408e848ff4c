"""`herding`: real images whose mean follows the class mean (Welling 2009; iCaRL 2017, algorithm 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dd_core.distiller import SelectionMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dd_core.images import Source
    from dd_core.streams import Streams


class Herding(SelectionMethod):
    """Greedy picks, uint8, as they are."""

    name: ClassVar[str] = "herding"

    features: Literal["pixels", "random-network"] = Field(
        default="pixels",
        description="space whose mean is followed (phi): pixels, or the recipe's network at its initialisation",
    )

    def select(self, source: Source, counts: Sequence[int], *, streams: Streams, device: torch.device) -> Tensor:
        """Pick; raises `UserError` where a class is too small."""
        import torch

        from dd_core.selection import herd, members_of

        describe = self._describer(source, streams=streams, device=device)
        picks = [
            members[herd(describe(source.take(members)), counts[index])]
            for index, members in enumerate(members_of(source, counts))
        ]
        return source.take(torch.cat(picks))

    def _describer(self, source: Source, *, streams: Streams, device: torch.device) -> Callable[[Tensor], Tensor]:
        """A function from uint8 images to (n, D) features on the CPU."""
        import torch

        from dd_core import networks
        from dd_core.images import channel_stats, normalise

        if self.features == "pixels":
            return lambda images: images.flatten(1).float() / 255
        mean, std = channel_stats(source)
        network = networks.for_source(self.recipe.network, source, seed=streams.seed).to(device).eval()

        @torch.no_grad()
        def describe(images: Tensor) -> Tensor:
            parts = [normalise(part.to(device), mean, std) for part in images.split(1024)]
            return torch.cat([networks.embed(network, part).cpu() for part in parts])

        return describe
