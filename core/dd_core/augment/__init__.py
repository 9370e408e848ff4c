"""Differentiable siamese augmentation: the names of strategies (without torch), and the transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.augment.transforms import (
        Parameters,
        apply,
        brightness,
        contrast,
        crop,
        cutout,
        draw_parameters,
        dsa,
        flip,
        rotate,
        saturation,
        scale,
    )

__all__ = [
    "Parameters",
    "apply",
    "brightness",
    "contrast",
    "crop",
    "cutout",
    "draw_parameters",
    "dsa",
    "flip",
    "rotate",
    "saturation",
    "scale",
]
__getattr__ = names_of(
    __name__,
    {
        "Parameters": "transforms",
        "apply": "transforms",
        "brightness": "transforms",
        "contrast": "transforms",
        "crop": "transforms",
        "cutout": "transforms",
        "draw_parameters": "transforms",
        "dsa": "transforms",
        "flip": "transforms",
        "rotate": "transforms",
        "saturation": "transforms",
        "scale": "transforms",
    },
)
