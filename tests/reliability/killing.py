"""What runs in the processes that get killed, stopped and interrupted.

They are forked from a server that has imported everything, so that starting one takes milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar

import faulty_disk
import numpy as np
import sklearn.cluster  # noqa: F401  (for the server: k-means imports it when it is first called)
import torch
import torch._dynamo  # the first optimiser imports it, in seconds

import dd_core.networks  # noqa: F401  (likewise)
from dd_core import artefacts
from dd_core.artefacts import ArtefactSpec, Progress, Tensors
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context, MethodConfig
from dd_core.errors import DDError
from dd_core.methods import decode_method
from dd_core.runner import RunOptions, distill
from dd_core.selection import real_set
from dd_core.streams import generator
from dd_core.testing import blobs

Kill = tuple[str, int] | None
"""("disk", n): at the n-th moment of writing; ("call", n): at the n-th function call of any kind."""

INTERRUPTED_AT_ONCE = 99


@contextmanager
def killed(kill: Kill) -> Iterator[None]:
    """Run the block until the kill comes."""
    torch.set_num_threads(1)
    if kill is None:
        yield
    elif kill[0] == "disk":
        with faulty_disk.watched(faulty_disk.KillAt(kill[1])):
            yield
    else:
        sys.setprofile(_kill_at_call(kill[1]))
        yield
        sys.setprofile(None)


def _kill_at_call(number: int) -> Callable[..., None]:
    left = number

    def on_event(frame: object, event: str, argument: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_event


def moments(out: Path, table: dict[str, Any], counts: Path) -> None:
    """How many moments of either kind an undisturbed run has, as JSON in `counts`."""
    disk, calls = faulty_disk.Counter(), 0

    def on_event(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    torch.set_num_threads(1)
    _distil(out, table, 0)
    sys.setprofile(on_event)
    with faulty_disk.watched(disk):
        _distil(out.with_name("counted.safetensors"), table, 0)
    sys.setprofile(None)
    counts.write_text(json.dumps({"disk": disk.moments, "calls": calls}))


def distilling(out: Path, table: dict[str, Any], seed: int, kill: Kill) -> None:
    """A run from where it is to its end."""
    with killed(kill):
        _distil(out, table, seed)


def _distil(out: Path, table: dict[str, Any], seed: int) -> None:
    options = RunOptions(threads=1, checkpoint_seconds=0.0)
    distill(decode_method(table), blobs(), Size(ipc=2), seed=seed, out=out, options=options)


def stoppable(out: Path, table: dict[str, Any], said: Path) -> None:
    """A run that exits as the command line does, and leaves its error line in `said`."""
    torch.set_num_threads(1)
    options = RunOptions(threads=1, checkpoint_seconds=3600.0, resume_command="the very same command")
    try:
        distill(decode_method(table), blobs(), Size(ipc=2), out=out, options=options)
    except DDError as error:
        said.write_text(str(error))
        sys.exit(error.exit_code)


def patient(out: Path, begun: Path, go: Path, said: Path) -> None:
    """A run whose one step lasts until `go` exists."""
    torch.set_num_threads(1)
    try:
        distill(Patient(begun=str(begun), go=str(go), steps=2), blobs(), Size(ipc=2), out=out)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_AT_ONCE)
    except DDError as error:
        said.write_text(str(error))
        sys.exit(error.exit_code)


def command(arguments: list[str], cache: Path, stdout: Path, stderr: Path) -> None:
    """The command line."""
    os.environ["DD_APPS_CACHE"] = str(cache)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    from dd_apps.cli import main

    sys.exit(main(arguments))


class Patient(MethodConfig):
    """Each step waits for a file."""

    name: ClassVar[str] = "patient"
    begun: str
    go: str

    def build(self, context: Context) -> Waiting:
        return Waiting(self, context.source, context.counts)


class Waiting:
    def __init__(self, config: Patient, source: Any, counts: tuple[int, ...]) -> None:
        self.config, self.source, self.counts = config, source, counts

    def step(self, index: int) -> Mapping[str, float]:
        Path(self.config.begun).touch()
        while not Path(self.config.go).exists():
            time.sleep(0.01)
        return {"index": index}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def export(self) -> DistilledSet:
        return real_set(self.source, self.source.images[: sum(self.counts)], self.counts, self.config.recipe)


class Walks(ArtefactSpec):
    """Random walks: each part is long, and saves its state after every stride."""

    kind: ClassVar[str] = "walks"
    count: int
    strides: int

    def parts(self) -> int:
        return self.count

    def make_part(self, index: int, *, resources: Any, progress: Progress) -> tuple[Tensors, Mapping[str, Any]]:
        state = progress.load() or {"stride": 0, "place": torch.zeros(3)}
        for stride in range(state["stride"], self.strides):
            with open(resources, "a") as log:
                log.write(f"{index} {stride}\n")
            place = state["place"] + torch.rand(3, generator=generator(index, "walk", stride))
            state = {"stride": stride + 1, "place": place}
            progress.save(state)
        return {"place": np.asarray(state["place"])}, {"strides": self.strides}


def making(spec: ArtefactSpec, cache: Path, log: Path, kill: Kill) -> None:
    """An artefact, made from where it is to its end."""
    with killed(kill):
        artefacts.get(spec, resources=str(log), cache=cache)


def counting(spec: ArtefactSpec, cache: Path, log: Path, counts: Path) -> None:
    """How many moments of writing there are in the making, as JSON."""
    disk = faulty_disk.Counter()
    with faulty_disk.watched(disk):
        artefacts.get(spec, resources=str(log), cache=cache)
    counts.write_text(json.dumps(disk.moments))


class Server:
    """Starts the functions above in processes of their own."""

    def __init__(self, context: ForkServerContext) -> None:
        self._context = context

    def start(self, function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
        """A running process."""
        process = self._context.Process(target=function, args=arguments, daemon=True)
        process.start()
        return process

    def run(self, function: Callable[..., None], *arguments: Any) -> int:
        """Its exit code, once it has ended; minus the signal that killed it."""
        return ended(self.start(function, *arguments))


def ended(process: ForkServerProcess) -> int:
    """The exit code of a process."""
    process.join(120)
    assert process.exitcode is not None, "the process does not end"
    return process.exitcode


def wait_for(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    """Until `condition` holds; fails where the process ends before."""
    while not condition():
        assert process.is_alive(), f"the process ended with {process.exitcode}"
        time.sleep(0.005)


def draws(seed: int) -> random.Random:
    """Random moments, the same in every run of the tests."""
    return random.Random(seed)
