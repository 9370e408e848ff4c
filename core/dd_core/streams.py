"""Counter-based random numbers: (seed, stream, step) names a generator, and no generator's state is ever stored.

A draw depends on its name alone, not on how many draws came before, so a run that resumes at step 1,000 draws the same
numbers there as an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dd_core.errors import Option, UserError

if TYPE_CHECKING:
    import torch


def require_seed(seed: object) -> int:
    """`seed` as a Python integer; raises `UserError` for anything but a whole number from 0 on."""
    with suppress(TypeError):
        if not isinstance(seed, bool) and (number := operator.index(seed)) >= 0:  # type: ignore[arg-type]
            return number
    raise UserError(f"{Option('seed')} is a whole number from 0 on, not {seed!r}")


def counter(seed: int, stream: str, step: int) -> int:
    """A 63-bit number that the three arguments determine, the same on every machine and version.

    Raises `UserError` for a seed that is no whole number from 0 on.
    """
    if type(seed) is not int or seed < 0:  # this is called for every draw
        seed = require_seed(seed)
    digest = hashlib.blake2b(f"{seed}\0{stream}\0{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for `stream` at `step`. Draw on the CPU, then move the draw: all devices see the same numbers."""
    import torch  # late: `counter` is for callers without torch too

    return torch.Generator().manual_seed(counter(seed, stream, step))


@contextmanager
def seeded(seed: int, stream: str, step: int = 0) -> Iterator[None]:
    """Seed torch's *global* generator for a block of code that draws from it (module initialisation, dropout).

    The global state is restored at the end, on the CPU and on any accelerator.
    """
    import torch  # see `generator`

    number = counter(seed, stream, step)
    if torch.accelerator.is_available():
        with torch.random.fork_rng():
            torch.manual_seed(number)
            yield
    else:  # `torch.manual_seed` takes 2 ms to note the seed for accelerators that are not there
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number)
            yield


@dataclass(frozen=True)
class Streams:
    """All random streams of one seed; a method gets them in its `Context`."""

    seed: int

    def generator(self, stream: str, step: int = 0) -> torch.Generator:
        """See `generator`."""
        return generator(self.seed, stream, step)

    def seeded(self, stream: str, step: int = 0):
        """See `seeded`."""
        return seeded(self.seed, stream, step)

    def child(self, stream: str, step: int = 0) -> Streams:
        """An independent family of streams, for a part of a program that counts steps of its own."""
        return Streams(counter(self.seed, stream, step))
