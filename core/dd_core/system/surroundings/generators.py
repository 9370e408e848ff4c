"""The CPU's global random generators: Python's, NumPy's and PyTorch's, from which other people's code draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dd_core import streams


@contextmanager
def generators_kept() -> Iterator[None]:
    """Run a block, and put the CPU's global generators (Python, NumPy, PyTorch) back as they were before it."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def generator_states() -> tuple[object, ...]:
    """The states of the three generators, as a value that changes whenever one of them draws."""
    numbers: Any = np.random.get_state()
    return random.getstate(), numbers[1].tobytes(), *numbers[2:], torch.get_rng_state().numpy().tobytes()


@contextmanager
def generators_seeded(seed: int, stream: str, step: int = 0) -> Iterator[None]:
    """Run a block with the global generators seeded by `seed`, `stream` and `step`, for code that draws from them.

    The generators are put back at the end; those of accelerators are left alone where torch has none.
    """
    number = streams.counter(seed, stream, step)
    with generators_kept(), streams.seeded(seed, stream, step):
        random.seed(number)
        np.random.seed(number % 2**32)
        yield
