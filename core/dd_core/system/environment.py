"""The software and hardware that computed a result; imports no torch, as a set's manifest holds `Environment`."""

from __future__ import annotations

from dd_core.config import Config


class Environment(Config):
    """Versions, device and thread count that computed a set, and that can change its last bits."""

    dd_apps: str
    python: str
    torch: str
    numpy: str
    device: str
    threads: int
