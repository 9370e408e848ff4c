"""The bytes that one batch may take: a constant, and the option of the methods whose last bits it can move."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

# 832 MiB: what 800 images of 3 x 32 x 32 take in the literature's ConvNet, or 16 of 3 x 224 x 224
BATCH_BYTES = 13 << 26
