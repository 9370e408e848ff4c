"""The names of augmentations that a user can type; imports no torch. `transforms` implements the augmentations."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from dd_core.config import checked
from dd_core.errors import unknown_name

KINDS = ("color", "crop", "cutout", "flip", "scale", "rotate")
EVERYTHING = "_".join(KINDS)
MIRRORED = ("digits", "mnist", "kmnist", "usps", "svhn")  # sources whose classes a flip would confuse


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """The kinds that a text such as `color_crop_cutout_flip_scale_rotate` lists; `none` lists nothing.

    Raises `UserError` for an unknown kind.
    """
    if strategy == "none":
        return ()
    words = tuple(strategy.split("_"))
    for word in words:
        if word not in KINDS:
            raise unknown_name(f"kind of augmentation in '{strategy}':", word, (*KINDS, "none"))
    return words


def resolve_strategy(strategy: str, source_name: str) -> str:
    """`strategy`, with `auto` resolved to all kinds, but without flip for sources of digits and letters."""
    if strategy == "auto":
        return "_".join(kind for kind in KINDS if kind != "flip" or source_name not in MIRRORED)
    return strategy


def _known(strategy: str) -> str:
    return strategy if strategy == "auto" else checked(strategy, parse_strategy)


Strategy = Annotated[str, AfterValidator(_known)]  # `auto`, or what `parse_strategy` takes
