"""How a teacher is trained on real images; values only, so that the command line lists them without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dd_core.augment.view_config import Views
from dd_core.config import Config, checked
from dd_core.networks.names import family
from dd_core.networks.origins import FRESH, file_of, require_weights
from dd_core.recipe import Recipe

IMAGES_OF_A_PROCESS = 2  # fewest images of a mini-batch in each process: one image alone has no variance

# how networks train on a set that a teacher made; in some protocols the teacher also labels every view
TAUGHT = Recipe(
    network="torchvision:resnet18",
    optimiser="adamw",
    learning_rate=1e-3,
    weight_decay=0.01,
    decayed="matrices",
    schedule="cosine",
    batch_size=128,
    views=Views(mix="cutmix"),
)


class TeacherConfig(Config):
    """How a teacher is trained on the real images: SGD with momentum, cosine schedule, mini-batches of views."""

    network: str | None = Field(
        default=None,
        description="network of the teacher, by a name of `dd-apps list networks`; none: the network of the recipe",
    )
    weights: str = Field(
        default=FRESH,
        exclude_if=lambda weights: weights == FRESH,
        description="weights that training begins with: fresh, published (those of timm or torchvision), or a "
        ".safetensors, .pth or .pt file",
    )
    epochs: int = Field(
        default=50, ge=0, description="passes over the real images (SRe2L: 50 to 200); 0: `weights` are not trained"
    )
    learning_rate: float = Field(default=0.1, gt=0, description="highest learning rate of SGD")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of SGD")
    warmup: int = Field(default=0, ge=0, description="epochs of linear warm-up to the highest learning rate; 0: none")
    batch_size: int = Field(default=128, ge=1, description="real images in a mini-batch")
    processes: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda processes: processes == 1,
        description="processes that train the teacher together, each with a GPU and a part of every mini-batch; on the "
        "CPU batch norms normalise each part alone",
    )
    views: Views = Field(
        default=Views(crop=None, padding=4),
        description="random views of real images that the teacher learns from; SRe2L: padding 4 at 32 px, crops above",
    )
    statistics: Literal["data", "imagenet"] = Field(
        default="data",
        description="mean and std that images are normalised with: data: of the real images; imagenet: ImageNet's; "
        "published weights bring their own",
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, orders of images and views")

    @model_validator(mode="after")
    def _is_trained_somehow(self) -> TeacherConfig:
        if self.weights == FRESH and self.epochs == 0:
            raise ValueError("epochs: 0 leaves fresh weights untrained; give 1 or more, or other weights")
        return self

    @model_validator(mode="after")
    def _parts_can_be_normalised(self) -> TeacherConfig:
        if self.processes > 1 and self.batch_size < IMAGES_OF_A_PROCESS * self.processes:
            raise ValueError(
                f"batch_size: {self.processes} processes need {IMAGES_OF_A_PROCESS} images each in a mini-batch, "
                f"{IMAGES_OF_A_PROCESS * self.processes} in all, not {self.batch_size}"
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
