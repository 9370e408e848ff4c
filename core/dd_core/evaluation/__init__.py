"""Scoring a set beside its random-real twin: protocols (no torch), tuning, verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.evaluation.evaluation import Attack, Evaluation, Score, evaluate

__all__ = ["Attack", "Evaluation", "Score", "evaluate"]
__getattr__ = names_of(
    __name__, {"Attack": "evaluation", "Evaluation": "evaluation", "Score": "evaluation", "evaluate": "evaluation"}
)
