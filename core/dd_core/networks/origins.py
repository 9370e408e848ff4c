"""The origin of a network's weights, as a user types it: fresh, published, a file or a digest; imports no torch."""

from __future__ import annotations

import re

FRESH, PUBLISHED, KEPT = "fresh", "published", "sha256:"
WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def file_of(weights: str) -> str | None:
    """The file that `weights` names; None for other origins."""
    return weights if weights.lower().endswith(WEIGHT_FILES) else None


def kept_digest(weights: str) -> str | None:
    """The digest of weights that the cache keeps; None for other origins."""
    return weights.removeprefix(KEPT) if weights.startswith(KEPT) else None


def require_weights(weights: str) -> str:
    """`weights` unchanged; raises `ValueError` for a text that names no weights."""
    kept = re.fullmatch(f"{KEPT}[0-9a-f]{{64}}", weights)
    if weights not in (FRESH, PUBLISHED) and not kept and file_of(weights) is None:
        raise ValueError(f"{weights[:60]!r} is none of {FRESH}, {PUBLISHED}, and a {', '.join(WEIGHT_FILES)} file")
    return weights
