"""The ways of learning that the tables compare, each an Avalanche strategy with its memory.

`retraining`: after each experience a network starts again from its first weights and sees the memory alone
(Avalanche's GDumbPlugin). `replay`: one network learns each experience with the memory mixed in (ReplayPlugin).
The rows without a memory, `none` (the current experience only) and `joint` (everything seen so far), always
learn from real images with the replay settings; in the table `retraining` they too start again each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dd_apps.continual.adapter import (
    Cumulative,
    FromScratchTrainingPlugin,
    GDumbPlugin,
    Naive,
    ReplayPlugin,
    silent_evaluator,
)
from dd_apps.continual.buffer import DistilledBuffer, FilledClassBalancedBuffer
from dd_apps.continual.config import ContinualScenario, Replay, Retraining, Table

Memory = DistilledBuffer | FilledClassBalancedBuffer


@dataclass(frozen=True)
class Where:
    """What a memory needs to know besides the scenario; `source` is the name of the real images."""

    source: str
    classes: int
    seed: int
    folder: Path
    device: str = "cpu"


def memory_for(scenario: ContinualScenario, row: str, table: Table, where: Where) -> Memory | None:
    """The memory of a row, empty; None for the rows without one. Every memory may hold the same number of images."""
    size = scenario.images_per_class * where.classes
    fill = scenario.replay.fill if table == "replay" else None
    if row == "real":  # equal bytes after each experience
        return FilledClassBalancedBuffer(size, total_num_classes=where.classes, fill=fill)
    if row == "real-adaptive":  # equal bytes at the end; before that, room not yet needed holds more of the old classes
        return FilledClassBalancedBuffer(size, fill=fill)
    method = scenario.memory_method(row)
    if method is None:
        return None
    return DistilledBuffer(
        size,
        images_per_class=scenario.images_per_class,
        method=method,
        seed=where.seed,
        fill=fill,
        data=where.source,
        folder=where.folder,
        device=where.device,
    )


def strategy_for(
    scenario: ContinualScenario,
    row: str,
    table: Table,
    *,
    network: nn.Module,
    memory: Memory | None,
    device: torch.device,
) -> Any:
    """An Avalanche strategy; its `model` is the network after each `train`."""
    settings = scenario.retraining if memory is not None and table == "retraining" else scenario.replay
    plugins: list[Any] = []
    if memory is None and table == "retraining":
        plugins.append(FromScratchTrainingPlugin())
    elif memory is not None and table == "retraining":
        plugin: Any = GDumbPlugin(mem_size=memory.max_size)
        plugin.storage_policy = memory  # Avalanche offers no argument for it
        plugins.append(plugin)
    elif memory is not None:
        plugins.append(
            ReplayPlugin(
                mem_size=memory.max_size,
                batch_size=scenario.replay.batch_size,
                batch_size_mem=scenario.replay.batch_size_mem,
                storage_policy=memory,
            )
        )
    kind = Cumulative if row == "joint" else Naive
    return kind(
        model=network,
        optimizer=_sgd(network, settings),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=settings.batch_size,
        train_epochs=settings.epochs,
        device=device,
        plugins=plugins,
        evaluator=silent_evaluator(),
    )


def _sgd(network: nn.Module, settings: Retraining | Replay) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
