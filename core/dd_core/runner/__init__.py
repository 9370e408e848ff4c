"""The distillation loop, and the folder of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of
from dd_core.system.reporter import Reporter, Silent, Stage

if TYPE_CHECKING:
    from dd_core.runner.folder import seconds_of
    from dd_core.runner.loop import RunOptions, distill

__all__ = ["Reporter", "RunOptions", "Silent", "Stage", "distill", "seconds_of"]
__getattr__ = names_of(__name__, {"RunOptions": "loop", "distill": "loop", "seconds_of": "folder"})
