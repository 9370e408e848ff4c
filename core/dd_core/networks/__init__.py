"""Networks by name: the names (without torch), the modules, and the ConvNet's own kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.networks.models import FeatureNetwork, build, embed, for_source, initialise_xavier
    from dd_core.networks.norms import batch_norms, mixes_images, norm_inputs, require_batch_norms, synchronised
    from dd_core.networks.weights import load_into

__all__ = [
    "FeatureNetwork",
    "batch_norms",
    "build",
    "embed",
    "for_source",
    "initialise_xavier",
    "load_into",
    "mixes_images",
    "norm_inputs",
    "require_batch_norms",
    "synchronised",
]
__getattr__ = names_of(
    __name__,
    {
        "FeatureNetwork": "models",
        "batch_norms": "norms",
        "build": "models",
        "embed": "models",
        "for_source": "models",
        "initialise_xavier": "models",
        "load_into": "weights",
        "mixes_images": "norms",
        "norm_inputs": "norms",
        "require_batch_norms": "norms",
        "synchronised": "norms",
    },
)
