"""ER-ACE: current images compete with the classes of their own experience only (Caccia et al., ICLR 2022)."""

from __future__ import annotations

from typing import Any

from torch import nn

from dd_apps.continual.adapter import warnings_contained
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.plug import use_buffer
from dd_apps.continual.strategies.learning import Learning
from dd_core.errors import UserError

with warnings_contained():
    from avalanche.training.supervised import ER_ACE


def build(learning: Learning) -> Any:
    """The strategy. Raises `UserError` for a memory that never fills a mini-batch, from which nothing is replayed."""
    assert learning.memory is not None
    memory, batch = learning.memory, learning.replay.batch_size_mem
    strategy: Any = ER_ACE(
        model=learning.network,
        criterion=nn.CrossEntropyLoss(),
        mem_size=memory.max_size,
        batch_size_mem=batch,
        **learning.common(),
    )
    if isinstance(memory, DistilledBuffer):
        use_buffer(strategy, memory)
    elif memory.fill is None and memory.max_size < batch:
        raise UserError(
            f"strategy 'er-ace': replays nothing before the memory ({memory.max_size} images) fills a mini-batch of "
            f'{batch}; set replay.share = "fill", or a smaller replay.batch_size_mem'
        )
    else:
        strategy.storage_policy = memory  # ER_ACE takes no storage policy as an argument
    return strategy
