"""The records of the benchmarks: what each of them carries, and where it goes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dd_core.system import device

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dd-apps", "avalanche-lib", "numpy", "scikit-learn", "torch", "torchvision")  # those that figures depend on


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def facts(
    benchmark: str, options: Mapping[str, Any], *, run: str, data: str, on: str = "cpu", threads: int = 1
) -> dict[str, Any]:
    """The facts that every record carries.

    `options` are those of the command line that determine the figure, by name; True is a flag, False and None are left
    out. `run` is when the run began, `data` the data and which copy of it, `on` the device, `threads` those of a job.
    """
    given = [(name.replace("_", "-"), value) for name, value in options.items() if value is not None]
    words = [
        f"--{name}" if value is True else f"--{name} {shown(value)}" for name, value in given if value is not False
    ]
    arguments = f" BENCH_ARGS='{' '.join(words)}'" if words else ""
    return {
        "benchmark": benchmark,
        "run": run,
        "when": now(),
        "command": f"make bench-{benchmark}{arguments}",
        "data": data,
        "hardware": device.hardware(device.resolve(on), threads=threads),
        "load_average": round(os.getloadavg()[0], 1),  # far above the cores: others were computing too
        "versions": versions(),
        "commit": commit(),
    }


@cache
def commit() -> str | None:
    """The commit of the code, with a + where the code was changed since; None outside a repository."""
    git = ["git", "-C", str(RESULTS)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    code = ["--", ":/core", ":/dd_apps"]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *code], capture_output=True, check=False)
    return head.stdout.strip() + ("+" if changed.returncode else "")


def rounded(value: float | None) -> float | None:
    """To four digits; None, where there is no deviation, stays None."""
    return None if value is None else round(value, 4)


def versions() -> dict[str, str]:
    """The installed versions of the packages that figures depend on; one that is not installed is left out."""
    import torch

    installed = {name: metadata.version(name) for name in PACKAGES if any(metadata.distributions(name=name))}
    return installed | {"torch": torch.__version__}  # with its build, which the package's metadata may lack


def shown(value: object) -> str:
    """A value of the command line as it is typed, without anybody's path."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "folder:DIR" if text.startswith("folder:") else text


def append(path: Path, record: Mapping[str, Any]) -> None:
    """One more line of JSON; a number that JSON has no word for is a ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
