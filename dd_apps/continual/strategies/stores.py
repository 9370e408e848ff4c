"""The size and the time of what strategies keep: memories of their own, and earlier networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dd_apps.continual.adapter import warnings_contained
from dd_apps.continual.rows import LOGIT_BYTES

with warnings_contained():
    from avalanche.training.losses import ICaRLLossPlugin
    from avalanche.training.plugins import EWCPlugin, LwFPlugin
    from avalanche.training.supervised import DER
    from avalanche.training.supervised.icarl import _ICaRLPlugin  # pyright: ignore[reportPrivateUsage] (it has the exemplars)


@dataclass(frozen=True)
class Kept:
    """Images of a memory, and the bytes of the logits that are kept with them."""

    images: int
    logits: int


def own_memory(strategy: Any, *, classes: int) -> Kept | None:
    """The contents of a strategy's own memory; None for a strategy without one."""
    if isinstance(strategy, DER):
        images = len(strategy.storage_policy.buffer)
        return Kept(images, images * classes * LOGIT_BYTES)
    plugin = _exemplars(strategy)
    return None if plugin is None else Kept(sum(len(images) for images in plugin.x_memory), 0)


def state_bytes(strategy: Any) -> int:
    """Bytes of the weights and importances that a strategy keeps beside the network in training."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _state(strategy))


def _state(strategy: Any) -> Iterator[Tensor]:
    for plugin in strategy.plugins:
        if isinstance(plugin, EWCPlugin):
            for kept in (plugin.saved_params, plugin.importances):
                yield from (parameter.data for of in kept.values() for parameter in of.values())
        network = getattr(plugin, "old_model", None) if isinstance(plugin, ICaRLLossPlugin) else None
        network = plugin.lwf.prev_model if isinstance(plugin, LwFPlugin) else network
        if isinstance(network, nn.Module):
            yield from network.state_dict().values()


class Stopwatch:
    """Seconds that the calls of one method of an object take."""

    def __init__(self, strategy: Any, policy: Any) -> None:
        """Time how long a strategy stores into its memory `policy`, or into a memory of its own."""
        self.seconds = 0.0
        exemplars = _exemplars(strategy)
        if exemplars is not None:
            self._time(exemplars, "construct_exemplar_set")
        elif policy is not None:
            self._time(policy, "update")
        elif isinstance(strategy, DER):
            self._time(strategy.storage_policy, "update")

    def _time(self, owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.monotonic()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.monotonic() - begun

        setattr(owner, name, timed)


def _exemplars(strategy: Any) -> Any:
    return next((plugin for plugin in strategy.plugins if isinstance(plugin, _ICaRLPlugin)), None)
