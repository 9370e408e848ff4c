"""How many CPU threads compute, in the surroundings that the engine computes in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dd_core.errors import Option, UserError
from dd_core.system import memory, surroundings


def require_cores(threads: int) -> None:
    """Raise `UserError` for more CPU threads than this machine has cores: they take turns, or cannot all be started."""
    cores = os.cpu_count()
    if cores is not None and threads > cores:
        raise UserError(
            f"{Option('threads', threads)}: this machine has {cores} CPU cores, and more threads than cores only take "
            f"longer; use at most {Option('threads', cores)}"
        )


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Run a block with this many CPU threads in torch, in the engine's `surroundings`, with freed memory kept.

    The number of threads is put back at the end; see `memory.kept`.
    """
    import torch  # processes whose jobs do without torch import this module too

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with surroundings.own(), memory.kept():
            yield
    finally:
        torch.set_num_threads(before)
