"""Continual learning on Avalanche with distilled replay buffers.

In a program of one's own: `DistilledBuffer` is a storage policy for Avalanche's `ReplayPlugin`, and
`use_buffer` plugs it in where Avalanche offers no argument for one. The benchmark is `ContinualScenario` and
`run`. Avalanche takes some ten seconds to import, so each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_apps.continual.buffer import DistilledBuffer
    from dd_apps.continual.config import ContinualScenario
    from dd_apps.continual.experiment import Results, run
    from dd_apps.continual.hybrid import HybridBuffer
    from dd_apps.continual.plug import use_buffer
    from dd_apps.continual.replay import SoftLabelReplay

_HOME = {
    "ContinualScenario": "config",
    "DistilledBuffer": "buffer",
    "HybridBuffer": "hybrid",
    "Results": "experiment",
    "SoftLabelReplay": "replay",
    "run": "experiment",
    "use_buffer": "plug",
}
__all__ = ["ContinualScenario", "DistilledBuffer", "HybridBuffer", "Results", "SoftLabelReplay", "run", "use_buffer"]

__getattr__ = names_of(__name__, _HOME)
