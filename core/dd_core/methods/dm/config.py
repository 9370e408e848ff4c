"""`dm`: distribution matching (Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023).

At every step a freshly initialised network psi embeds real and synthetic images under one siamese
augmentation A, and the pixels move so that the class means meet (equation 7):

    sum_c || mean_i psi(A(x_ci)) - mean_j psi(A(s_cj)) ||^2

The loss is a sum over classes, so a replay buffer that distils two classes at a time loses nothing. Classes are
embedded a few at a time, and a large class in parts, within a budget of bytes. A network with batch norm sees one whole
class at a time, whatever the budget: the features of an image depend on the other images of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dd_core.augment.names import Strategy
from dd_core.distilled import Size
from dd_core.distiller import Context, PixelsConfig
from dd_core.methods import dm
from dd_core.recipe import Recipe
from dd_core.system.budget import BATCH_BYTES, BatchBytes, Footprint

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.dm.distiller import DMDistiller


class DMConfig(PixelsConfig):
    """Hyper-parameters of distribution matching; the recipe's network embeds the images (psi)."""

    name: ClassVar[str] = "dm"
    summary: ClassVar[str] = "learned images with the same mean features as real images (Zhao and Bilen 2023)"

    steps: int = Field(default=1000, ge=0, description="outer iterations, a new network each (K; the paper has 20000)")
    lr_img: float = Field(
        default=1.0, gt=0, description="learning rate of SGD on the pixels (eta); the paper has 10 from 100 ipc on"
    )
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of SGD on the pixels")
    batch_real: int = Field(default=256, ge=1, description="real images of each class in an outer iteration (|B_c|)")
    augmentation: Strategy = Field(
        default="auto",
        description="DSA strategy that augments real and synthetic images alike (A); auto: all transforms, without "
        "flip for digits",
    )
    batch_bytes: BatchBytes = Field(
        default=BATCH_BYTES,
        description="bytes of images and activations that one batch may take in the network; within this budget "
        "classes, and parts of a class, are embedded one after the other (a network with batch norm embeds one whole "
        "class at a time, whatever the budget)",
    )
    recipe: Recipe = Field(
        default=Recipe(epochs=1000, augmentation="auto"),
        description="how networks train on the set (the paper's own way), and the network that embeds images (psi)",
    )

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for images that the formation cannot cut into tiles, and for a class with too few images.

        Also for a network with batch norm that cannot embed the single image of a class.
        """
        super().check(source, size)
        dm.check_network(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of one batch, of real or synthetic images, whichever is larger, and of four copies of the set."""
        return dm.footprint(self, source, size, device)

    def build(self, context: Context) -> DMDistiller:
        """Start from random real images; raises `UserError` where a class is too small, and what `check` raises."""
        self.check(context.source, context.size)
        return dm.DMDistiller(self, context)
