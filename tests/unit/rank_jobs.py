"""What processes that train together run in tests; they import it by its name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from dd_core.augment.view_config import Views
from dd_core.images import InputForm, LabelledImages, Source
from dd_core.system.ranks import Rank
from dd_core.testing import blobs
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec

SOURCE = blobs(per_class=5)  # 15 images
FORM = InputForm.of(SOURCE)
TEACHER = TeacherConfig(
    network="convnet-1-w4-batchnorm",
    epochs=3,
    batch_size=5,  # of which one process has three, and the other two
    learning_rate=0.04,
    views=Views(crop=None, padding=1),
    processes=2,
)
SPEC = TeacherSpec.of(SOURCE, TEACHER)
Curve = tuple[list[float], dict[str, np.ndarray], list[str]]


def curve(rank: Rank, source: Source) -> Curve:
    """The loss of each step, the weights at the end, and where the processes listen."""
    loop = SPEC.loop(SPEC.fresh(), source, FORM, device=rank.device, rank=rank)
    losses: list[float] = []
    for _ in range(TEACHER.epochs):
        losses += [loop.step(rows).item() for rows in loop.mini_batches()]
        loop.end_epoch()
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    processes = (os.getpid(), parent.pid)
    weights = {name: value.numpy().copy() for name, value in loop.model.state_dict().items()}
    return losses, weights, [address for pid in processes for address in listening(pid)]


def listening(pid: int) -> list[str]:
    """Addresses on which a process waits for connections."""
    sockets = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


class Fatal(LabelledImages):
    """Images that the second process does not survive: those of its fifth mini-batch, in the second epoch."""

    taken, last = 0, 5

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        Fatal.taken += 1
        if Fatal.taken == self.last and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().take(indices)


class OfTwoEpochs(Fatal):
    """As many as two epochs take."""

    last = 7


def endless(rank: Rank, folder: Path) -> None:
    """Compute until somebody ends this process, which `folder` knows of."""
    (folder / str(os.getpid())).touch()
    time.sleep(600)
