"""Memory that is freed: kept while something is computed, and no longer."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told anything")

# pages that blocks of 64 MiB take from the system, four one after the other, and the memory held with them and after
SCRIPT = """
import os, resource, sys
from dd_core.system import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

def block():
    before = faults()
    b"x" * (64 << 20)
    return faults() - before

with memory.kept():
    block()
    with memory.kept():
        pass
    block()
    taken = [block() for _ in range(4)]
    within = held()
print(min(taken), within - held())
"""
PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")


def run(**environment: str) -> tuple[int, int]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={**plain, **environment}
    )
    taken, released = map(int, done.stdout.split())
    return taken, released


def test_freed_memory_is_used_again_and_handed_back_at_the_end():
    taken, released = run()
    assert taken < PAGES / 100
    assert released >= 60


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_what_the_environment_says_of_malloc_stands(variable: str, value: str):
    taken, released = run(**{variable: value})
    assert taken >= PAGES
    assert abs(released) < 10


def test_what_it_says_of_arenas_is_another_matter():
    assert run(MALLOC_ARENA_MAX="2")[0] < PAGES / 100
