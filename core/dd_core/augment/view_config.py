"""What the views of an image may be that a network is trained on; imports no torch. `views` draws and shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dd_core.augment.names import MIRRORED
from dd_core.config import Config

Fraction = Annotated[float, Field(gt=0, le=1)]


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
        return self if self.flip is not None else self.model_copy(update={"flip": name not in MIRRORED})
