"""What the views of an image may be that a network is trained on; imports no torch. `views` draws and shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dd_core.augment.names import MIRRORED
from dd_core.config import Config

Fraction = Annotated[float, Field(gt=0, le=1)]


def _mirrored(name: str, *, flip: bool | None) -> bool:
    """What is asked for, or else whether images called `name` may be mirrored."""
    return name not in MIRRORED if flip is None else flip


class Views(Config):
    """A crop, perhaps mirrored, perhaps mixed with the view of another image."""

    crop: tuple[Fraction, Fraction] | None = Field(
        default=(0.08, 1.0),
        description="smallest and largest part of an image's area that a crop shows, resized to the whole size; none: "
        "no such crop",
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="smallest and largest width of a crop divided by its height"
    )
    padding: int = Field(
        default=0,
        ge=0,
        description="pixels by which a view is shifted at most, up or down and left or right, with black beyond the "
        "edge; instead of a crop",
    )
    flip: bool | None = Field(
        default=None,
        description="whether half of the views are mirrored left and right; none: unless the images are digits",
    )
    mix: Literal["none", "cutmix", "mixup"] = Field(
        default="none",
        description="how a view is mixed with the view of another image: cutmix pastes a box of it, mixup averages",
    )
    mix_alpha: float = Field(
        default=1.0,
        gt=0,
        description="parameter of the symmetric Beta distribution of a view's own share in a mix (lambda)",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Views:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise ValueError(f"crop: from {self.crop[0]:g} to {self.crop[1]:g} of the area is no range")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: from {self.ratio[0]:g} to {self.ratio[1]:g} is no range")
        if self.crop is not None and self.padding:
            raise ValueError("give either a crop or a padding: a view has one of them")
        return self

    def for_source(self, name: str) -> Views:
        """The same with `flip` decided for the images called `name`: digits and letters are not mirrored."""
        return self.model_copy(update={"flip": _mirrored(name, flip=self.flip)})


Chance = Annotated[float, Field(ge=0, le=1)]


class Distortions(Config):
    """Two views of an image for self-supervised learning.

    The defaults are solo-learn's asymmetric ones for CIFAR, but for the crop, whose smallest part there is 0.08.
    """

    crop: tuple[Fraction, Fraction] = Field(
        default=(0.2, 1.0), description="smallest and largest part of an image's area that a crop shows"
    )
    flip: bool | None = Field(
        default=None,
        description="whether half of the views are mirrored left and right; none: unless the images are digits",
    )
    jitter: Chance = Field(default=0.8, description="part of the views whose colours are changed")
    brightness: float = Field(default=0.4, ge=0, le=1, description="largest departure of the brightness factor from 1")
    contrast: float = Field(default=0.4, ge=0, le=1, description="largest departure of the contrast factor from 1")
    saturation: float = Field(default=0.2, ge=0, le=1, description="largest departure of the saturation factor from 1")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="largest turn of the hue, of a whole circle")
    grey: Chance = Field(default=0.2, description="part of the views that lose their colours")
    solarise: tuple[Chance, Chance] = Field(
        default=(0.0, 0.2), description="part of the first and of the second views whose bright values are turned over"
    )

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> Distortions:
        if self.crop[0] > self.crop[1]:
            raise ValueError(f"crop: from {self.crop[0]:g} to {self.crop[1]:g} of the area is no range")
        return self

    def for_source(self, name: str) -> Distortions:
        """The same with `flip` decided for the images called `name`: digits and letters are not mirrored."""
        return self.model_copy(update={"flip": _mirrored(name, flip=self.flip)})
