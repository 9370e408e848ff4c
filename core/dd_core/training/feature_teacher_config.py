"""How a teacher is trained without labels; values only, so that the command line lists them without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment.view_config import Distortions
from dd_core.config import Config, checked
from dd_core.networks.names import family
from dd_core.training.teacher_config import FRESH, file_of, require_weights


class FeatureTeacherConfig(Config):
    """A backbone trained on images alone, two distorted views of each at a time; SGD or AdamW, cosine schedule."""

    network: str | None = Field(
        default=None, description="network of the teacher; `list networks`; none: the network of the recipe"
    )
    objective: Literal["barlow-twins", "simclr", "byol"] = Field(
        default="barlow-twins", description="what is learned of two views of an image"
    )
    weights: str = Field(
        default=FRESH,
        exclude_if=lambda weights: weights == FRESH,
        description="weights that training begins with: fresh, published (those of timm or torchvision), or a "
        ".safetensors, .pth or .pt file",
    )
    epochs: int = Field(
        default=100, ge=0, description="passes over the real images (solo-learn: 1000); 0: the weights as they are"
    )
    optimiser: Literal["sgd", "adamw"] = Field(default="sgd", description="optimiser that updates the weights")
    learning_rate: float = Field(default=0.05, gt=0, description="highest learning rate of the optimiser")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=1e-4, ge=0, description="weight decay of all weights")
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
