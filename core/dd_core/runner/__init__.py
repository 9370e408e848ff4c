"""The distillation loop, and the folder of a run; loaded when first used, since both load torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.runner.loop import Reporter, RunOptions, Silent, distill

__all__ = ["Reporter", "RunOptions", "Silent", "distill"]
__getattr__ = names_of(__name__, dict.fromkeys(__all__, "loop"))
