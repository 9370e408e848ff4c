"""The distillation loop, and the folder of a run."""

from __future__ import annotations

from dd_core.runner.loop import Reporter, RunOptions, Silent, distill

__all__ = ["Reporter", "RunOptions", "Silent", "distill"]
