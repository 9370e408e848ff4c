"""Scoring a set and its random-real twin: protocols and results (without torch), twins, tuning, verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.evaluation.evaluation import evaluate
    from dd_core.evaluation.protocol import EvaluationProtocol
    from dd_core.evaluation.relabelling import relabel
    from dd_core.evaluation.results import Attack, Evaluation, Score

__all__ = ["Attack", "Evaluation", "EvaluationProtocol", "Score", "evaluate", "relabel"]
__getattr__ = names_of(
    __name__,
    {
        "Attack": "results",
        "Evaluation": "results",
        "EvaluationProtocol": "protocol",
        "Score": "results",
        "evaluate": "evaluation",
        "relabel": "relabelling",
    },
)
