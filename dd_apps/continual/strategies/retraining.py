"""GDumb: after each experience the initial network is trained on the memory alone (Avalanche's GDumbPlugin)."""

from __future__ import annotations

from typing import Any

from torch import nn

from dd_apps.continual.adapter import GDumbPlugin, Naive
from dd_apps.continual.strategies.learning import Learning


def build(learning: Learning) -> Any:
    """The strategy."""
    assert learning.memory is not None
    plugin: Any = GDumbPlugin(mem_size=learning.memory.max_size)
    plugin.storage_policy = learning.memory  # GDumbPlugin takes no storage policy as an argument
    return Naive(model=learning.network, criterion=nn.CrossEntropyLoss(), **learning.common(plugin))
