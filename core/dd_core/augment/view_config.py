"""Settings of the views of images that networks are trained on; imports no torch. `views` draws and shows views."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dd_core.augment.names import MIRRORED
from dd_core.config import Config

Fraction = Annotated[float, Field(gt=0, le=1)]


def _mirrored(name: str, *, flip: bool | None) -> bool:
    """`flip` if it is given, else whether images of the source `name` may be mirrored."""
    return name not in MIRRORED if flip is None else flip


class Views(Config):
    """How a view of an image is drawn: a crop or a shift, mirrored or not, mixed with another image's view or not."""

    crop: tuple[Fraction, Fraction] | None = Field(
        default=(0.08, 1.0),
        description="smallest and largest fraction of an image's area that a crop shows, resized to the whole size; "
        "none: no crop",
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="smallest and largest ratio of a crop's width to its height"
    )
    padding: int = Field(
        default=0,
        ge=0,
        description="largest shift of a view in pixels, up or down and left or right, with black beyond the edge; "
        "excludes crop; 0: no shift",
    )
    flip: bool | None = Field(
        default=None,
        description="whether a random half of the views is mirrored left and right; none: yes, unless the images are "
        "digits",
    )
    mix: Literal["none", "cutmix", "mixup"] = Field(
        default="none",
        description="how a view is mixed with the view of another image: cutmix pastes a box of the other view, mixup "
        "averages both; none: not at all",
    )
    mix_alpha: float = Field(
        default=1.0,
        gt=0,
        description="parameter of the symmetric Beta distribution from which a view's share in its mix (lambda) is "
        "drawn",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Views:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise ValueError(
                f"crop: from {self.crop[0]:g} to {self.crop[1]:g} of the area is no range; give the smaller first"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: from {self.ratio[0]:g} to {self.ratio[1]:g} is no range")
        if self.crop is not None and self.padding:
            raise ValueError(f"padding {self.padding} excludes crop; set crop to none, or padding to 0")
        return self

    def for_source(self, name: str) -> Views:
        """These settings with `flip` decided for the source `name`: digits and letters are not mirrored."""
        return self.model_copy(update={"flip": _mirrored(name, flip=self.flip)})


Chance = Annotated[float, Field(ge=0, le=1)]


class Distortions(Config):
    """Two views of an image for self-supervised learning.

    The defaults are solo-learn's asymmetric ones for CIFAR, except for the crop, whose smallest fraction there is 0.08.
    """

    crop: tuple[Fraction, Fraction] = Field(
        default=(0.2, 1.0), description="smallest and largest fraction of an image's area that a crop shows"
    )
    flip: bool | None = Field(
        default=None,
        description="whether a random half of the views is mirrored left and right; none: yes, unless the images are "
        "digits",
    )
    jitter: Chance = Field(default=0.8, description="fraction of the views whose colours are changed")
    brightness: float = Field(default=0.4, ge=0, le=1, description="largest departure of the brightness factor from 1")
    contrast: float = Field(default=0.4, ge=0, le=1, description="largest departure of the contrast factor from 1")
    saturation: float = Field(default=0.2, ge=0, le=1, description="largest departure of the saturation factor from 1")
    hue: float = Field(
        default=0.1, ge=0, le=0.5, description="largest turn of the hue, as a fraction of the colour circle"
    )
    grey: Chance = Field(default=0.2, description="fraction of the views that lose their colours")
    solarise: tuple[Chance, Chance] = Field(
        default=(0.0, 0.2),
        description="fraction of the first views, and of the second views, that are solarised (values x from 0.5 on "
        "become 1 - x)",
    )

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> Distortions:
        if self.crop[0] > self.crop[1]:
            raise ValueError(
                f"crop: from {self.crop[0]:g} to {self.crop[1]:g} of the area is no range; give the smaller first"
            )
        return self

    def for_source(self, name: str) -> Distortions:
        """These settings with `flip` decided for the source `name`: digits and letters are not mirrored."""
        return self.model_copy(update={"flip": _mirrored(name, flip=self.flip)})
