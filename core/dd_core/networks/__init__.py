"""Networks by name: which names there are (no torch), the modules, and the ConvNet's own kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.networks.models import (
        FeatureNetwork,
        batch_norms,
        build,
        embed,
        for_source,
        initialise_xavier,
        mixes_images,
        norm_inputs,
    )

__all__ = [
    "FeatureNetwork",
    "batch_norms",
    "build",
    "embed",
    "for_source",
    "initialise_xavier",
    "mixes_images",
    "norm_inputs",
]
__getattr__ = names_of(
    __name__,
    {
        "FeatureNetwork": "models",
        "batch_norms": "models",
        "build": "models",
        "embed": "models",
        "for_source": "models",
        "initialise_xavier": "models",
        "mixes_images": "models",
        "norm_inputs": "models",
    },
)
