"""Differentiable inner loops: gradients through steps of training, and fast inner steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
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
    from dd_core.unroll.pairs import BOUND, BOUND_AMP, How, InnerSteps, how_to_step

__all__ = [
    "BOUND",
    "BOUND_AMP",
    "How",
    "InnerSteps",
    "Mode",
    "Step",
    "Tensors",
    "Unrolled",
    "apply",
    "choose_mode",
    "cosine",
    "graph_bytes",
    "how_to_step",
    "sgd_step",
    "unroll",
]
_PAIRS = ("BOUND", "BOUND_AMP", "How", "InnerSteps", "how_to_step")
__getattr__ = names_of(__name__, {**dict.fromkeys(__all__, "gradients"), **dict.fromkeys(_PAIRS, "pairs")})
