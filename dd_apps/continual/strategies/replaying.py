"""Replay: mini-batches of current and of memory images, one loss over both (Avalanche's ReplayPlugin)."""

from __future__ import annotations

from typing import Any

from torch import nn

from dd_apps.continual.adapter import Naive
from dd_apps.continual.strategies.learning import Learning


def build(learning: Learning) -> Any:
    """The strategy."""
    return Naive(model=learning.network, criterion=nn.CrossEntropyLoss(), **learning.common(*learning.replayed))
