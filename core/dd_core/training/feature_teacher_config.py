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
    """A backbone trained on images alone, two distorted views of each at a time, under a cosine schedule."""

    network: str | None = Field(
        default=None, description="network of the teacher; `list networks`; none: the network of the recipe"
    )
    objective: Objective = Field(default="barlow-twins", description="what is learned of two views of an image")
    weights: str = Field(
        default=FRESH,
        exclude_if=lambda weights: weights == FRESH,
        description="weights that training begins with: fresh, published (those of timm or torchvision), or a "
        ".safetensors, .pth or .pt file",
    )
    epochs: int = Field(
        default=100, ge=0, description="passes over the real images (solo-learn: 1000); 0: the weights as they are"
    )
    optimiser: Literal["sgd", "adamw", "lars"] = Field(
        default="sgd",
        description="optimiser that updates the weights; lars: steps in proportion to each layer's weights (You et al. "
        "2017), as solo-learn has it",
    )
    learning_rate: float = Field(default=0.05, gt=0, description="highest learning rate of the optimiser")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD and LARS")
    weight_decay: float = Field(
        default=1e-4, ge=0, description="weight decay of all weights; LARS leaves out biases and norms"
    )
    warmup: int = Field(default=10, ge=0, description="epochs in which the learning rate rises to its highest value")
    batch_size: int = Field(default=256, ge=2, description="images in a mini-batch; two views of each")
    projector: tuple[int, int] = Field(
        default=(512, 512),
        description="hidden and last width of the projector, which the objective is computed behind (solo-learn: 2048 "
        "and 2048 for Barlow Twins, 2048 and 256 for SimCLR, 4096 and 256 for BYOL)",
    )
    off_diagonal: float = Field(
        default=5e-3, gt=0, description="weight (lambda) of correlations between numbers; of barlow-twins"
    )
    loss_scale: float = Field(default=0.1, gt=0, description="factor of the objective; of barlow-twins")
    temperature: float = Field(default=0.2, gt=0, description="temperature (T) of cosines; of simclr")
    tau: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="first decay of the target network's moving average, which rises to 1; of byol",
    )
    distortions: Distortions = Field(default=Distortions(), description="the two views of an image")
    statistics: Literal["data", "imagenet"] = Field(
        default="data",
        description="mean and std that images are normalised with: of the real images, or ImageNet's; published "
        "weights have their own",
    )
    seed: int = Field(default=0, ge=0, description="seed of first weights, orders and views")

    @model_validator(mode="after")
    def _is_trained_somehow(self) -> FeatureTeacherConfig:
        if self.weights == FRESH and self.epochs == 0:
            raise ValueError("epochs: a teacher with fresh weights that is not trained knows nothing")
        if self.epochs and self.warmup >= self.epochs:
            raise ValueError(f"warmup: {self.warmup} epochs of {self.epochs} leave none at the highest learning rate")
        return self

    @property
    def weights_file(self) -> str | None:
        """The file that the weights are in, if they are in one."""
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
    """solo-learn's settings for CIFAR; its online linear probe has 90.7 to 92.6 % on CIFAR-10 by the three objectives.

    Three things are otherwise there: the rate of the first 10 epochs rises at each step, the images are padded by 2
    before the first convolution instead of 1, and half of SimCLR's views are blurred.
    """
    common = {"network": "torchvision:resnet18", "epochs": 1000, "optimiser": "lars", "distortions": _ASYMMETRIC}
    return FeatureTeacherConfig.model_validate({**common, "objective": objective, **_SOLO_LEARN[objective]})
