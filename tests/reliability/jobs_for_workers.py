"""Jobs for worker processes, which import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd_core.errors import Interrupted, UserError
from dd_core.system.parallel import slots


def uneven(index: int) -> tuple[int, int, float]:
    """(index, threads, a sum); the first jobs take longest, so that the last end first."""
    import torch

    values = torch.arange(200_000 // (1 + index), dtype=torch.float64)
    return index, torch.get_num_threads(), float(values.sin().sum())


def pow_of_two(index: int) -> int:
    """A job without torch."""
    return 2**index


def slow_pow_of_two(index: int) -> int:
    """A job that takes longer than its result takes to be read."""
    time.sleep(0.02)
    return 2**index


def refused(index: int) -> int:
    """A job whose third one finds a mistake."""
    if index == 2:
        raise UserError(f"job {index} is refused")
    return index


def interrupted(index: int) -> int:
    """A job that a signal stopped."""
    raise Interrupted("stopped after step 3; to go on: again", 15)


def endless(folder: Path) -> None:
    """A job that leaves its process number, and never ends."""
    (folder / str(os.getpid())).touch()
    while True:
        time.sleep(0.01)


def deadly(job: tuple[Path, str]) -> str:
    """A job that counts its runs in a folder: `bad` kills its process each time, `once` the first time."""
    folder, name = job
    runs = len([*folder.glob(f"{name}-*")])
    (folder / f"{name}-{runs}").touch()
    if name == "bad" or (name == "once" and not runs):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)  # so that innocent jobs are under way when a process dies
    return name


def slot(job: tuple[Path, Path]) -> tuple[int, int]:
    """A job that tells its process and its slot, once another process runs its like."""
    folder, agreed = job
    (folder / str(os.getpid())).touch()
    while len([*folder.iterdir()]) < 2:
        time.sleep(0.01)
    return os.getpid(), slots.claim(agreed)


@dataclass(frozen=True)
class Mortal:
    """A trial of a search that notes its runs in a folder, and dies at its first run of the sample `bad`."""

    folder: Path
    bad: dict[str, Any] | None = None

    def __call__(self, sample: dict[str, Any]) -> float:
        name = f"x{sample['x']}-y{sample['y']}"
        runs = len([*self.folder.glob(f"{name}-*")])
        (self.folder / f"{name}-{runs}").touch()
        if sample == self.bad and not runs:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01 * sample["x"])  # so that trials end in another order than they began in
        return -float((sample["x"] - 3) ** 2 + (sample["y"] - 2) ** 2)
