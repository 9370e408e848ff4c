"""Independent jobs: who runs them (`Workers`, light), and running them (`Pool`, or `run` for one batch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.system.parallel.engines import Pool, run
    from dd_core.system.parallel.workers import Engine, Workers, check_engine

__all__ = ["Engine", "Pool", "Workers", "check_engine", "run"]
__getattr__ = names_of(
    __name__,
    {"Engine": "workers", "Workers": "workers", "check_engine": "workers", "Pool": "engines", "run": "engines"},
)
