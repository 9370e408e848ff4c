"""`dm`: distribution matching. `config` is read without torch; the rest is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.dm.config import DMConfig
    from dd_core.methods.dm.distiller import DMDistiller
    from dd_core.methods.dm.planning import check_network, footprint

__all__ = ["DMConfig", "DMDistiller", "check_network", "footprint"]
__getattr__ = names_of(
    __name__,
    {"DMConfig": "config", "DMDistiller": "distiller", "check_network": "planning", "footprint": "planning"},
)
