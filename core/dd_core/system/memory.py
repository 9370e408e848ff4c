"""Keep memory that training on a CPU frees within the process. Linux with glibc only; elsewhere nothing is changed.

Every step frees the arrays of the step before and allocates others as large. By default glibc hands large arrays back
to the system at once and maps new ones, which the kernel has to fill with zeros: half of the time of a step on 256
small images (`make bench-memory`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# mallopt's parameters (glibc's malloc.h)
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1
_TOLD = ("MALLOC_MMAP_", "MALLOC_TRIM_", "glibc.malloc.mmap_", "glibc.malloc.trim_")


@contextmanager
def kept() -> Iterator[None]:
    """Memory that is freed within the block stays with the process for reuse; at the end free memory is handed back.

    This holds for the whole process, whose malloc keeps these settings after the block. Blocks may be nested: each
    hands back free memory at its end. Nothing is done where the environment itself tells malloc when to map and trim
    (`MALLOC_MMAP_...`, `MALLOC_TRIM_...`, or the same in `GLIBC_TUNABLES`).
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library; None where its malloc has no such settings, or the environment has set them."""
    told = (*os.environ, *os.environ.get("GLIBC_TUNABLES", "").split(":"))
    if any(name.startswith(_TOLD) for name in told):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
