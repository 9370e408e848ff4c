"""The CPU's global generators of random numbers: Python's, NumPy's and PyTorch's. Code of others draws from them."""

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
    """Where the generators are, as a value: it changes where any of them draws."""
    numbers: Any = np.random.get_state()
    return random.getstate(), numbers[1].tobytes(), *numbers[2:], torch.get_rng_state().numpy().tobytes()


@contextmanager
def generators_seeded(seed: int, stream: str, step: int = 0) -> Iterator[None]:
    """Run a block whose code draws from the global generators, each of which begins where the three arguments say.

    They are put back at the end; those of accelerators are left alone where torch has none.
    """
    number = streams.counter(seed, stream, step)
    with generators_kept(), streams.seeded(seed, stream, step):
        random.seed(number)
        np.random.seed(number % 2**32)
        yield
