"""How mosaics of crops are made; values only, so that the command line lists them without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dd_core.config import Config

Fraction = Annotated[float, Field(gt=0, le=1)]


class MosaicConfig(Config):
    """How mosaics are made of the crops of real images that a teacher scores best."""

    factor: int = Field(
        default=2, ge=1, description="crops along each side of a mosaic, which has factor x factor crops"
    )
    images: int = Field(default=300, ge=1, description="random real images of each class whose crops are scored (mipc)")
    crops: int = Field(default=5, ge=1, description="random crops of each image, of which the best is kept (num_crop)")
    crop: tuple[Fraction, Fraction] = Field(
        default=(0.08, 1.0), description="smallest and largest fraction of an image's area that a square crop shows"
    )

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> MosaicConfig:
        if self.crop[0] > self.crop[1]:
            raise ValueError(
                f"crop: from {self.crop[0]:g} to {self.crop[1]:g} of the area is no range; give the smaller first"
            )
        return self
