"""Where the weights of a network come from, as a user names it; imports no torch."""

from __future__ import annotations

import re

FRESH, PUBLISHED, KEPT = "fresh", "published", "sha256:"
WEIGHT_FILES = (".safetensors", ".pth", ".pt")


def file_of(weights: str) -> str | None:
    """The file that weights are in, if they are in one."""
    return weights if weights.lower().endswith(WEIGHT_FILES) else None


def kept_digest(weights: str) -> str | None:
    """The digest of weights that are kept in the cache, if they are."""
    return weights.removeprefix(KEPT) if weights.startswith(KEPT) else None


def require_weights(weights: str) -> str:
    """`weights` as they are; raises `ValueError` for what names none."""
    kept = re.fullmatch(f"{KEPT}[0-9a-f]{{64}}", weights)
    if weights not in (FRESH, PUBLISHED) and not kept and file_of(weights) is None:
        raise ValueError(f"{weights[:60]!r} is none of {FRESH}, {PUBLISHED}, and a {', '.join(WEIGHT_FILES)} file")
    return weights
