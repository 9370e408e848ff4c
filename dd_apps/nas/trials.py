"""One trial of a search as a job for a pool. It imports no torch, so that workers may start without it."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dd_core.errors import DDError, Interrupted

TrialFunction = Callable[[dict[str, Any]], float]
DIED = "its worker process died at every attempt, most likely for lack of memory"
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: a value, of which more is better, or the reason of its failure.

    repeats: index of the earlier trial whose outcome this one repeats, or None. seconds: the trial's own time, 0 for a
    repetition, None where its worker died.
    """

    value: float | None
    reason: str | None = None
    seconds: float | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Attempt:
    """A trial as a job for a pool: an exception becomes an outcome with a reason."""

    trial: TrialFunction

    def __call__(self, sample: dict[str, Any]) -> Outcome:
        start = time.perf_counter()
        value, reason = None, None
        try:
            value = float(self.trial(sample))
        except Interrupted:
            raise
        except Exception as error:  # such as a model that cannot be built, that diverges, or that is too large
            reason = reason_of(error)
        else:
            if not math.isfinite(value):
                value, reason = None, f"its value is {value}"
        return Outcome(value, reason, time.perf_counter() - start)


def died(sample: dict[str, Any]) -> Outcome:
    """The outcome of a trial whose worker processes died."""
    del sample
    return Outcome(None, DIED)


def key_of(sample: dict[str, Any]) -> str:
    """A sample as JSON text; equal samples have equal texts."""
    return json.dumps(sample, sort_keys=True, default=repr)


def reason_of(error: Exception) -> str:
    """The reason of a failure in one line, at most 200 characters."""
    line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, DDError) and line:
        return line[:_LONGEST_REASON]
    kind = "out of memory" if _lacks_memory(error) else type(error).__name__
    return ": ".join(filter(None, [kind, line]))[:_LONGEST_REASON]


def _lacks_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from dd_core.system.device import is_out_of_memory  # torch, which this trial has loaded anyway

    return is_out_of_memory(error)
