"""What computed a result, where it can change the last bits; no torch, because a set's manifest holds it."""

from __future__ import annotations

from dd_core.config import Config


class Environment(Config):
    """What took part in computing a set and can change its last bits."""

    dd_apps: str
    python: str
    torch: str
    numpy: str
    device: str
    threads: int
