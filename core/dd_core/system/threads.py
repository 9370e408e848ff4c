"""How many CPU threads compute, in the surroundings that the engine computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dd_core.system import memory, surroundings


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Run a block with this many CPU threads in torch, in the engine's `surroundings`, with `memory` kept within it.

    The number of threads is put back at the end.
    """
    import torch  # processes whose jobs do without torch import this module too

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with surroundings.own(), memory.kept():
            yield
    finally:
        torch.set_num_threads(before)
