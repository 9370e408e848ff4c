"""iCaRL: herded exemplars, distilled sigmoid outputs, nearest class mean (Rebuffi et al., CVPR 2017)."""

from __future__ import annotations

from typing import Any

from dd_apps.continual.adapter import warnings_contained
from dd_apps.continual.strategies.learning import Learning

with warnings_contained():
    from avalanche.training.supervised import ICaRL


def build(learning: Learning) -> Any:
    """The strategy, with Avalanche's own memory; raises `UserError` for a network without separate features."""
    features, classifier = learning.parts()
    return ICaRL(
        feature_extractor=features,
        classifier=classifier,
        memory_size=learning.room if learning.adaptive else learning.each,
        buffer_transform=None,  # exemplars are kept as network inputs
        fixed_memory=learning.adaptive,
        **learning.common(),
    )
