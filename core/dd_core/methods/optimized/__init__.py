"""`optimized`: the best of many random draws of real images. Only `config` is read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.optimized.config import OptimizedConfig
    from dd_core.methods.optimized.distiller import OptimizedDistiller, footprint, pool_spec

__all__ = ["OptimizedConfig", "OptimizedDistiller", "footprint", "pool_spec"]
__getattr__ = names_of(
    __name__,
    {
        "OptimizedConfig": "config",
        "OptimizedDistiller": "distiller",
        "footprint": "distiller",
        "pool_spec": "distiller",
    },
)
