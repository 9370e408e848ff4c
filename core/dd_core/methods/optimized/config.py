"""`optimized`: one of the best of many random sets of real images, by the accuracy of networks on *training* images.

A baseline of Wang, Zhu, Torralba and Efros, Dataset Distillation (2018): draw many random sets, train a few networks on
each, and keep the best 20 %. The paper reports the mean over the kept sets; here the result is one kept set, drawn by
the seed, so that its expected score is the paper's figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dd_core.artefacts import ArtefactSpec
from dd_core.distilled import Size
from dd_core.distiller import Context, MethodConfig
from dd_core.methods import optimized
from dd_core.recipe import Recipe
from dd_core.system.budget import Footprint

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.optimized.distiller import OptimizedDistiller

POOL = "starting weights"  # role of the networks that score a set, where the recipe's are pre-trained or one network


class OptimizedConfig(MethodConfig):
    """Hyper-parameters of `optimized`, whose images are real ones; unchanged, uint8."""

    name: ClassVar[str] = "optimized"
    summary: ClassVar[str] = (
        "of many random sets of real images, one of those on which networks learn best (Wang et al. 2018)"
    )

    steps: int = Field(default=50, ge=0, description="random sets that are drawn and scored, one in an outer iteration")
    networks: int = Field(
        default=3, ge=1, description="networks that train on each set to score it, the same for all sets (paper: 20)"
    )
    keep: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="share of the scored sets, best first, among which the seed draws the result; at least one set",
    )
    batch_real: int = Field(default=1024, ge=1, description="training images that every set is scored on")
    recipe: Recipe = Field(
        default=Recipe(network="convnet-1-w64-nonorm", initialisation="xavier"),
        description="how networks train on a set, both to score it and later, when the result is used",
    )

    def needs(self, source: Source, *, size: Size, seed: int) -> dict[str, ArtefactSpec]:
        """The networks that score a set, where the recipe's are pre-trained or one particular network."""
        if self.recipe.weights is None:
            return {}
        count = 1 if self.recipe.for_one_network else self.networks
        return {POOL: optimized.pool_spec(self, source, self.recipe.weights.model_copy(update={"count": count}))}

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of one network in training or in testing, of a drawn set, and of the images that score it."""
        return optimized.footprint(self, source, size, device)

    def build(self, context: Context) -> OptimizedDistiller:
        """Draw the images to score on; raises `UserError` where a class is too small."""
        return optimized.OptimizedDistiller(self, context)
