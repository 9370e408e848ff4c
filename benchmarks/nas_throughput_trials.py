"""A trial of `nas_throughput.py`: a fixed amount of computing. Workers import this module, which needs no torch."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

_PROBE = 100_000  # rounds by which a core is measured


@dataclass(frozen=True)
class Trial:
    """A number in [0, 1) that follows from the sample, after `rounds` rounds of SHA-256."""

    rounds: int

    def __call__(self, sample: dict[str, Any]) -> float:
        text = json.dumps(sample, sort_keys=True).encode()
        digest = hashlib.pbkdf2_hmac("sha256", text, b"trial", self.rounds)
        return int.from_bytes(digest[:8], "big") / 2**64


def calibrated(seconds: float) -> Trial:
    """The trial that takes about so many seconds on a core of this machine, by the fastest of five measurements."""
    looks: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        Trial(_PROBE)({})
        looks.append(time.perf_counter() - begun)
    return Trial(max(1, round(_PROBE * seconds / min(looks))))
