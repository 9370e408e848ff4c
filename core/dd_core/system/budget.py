"""The bytes that one batch may take: a constant, and the option of the methods whose last bits it can move."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

# 832 MiB: what 800 images of 3 x 32 x 32 take in the literature's ConvNet, or 16 of 3 x 224 x 224
BATCH_BYTES = 13 << 26


def _is_default(value: int) -> bool:
    return value == BATCH_BYTES


# The default is left out of files and digests, so that runs and sets of earlier versions mean what they meant.
BatchBytes = Annotated[int, Field(ge=1, exclude_if=_is_default)]


class Footprint(NamedTuple):
    """The peak bytes of a computation, and the names of settings that lower the peak when they are smaller."""

    bytes: int
    settings: tuple[str, ...] = ()
