"""Sets of real images, chosen or averaged class by class, and several sets joined to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.selection.joining import join
    from dd_core.selection.selecting import (
        averages,
        cluster_centres,
        group_averages,
        herd,
        herded_indices,
        k_means,
        labels_of,
        largest_class,
        members_of,
        network_features,
        pixel_features,
        random_indices,
        real_set,
    )

__all__ = [
    "averages",
    "cluster_centres",
    "group_averages",
    "herd",
    "herded_indices",
    "join",
    "k_means",
    "labels_of",
    "largest_class",
    "members_of",
    "network_features",
    "pixel_features",
    "random_indices",
    "real_set",
]
__getattr__ = names_of(__name__, {**dict.fromkeys(__all__, "selecting"), "join": "joining"})
