"""Trials and pools for the tests of searches; worker processes import this module, which needs no torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from typing import Any

from dd_core.system.parallel import Pool, Workers

BEST = {"x": 3, "y": 1, "z": 2}


def value_of(sample: dict[str, Any]) -> float:
    """Minus the squared distance to `BEST`."""
    return -float(sum((sample[label] - best) ** 2 for label, best in BEST.items()))


def uneven(sample: dict[str, Any]) -> float:
    """A trial that ends the earlier, the better it is."""
    time.sleep(-value_of(sample) / 300)
    return value_of(sample)


class Counted:
    """A trial that counts its calls by sample; a signal comes at call `stop`."""

    def __init__(self, trial: Callable[[dict[str, Any]], float] = value_of, *, stop: int | None = None) -> None:
        self.trial, self.stop = trial, stop
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, sample: dict[str, Any]) -> float:
        if self.calls.total() == self.stop:
            raise KeyboardInterrupt
        self.calls[tuple(sample.values())] += 1
        return self.trial(sample)


class Backwards(Pool):
    """A pool of several workers whose last job ends first; its jobs run in this process."""

    def __init__(self, count: int = 3) -> None:
        super().__init__(Workers(count=count), uses_torch=False)

    def as_finished(self, function: Any, jobs: Iterable[Any], *, lost: Any = None) -> Generator[tuple[int, Any]]:
        """The results, the last first."""
        del lost
        return ((index, function(job)) for index, job in reversed([*enumerate(jobs)]))
