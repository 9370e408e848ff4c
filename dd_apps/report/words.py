"""Numbers in sentences."""

from __future__ import annotations


def several(count: int, noun: str) -> str:
    """`1 value`, `2 values`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
