"""LwF (Li and Hoiem, ECCV 2016) and online EWC (Schwarz et al., ICML 2018), alone or with a memory that is replayed."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from dd_apps.continual.adapter import Naive, warnings_contained
from dd_apps.continual.rows import EwcStrategy, LwfStrategy
from dd_apps.continual.strategies.learning import Learning

with warnings_contained():
    from avalanche.training.plugins import EWCPlugin, LwFPlugin


def build(learning: Learning) -> Any:
    """The strategy."""
    plugins = [_regulariser(learning), *learning.replayed]
    return Naive(model=learning.network, criterion=nn.CrossEntropyLoss(), **learning.common(*plugins))


def _regulariser(learning: Learning) -> Any:
    config, kind = learning.config, cast(Any, LwFPlugin)  # its annotations allow no float
    if isinstance(config, LwfStrategy):
        return kind(alpha=config.alpha, temperature=config.temperature)
    assert isinstance(config, EwcStrategy)
    return EWCPlugin(ewc_lambda=config.strength, mode="online", decay_factor=config.decay)
