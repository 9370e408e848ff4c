"""`dc` and `dsa`: gradient matching. `config` is read without torch; the rest is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.gradient_matching.config import DCConfig, DSAConfig, loops
    from dd_core.methods.gradient_matching.distiller import GradientMatchingDistiller
    from dd_core.methods.gradient_matching.planning import check_network, footprint

__all__ = ["DCConfig", "DSAConfig", "GradientMatchingDistiller", "check_network", "footprint", "loops"]
__getattr__ = names_of(
    __name__,
    {
        "DCConfig": "config",
        "DSAConfig": "config",
        "GradientMatchingDistiller": "distiller",
        "check_network": "planning",
        "footprint": "planning",
        "loops": "config",
    },
)
