"""The strategies that the tables compare, each an Avalanche strategy with its memory, in a file of its own.

`retraining`: after each experience a network starts again from its initial weights and is trained on the memory alone
(Avalanche's GDumbPlugin). `replay`: one network learns each experience, with the memory mixed in (ReplayPlugin), or by
another strategy that a row names. The rows without a memory, `none` (the current experience only) and `joint` (all
experiences so far), learn from real images with the replay settings in both tables; in `retraining` their network, too,
starts from its initial weights at each experience.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.rows import Table
from dd_apps.continual.strategies.learning import Learning
from dd_apps.continual.strategies.memories import Memory, Where, memory_for
from dd_apps.continual.strategies.stepping import stepping
from dd_apps.continual.strategies.tuning import tuning

__all__ = ["Learning", "Memory", "Where", "memory_for", "strategy_for"]


def strategy_for(
    scenario: ContinualScenario,
    row: str,
    table: Table,
    *,
    network: nn.Module,
    memory: Memory | None,
    device: torch.device,
    seed: int = 0,
    where: Where | None = None,
    loggers: Sequence[Any] = (),
) -> Any:
    """The Avalanche strategy of a row in a table; its `model` is the network after each `train`.

    seed: of augmentations and of draws from the memory; where: what `memory_for` got, needed by strategies that have a
    memory of their own; loggers: Avalanche's, which log the training.
    """
    settings = scenario.settings(row, table)
    config = scenario.row_of(row).strategy_in(table)
    learning = Learning(
        config=config,
        settings=settings,
        network=network,
        memory=memory,
        each=0 if where is None else where.images_of_class(scenario, row),
        classes=0 if where is None else where.classes,
        adaptive=scenario.row_of(row).adaptive,
        table=table,
        device=device,
        plugins=(*stepping(settings, data=scenario.data, seed=seed), *tuning(settings, memory, seed=seed)),
        loggers=tuple(loggers),
        seed=seed,
    )
    return import_module(f"{__name__}.{config.module}").build(learning)
