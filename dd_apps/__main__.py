"""The command `dd-apps`, and `python -m dd_apps`: a process that may take too little memory says so before it loads."""

from __future__ import annotations

import sys

LEAST = 200 * 2**20  # bytes of address space without which numpy and pydantic cannot be loaded


def main() -> int:
    """Run one command line and return its exit code."""
    if (room := _room()) is not None and room < LEAST:
        print(
            f"error: this process may take {room >> 20} MiB of memory (`ulimit -v`), and dd-apps needs {LEAST >> 20} "
            "MiB to start",
            file=sys.stderr,
        )
        return 4
    from dd_apps.cli import main as command  # late: it loads numpy, whose library ends the process without memory

    return command()


def _room() -> int | None:
    """Bytes of address space that this process may take; None: no limit, or a system without one."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


if __name__ == "__main__":
    sys.exit(main())
