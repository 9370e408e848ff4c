"""A continual-learning scenario of seconds, to which tests add their rows."""

from __future__ import annotations

from typing import Any

CONTINUAL: dict[str, Any] = {
    "data": "digits",
    "experiences": 2,
    "orders": 1,
    "images_per_class": 3,
    "network": "convnet-1-w4",
    "method": {"name": "dm", "steps": 1, "recipe": {"network": "convnet-1-w4"}},
}
