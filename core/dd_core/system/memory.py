"""What becomes of memory that training frees on a CPU. Linux with glibc only; elsewhere nothing is changed here.

Every step frees the arrays of the one before and asks for others as large. By default glibc hands large ones back to
the system at once and maps new ones, which the kernel has to fill with zeros: half of the time of a step on 256 small
images (`make bench-memory`).
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
    """Memory that is freed within the block stays with the process, for what is computed next; then it is handed back.

    It is the whole process that behaves so, and blocks may be nested: each hands back what is free at its end. Where
    the environment tells malloc itself when to map and trim (`MALLOC_MMAP_...`, `MALLOC_TRIM_...`, or the same in
    `GLIBC_TUNABLES`), that stands, and nothing is done.
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
    """The C library, where its malloc can be told all this and nobody told it otherwise."""
    told = (*os.environ, *os.environ.get("GLIBC_TUNABLES", "").split(":"))
    if any(name.startswith(_TOLD) for name in told):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
