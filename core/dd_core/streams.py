"""Counter-based random numbers: (seed, stream, step) names a generator, and nothing is ever stored.

A draw depends on its name alone and not on how many draws came before it, so a run that resumes at step
1,000 sees the numbers that an uninterrupted run sees there.
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
    """`seed` as one of Python's integers; raises `UserError` for what is no whole number from 0 on."""
    with suppress(TypeError):
        if not isinstance(seed, bool) and (number := operator.index(seed)) >= 0:  # type: ignore[arg-type]
            return number
    raise UserError(f"{Option('seed')} is a whole number from 0 on, not {seed!r}")


def counter(seed: int, stream: str, step: int) -> int:
    """A 63-bit number determined by the three, the same on every machine and version.

    Raises `UserError` for a seed that is no whole number from 0 on.
    """
    if type(seed) is not int or seed < 0:  # this is called for every draw
        seed = require_seed(seed)
    digest = hashlib.blake2b(f"{seed}\0{stream}\0{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for `stream` at `step`; draw on the CPU and move, so that every device agrees."""
    import torch  # `counter` names streams for who has no torch

    return torch.Generator().manual_seed(counter(seed, stream, step))


@contextmanager
def seeded(seed: int, stream: str, step: int = 0) -> Iterator[None]:
    """Run a block whose code draws from torch's *global* generator (module initialisation, dropout).

    The global state is put back at the end, on the CPU and on any accelerator.
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
    """All the streams of one seed; what a method is given."""

    seed: int

    def generator(self, stream: str, step: int = 0) -> torch.Generator:
        """See `generator`."""
        return generator(self.seed, stream, step)

    def seeded(self, stream: str, step: int = 0):
        """See `seeded`."""
        return seeded(self.seed, stream, step)

    def child(self, stream: str, step: int = 0) -> Streams:
        """An independent family of streams, for a part that counts its own steps."""
        return Streams(counter(self.seed, stream, step))
