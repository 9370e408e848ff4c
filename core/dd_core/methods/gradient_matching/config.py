"""Gradient matching: `dc` (Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021) and `dsa`
(Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021).

At each of `steps` outer iterations a fresh network theta is drawn. The pixels of the synthetic images S are updated
`outer` times, and between two updates theta learns from S for `inner` epochs (algorithm 1 of DC):

    min_S  sum_c D( grad_theta L(A(S_c), theta), grad_theta L(A(T_c), theta) )

S_c are the synthetic images of class c, and T_c real ones; L is the cross-entropy; A is the identity in `dc`, and in
`dsa` one transform that is drawn for both sides (siamese). D is 1 - cosine of the gradients of an output unit's
weights, summed over the units of all layers (DC, equation 10); biases and the weights of norms, which have one
dimension, are left out. While gradients are compared, batch norms are frozen at the statistics of `STATISTICS_IMAGES`
real images of each class, so that the gradient of a class does not depend on how its images are batched.

Options add what IDC (Kim et al., ICML 2022) changed: `formation`, `clamp`, other distances (`distance`), convolutions
alone (`matched`), and a network that learns from real images (`learns`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dd_core.augment.names import Strategy
from dd_core.distilled import Size
from dd_core.distiller import Context, PixelsConfig
from dd_core.methods import gradient_matching
from dd_core.recipe import DISTRIBUTIONS, Recipe
from dd_core.system.budget import BATCH_BYTES, BatchBytes, Footprint

if TYPE_CHECKING:
    import torch

    from dd_core.images import Source
    from dd_core.methods.gradient_matching.distiller import GradientMatchingDistiller

STATISTICS_IMAGES = 16  # real images of each class whose statistics batch norms are frozen at
EPOCHS = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}  # inner epochs by images per class, as published

_INITIAL = (
    "what pixels start from: normal noise, or random real images of their class (reduced to tiles if formation > 1)"
)
_AUGMENTATION = (
    "DSA strategy (A): one transform for real and synthetic images of a class when gradients are matched, and one for "
    "each image when the network learns; none: no transform; auto: all transforms, without flip for digits"
)


def loops(ipc: int) -> tuple[int, int]:
    """(outer, inner) for `ipc` images of a class: the published ones for 1, 10, 20, 30, 40 and 50.

    For other numbers, `outer` is `ipc`, at most 50, and `inner` is what was published for the next smaller number of
    images; from 2 to 9 images it is 50, as for 10.
    """
    outer = min(ipc, max(EPOCHS))
    return outer, EPOCHS[1] if outer == 1 else EPOCHS[max(10, outer // 10 * 10)]


class GradientMatchingConfig(PixelsConfig):
    """Hyper-parameters that `dc` and `dsa` share."""

    steps: int = Field(default=1000, ge=0, description="outer iterations, a new network each (K)")
    outer: int | None = Field(
        default=None,
        ge=1,
        description="updates of the pixels for each network (T); none: as many as images per class, at most 50",
    )
    inner: int | None = Field(
        default=None,
        ge=0,
        description="epochs that the network learns for between two updates of the pixels; none: by images per class, "
        "as published: 50 up to 19 images, 25 from 20, 20 from 30, 15 from 40, 10 from 50",
    )
    lr_img: float = Field(default=0.1, gt=0, description="learning rate of SGD on the pixels")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="momentum of SGD on the pixels")
    lr_net: float = Field(default=0.01, gt=0, description="learning rate of SGD on the network, without momentum")
    batch_real: int = Field(
        default=256, ge=1, description="real images of each class whose gradient is matched (|T_c|)"
    )
    batch_net: int = Field(default=256, ge=1, description="images in a mini-batch that the network learns from")
    initial: Literal["noise", "real"] = Field(
        default="real",
        description=_INITIAL,
    )
    distance: Literal["cosine", "l1", "mse"] = Field(
        default="cosine",
        description="distance of two gradients (D), summed over layers: cosine: 1 - cosine for each output unit's "
        "weights; as in IDC, l1: absolute differences; mse: squared differences",
    )
    matched: Literal["layers", "convolutions"] = Field(
        default="layers",
        description="whose gradients are matched: the weights of all layers, or those of convolutions alone, as in IDC",
    )
    learns: Literal["synthetic", "real"] = Field(
        default="synthetic",
        description="images that the network learns from between two updates of the pixels; real ones in IDC",
    )
    real_images: int = Field(
        default=2000, ge=1, description="number of random real images in an inner epoch, where `learns` is real"
    )
    augmentation: Strategy = Field(
        default="none",
        description=_AUGMENTATION,
    )
    batch_bytes: BatchBytes = Field(
        default=BATCH_BYTES,
        description="bytes of images, activations and gradients that one batch of a class may take while gradients are "
        "computed; within this budget parts of a class go through the network one after the other",
    )

    @model_validator(mode="after")
    def _networks_are_drawn(self) -> GradientMatchingConfig:
        if self.recipe.initialisation not in DISTRIBUTIONS:
            raise ValueError(
                f"recipe.initialisation: give {' or '.join(map(repr, DISTRIBUTIONS))}, "
                f"not '{self.recipe.initialisation[:20]}'"
            )
        return self

    def loops_for(self, size: Size, classes: int) -> tuple[int, int]:
        """(outer, inner) for the largest class of a set of `size`, where the config does not give them."""
        outer, inner = loops(max(size.per_class(classes)))
        return self.outer or outer, inner if self.inner is None else self.inner

    def check(self, source: Source, size: Size) -> None:
        """Raise `UserError` for a class with too few images, and for images that the formation cannot cut into tiles.

        Also for a network with no weights of the `matched` kind, and for one with batch norm whose last mini-batch
        would be a single image that the batch norm cannot normalise.
        """
        super().check(source, size)
        gradient_matching.check_network(self, source, size)

    def footprint(self, source: Source, size: Size, device: torch.device) -> Footprint:
        """The bytes of the largest batch (real, synthetic or the network's), gradients and four copies of the set."""
        return gradient_matching.footprint(self, source, size, device)

    def build(self, context: Context) -> GradientMatchingDistiller:
        """Start from noise or real images; raises what `check` raises."""
        self.check(context.source, context.size)
        return gradient_matching.GradientMatchingDistiller(self, context)


class DCConfig(GradientMatchingConfig):
    """Hyper-parameters of dataset condensation; the recipe's network is the one whose gradients are matched (theta).

    The paper trains on its sets of MNIST for 1000 epochs under crop_scale_rotate; the default recipe does not.
    """

    name: ClassVar[str] = "dc"
    summary: ClassVar[str] = (
        "learned images that give networks the same gradients as real images (Zhao, Mopuri and Bilen 2021)"
    )

    initial: Literal["noise", "real"] = Field(
        default="noise",
        description=_INITIAL,
    )


class DSAConfig(GradientMatchingConfig):
    """Hyper-parameters of dataset condensation under siamese augmentation; the recipe's network is theta."""

    name: ClassVar[str] = "dsa"
    summary: ClassVar[str] = "dc with the same augmentation for real and learned images (Zhao and Bilen 2021)"

    augmentation: Strategy = Field(
        default="auto",
        description=_AUGMENTATION,
    )
    recipe: Recipe = Field(
        default=Recipe(epochs=1000, augmentation="auto"),
        description="how networks train on the set (the paper's own way), and the network whose gradients are matched",
    )
