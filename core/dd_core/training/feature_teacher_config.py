"""How a teacher is trained without labels; values only, so that the command line lists them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment.view_config import Distortions
from dd_core.config import Config, checked
from dd_core.networks.names import family
from dd_core.networks.origins import FRESH, file_of, require_weights

Objective = Literal["barlow-twins", "simclr", "byol"]


class FeatureTeacherConfig(Config):
    """How a backbone is trained without labels, on two distorted views of each image, under a cosine schedule."""

    network: str | None = Field(
        default=None,
        description="network of the teacher, by a name of `dd-apps list networks`; none: the network of the recipe",
    )
    objective: Objective = Field(
        default="barlow-twins", description="objective that is minimised over two views of an image"
    )
    weights: str = Field(
        default=FRESH,
        exclude_if=lambda weights: weights == FRESH,
        description="weights that training begins with: fresh, published (those of timm or torchvision), or a "
        ".safetensors, .pth or .pt file",
    )
    epochs: int = Field(
        default=100, ge=0, description="passes over the real images (solo-learn: 1000); 0: `weights` are not trained"
    )
    optimiser: Literal["sgd", "adamw", "lars"] = Field(
        default="sgd",
        description="optimiser that updates the weights; lars: steps in proportion to each layer's weights (You et al. "
        "2017), in solo-learn's form",
    )
    learning_rate: float = Field(default=0.05, gt=0, description="highest learning rate of the optimiser")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD and LARS")
    weight_decay: float = Field(
        default=1e-4, ge=0, description="weight decay of all weights; LARS leaves out biases and norms"
    )
    warmup: int = Field(default=10, ge=0, description="epochs of linear warm-up to the highest learning rate; 0: none")
    batch_size: int = Field(default=256, ge=2, description="images in a mini-batch; two views of each")
    projector: tuple[int, int] = Field(
        default=(512, 512),
        description="hidden and output width of the projector between the backbone and the objective (solo-learn: 2048 "
        "and 2048 for Barlow Twins, 2048 and 256 for SimCLR, 4096 and 256 for BYOL)",
    )
    off_diagonal: float = Field(
        default=5e-3, gt=0, description="for barlow-twins: weight of the off-diagonal correlations (lambda)"
    )
    loss_scale: float = Field(default=0.1, gt=0, description="for barlow-twins: factor of the objective")
    temperature: float = Field(default=0.2, gt=0, description="for simclr: temperature of the cosines (T)")
    tau: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="for byol: initial decay of the moving average that is the target network; the decay rises to 1",
    )
    distortions: Distortions = Field(
        default=Distortions(), description="random distortions that make the two views of an image"
    )
    statistics: Literal["data", "imagenet"] = Field(
        default="data",
        description="mean and std that images are normalised with: data: of the real images; imagenet: ImageNet's; "
        "published weights bring their own",
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, orders of images and views")

    @model_validator(mode="after")
    def _is_trained_somehow(self) -> FeatureTeacherConfig:
        if self.weights == FRESH and self.epochs == 0:
            raise ValueError("epochs: 0 leaves fresh weights untrained; give 1 or more, or other weights")
        if self.epochs and self.warmup >= self.epochs:
            raise ValueError(
                f"warmup: {self.warmup} of {self.epochs} epochs leave none at the highest learning rate; give fewer"
            )
        return self

    @property
    def weights_file(self) -> str | None:
        """The file that `weights` names; None for other weights."""
        return file_of(self.weights)

    @field_validator("weights")
    @classmethod
    def _weights_are_somewhere(cls, weights: str) -> str:
        return require_weights(weights)

    @field_validator("network")
    @classmethod
    def _network_has_a_name(cls, name: str | None) -> str | None:
        return None if name is None else checked(name, family)


# solo-learn's scripts/pretrain/cifar: {barlow,simclr,byol}.yaml with augmentations/{a,}symmetric.yaml
_CIFAR_CROP = (0.08, 1.0)
_ASYMMETRIC = Distortions(crop=_CIFAR_CROP)
_SYMMETRIC = Distortions(crop=_CIFAR_CROP, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, solarise=(0.0, 0.0))
_SOLO_LEARN: Mapping[Objective, Mapping[str, Any]] = {
    "barlow-twins": {"learning_rate": 0.3, "projector": (2048, 2048), "off_diagonal": 0.0051},
    "simclr": {"learning_rate": 0.4, "projector": (2048, 256), "distortions": _SYMMETRIC},
    "byol": {"learning_rate": 1.0, "weight_decay": 1e-5, "projector": (4096, 256)},
}


def solo_learn(objective: Objective) -> FeatureTeacherConfig:
    """solo-learn's settings for CIFAR; its online probes reach 90.7 to 92.6 % on CIFAR-10 with the three objectives.

    Three things differ in solo-learn: the learning rate of the first 10 epochs rises at each step, the first
    convolution pads images by 2 instead of 1, and half of SimCLR's views are blurred.
    """
    common = {"network": "torchvision:resnet18", "epochs": 1000, "optimiser": "lars", "distortions": _ASYMMETRIC}
    return FeatureTeacherConfig.model_validate({**common, "objective": objective, **_SOLO_LEARN[objective]})
