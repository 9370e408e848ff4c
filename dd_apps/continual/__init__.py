"""Continual learning on Avalanche with distilled replay buffers.

For use in a program: `DistilledBuffer` is a storage policy for Avalanche's `ReplayPlugin`, `HybridBuffer` is one that
keeps real exemplars too, `SoftLabelReplay` is a plugin that learns soft labels, and `use_buffer` plugs a memory in
where Avalanche offers no argument for one. `ContinualScenario` and `run` are the benchmark. Importing Avalanche takes
some ten seconds, so each name is loaded when it is first used.

The table says which strategies and plugins of Avalanche 0.6 work with such a memory; a test tries each row on three
experiences. `labels` are the option of `DistilledBuffer`; a `HybridBuffer` takes all of them but bank:

    strategy or plugin  memory by   labels                               outcome
    SoftLabelReplay     argument    hard, stored, network, logits, bank  works
    ReplayPlugin        argument    hard                                 works
    RARPlugin           argument    hard                                 works
    MemoryNCMUpdate     argument    hard                                 works
    MemoryFeCAMUpdate   argument    hard                                 works
    BiCPlugin           use_buffer  hard                                 works; alone it breaks on today's PyTorch
    GDumb               use_buffer  hard                                 works
    ER_ACE              use_buffer  hard                                 works
    DER                 use_buffer  logits                               works
    SCR                 use_buffer  hard                                 works
    CoPEPlugin          use_buffer  hard                                 works
    MIRPlugin           use_buffer  hard                                 works once old classes outnumber its mini-batch
    ER_AML              use_buffer  hard                                 refused: draws a whole mini-batch of each class
    FeatureReplay       use_buffer  hard                                 refused: replays features
    MER                 use_buffer  hard                                 refused: has no storage policy
    ICaRL               use_buffer  hard                                 refused: has no storage policy
    AGEMPlugin          use_buffer  hard                                 refused: has no storage policy
    GEMPlugin           use_buffer  hard                                 refused: has no storage policy
    GSS_greedyPlugin    use_buffer  hard                                 refused: has no storage policy

BiC keeps real images for its second stage; they are not part of the memory, and no budget counts them.
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
