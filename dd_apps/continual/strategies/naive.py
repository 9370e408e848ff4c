"""Training without a memory: on the current experience's images only, or on those of all experiences so far (joint)."""

from __future__ import annotations

from typing import Any

from torch import nn

from dd_apps.continual.adapter import Cumulative, FromScratchTrainingPlugin, Naive
from dd_apps.continual.strategies.learning import Learning


def build(learning: Learning) -> Any:
    """The strategy; in the table 'retraining' each experience begins from the initial weights."""
    again = [FromScratchTrainingPlugin()] if learning.table == "retraining" else []
    kind = Cumulative if learning.config.name == "cumulative" else Naive
    return kind(model=learning.network, criterion=nn.CrossEntropyLoss(), **learning.common(*again))
