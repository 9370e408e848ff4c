"""Differentiable inner loops: gradients through steps of training."""

from __future__ import annotations

from dd_core.unroll.gradients import (
    Mode,
    Step,
    Tensors,
    Unrolled,
    apply,
    choose_mode,
    cosine,
    graph_bytes,
    sgd_step,
    unroll,
)

__all__ = [
    "Mode",
    "Step",
    "Tensors",
    "Unrolled",
    "apply",
    "choose_mode",
    "cosine",
    "graph_bytes",
    "sgd_step",
    "unroll",
]
