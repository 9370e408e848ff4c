"""`mtt`, `ftd`, `datm`, `m-datm`, `tesla`: matching training trajectories. Only `config` is read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.trajectory_matching.config import MTTConfig
    from dd_core.methods.trajectory_matching.distiller import TrajectoryMatchingDistiller
    from dd_core.methods.trajectory_matching.planning import check_source, experts_spec, footprint, rehearsal

__all__ = ["MTTConfig", "TrajectoryMatchingDistiller", "check_source", "experts_spec", "footprint", "rehearsal"]
__getattr__ = names_of(
    __name__,
    {
        "MTTConfig": "config",
        "TrajectoryMatchingDistiller": "distiller",
        "check_source": "planning",
        "experts_spec": "planning",
        "footprint": "planning",
        "rehearsal": "planning",
    },
)
