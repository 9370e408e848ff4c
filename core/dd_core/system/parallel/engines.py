"""Independent jobs on worker slots: local processes through joblib, or the tasks of Ray or Dask.

When a local worker dies, most likely for lack of memory, the jobs that were under way run again. After two deaths a job
runs while nothing else does, and is lost if its worker dies then.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from dd_core.errors import Option, OutOfResources
from dd_core.system import surroundings
from dd_core.system.parallel import clusters, slots
from dd_core.system.parallel.workers import Workers
from dd_core.system.signals import Signals
from dd_core.system.threads import computing

Job = TypeVar("Job")
Result = TypeVar("Result")

_WATCH = "parent-watch"
_WATCH_SECONDS = 0.5
_RETRIES = clusters.RETRIES
_AHEAD = 2  # jobs of each worker that joblib takes before it returns


def run(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: Workers | None = None,
    uses_torch: bool = True,
) -> Iterator[Result]:
    """The result of `function` for each job, lazily and in order, on a `Pool` for this one batch. See `Pool.run`."""
    with Pool(workers, uses_torch=uses_torch) as pool:
        yield from pool.run(function, jobs)


class Pool:
    """Worker slots that are opened once and take many batches of jobs.

    A Ray or Dask that is started for a pool serves every pool within its block. uses_torch: whether workers set torch's
    thread count for each job; they import torch for this, which takes seconds.
    """

    def __init__(self, workers: Workers | None = None, *, uses_torch: bool = True) -> None:
        self.workers = workers or Workers()
        self._threads = self.workers.threads if uses_torch else None
        self._opened = ExitStack()

    def __enter__(self) -> Pool:
        self._opened.enter_context(clusters.opened(self.workers))
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def run(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        *,
        lost: Callable[[Job], Result] | None = None,
    ) -> Iterator[Result]:
        """The result of `function` for each job, lazily and in order. Function and jobs must be picklable.

        With one local worker, jobs run in this process. Raises what a job raises. `lost` gives the result
        of a job that was lost with its workers; without `lost`, such a job raises `OutOfResources`.
        """
        early: dict[int, Result] = {}
        awaited = 0
        with closing(self.as_finished(function, jobs, lost=lost)) as results:
            for index, result in results:
                early[index] = result
                while awaited in early:
                    yield early.pop(awaited)
                    awaited += 1

    def as_finished(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        *,
        lost: Callable[[Job], Result] | None = None,
    ) -> Generator[tuple[int, Result]]:
        """(position, result) of each job, as soon as the job is done; otherwise as `run`.

        Of a sequence, a job is taken when a worker is about to need it, and taken again should that worker die.
        """
        if self.workers.engine == "processes" and self.workers.count == 1:
            return ((index, _with_threads(function, job, self._threads)) for index, job in _numbered(jobs))
        local = self.workers.engine == "processes"
        parent, folder = (os.getpid(), slots.folder()) if local else (None, None)
        call = _Call(function, self._threads, parent, folder)
        batch = _Batch(call, jobs if isinstance(jobs, Sequence) else list(jobs), self.workers, lost or _out_of_memory)
        return batch.on_processes() if local else batch.on_cluster(clusters.tasks(self.workers))


@dataclass(frozen=True)
class _Call(Generic[Job, Result]):
    """What a worker does with a job. threads: of each job; None: torch is not used.

    For local processes alone, parent: the process that started the worker; folder: where workers claim their slots.
    """

    function: Callable[[Job], Result]
    threads: int | None
    parent: int | None = None
    folder: Path | None = None

    def __call__(self, index: int, job: Job) -> tuple[int, Result]:
        # joblib runs a job in the parent itself where it may not start processes
        elsewhere = self.parent is not None and self.parent != os.getpid()
        if elsewhere and self.folder is not None and self.threads is not None:
            slots.pin(self.folder)
        return index, _with_threads(self.function, job, self.threads)


@dataclass(frozen=True)
class _Batch(Generic[Job, Result]):
    """Jobs for worker processes, by their positions."""

    call: _Call[Job, Result]
    jobs: Sequence[Job]
    workers: Workers
    lost: Callable[[Job], Result]

    # --- local processes --------------------------------------------------------------------------------------------

    def on_processes(self) -> Generator[tuple[int, Result]]:
        """Results as they come; jobs that were under way when a worker died run again."""
        waiting = dict.fromkeys(range(len(self.jobs)))  # in order
        deaths = Counter[int]()
        while waiting:
            try:
                for index, result in self._parallel([*waiting]):
                    del waiting[index]
                    yield index, result
            except TerminatedWorkerError:
                # jobs begin in order, so that those under way are the first that are not finished
                suspects = [*islice(waiting, self.workers.count)]
                deaths.update(suspects)
                for index in [index for index in suspects if deaths[index] > _RETRIES]:
                    yield index, self._alone(index)
                    del waiting[index]

    def _alone(self, index: int) -> Result:
        """The result of a job while no other runs: if a worker dies now, it was by this job."""
        try:
            ((_, result),) = self._parallel([index])
        except TerminatedWorkerError:
            return self.lost(self.jobs[index])
        return result

    def _parallel(self, indices: Sequence[int]) -> Generator[tuple[int, Result]]:
        # loky is told the thread count too, so that libraries that read it at import start right
        watch = {"initializer": _die_with, "initargs": (self.call.parent,)}  # at its start: a worker may get no job
        with joblib.parallel_config(backend="loky", inner_max_num_threads=self.workers.threads, **watch):
            each = cast("Any", 1)  # joblib's types want a str
            parallel = joblib.Parallel(n_jobs=self.workers.count, return_as="generator_unordered", batch_size=each)
        # loky replaces a worker that has grown by 300 MB, which training does: nothing is lost, and nobody need know
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
        ahead = _AHEAD * self.workers.count
        first = deque((index, self.jobs[index]) for index in indices[:ahead])  # a job may take seconds to be taken
        # a worker whose start is cut short prints a traceback of its own, so a signal waits until they run
        with Signals() as signals:
            results = parallel(self._calls(first, indices[ahead:]))
        if signals.received is not None:
            signal.raise_signal(signals.received)
        with closing(cast("Generator[tuple[int, Result]]", results)) as results:
            yield from results

    def _calls(self, first: deque[tuple[int, Job]], rest: Sequence[int]) -> Iterator[Any]:
        call = joblib.delayed(self.call)
        while first:
            yield call(*first.popleft())
        for index in rest:
            yield call(index, self.jobs[index])

    # --- clusters ---------------------------------------------------------------------------------------------------

    def on_cluster(self, tasks: clusters.Tasks) -> Generator[tuple[int, Result]]:
        """Results as they come, of as many tasks at a time as there are workers. Ray and Dask retry by themselves."""
        jobs, waiting = _numbered(self.jobs), dict[Any, int]()
        try:
            while True:
                for index, job in islice(jobs, self.workers.count - len(waiting)):
                    waiting[tasks.submit(self.call, index, job)] = index
                if not waiting:
                    return
                ended = tasks.first([*waiting])
                index = waiting.pop(ended)
                try:
                    yield tasks.result(ended)
                except clusters.WorkerDied:
                    yield index, self.lost(self.jobs[index])
        finally:
            tasks.cancel([*waiting])


def _numbered(jobs: Iterable[Job]) -> Iterator[tuple[int, Job]]:
    """The jobs with their positions. To a loop over a sequence, an IndexError in taking a job would be the end."""
    return ((index, jobs[index]) for index in range(len(jobs))) if isinstance(jobs, Sequence) else enumerate(jobs)


def _out_of_memory(job: object) -> Any:
    del job
    raise OutOfResources(
        f"a job's worker process died at every attempt, most likely for lack of memory; use fewer {Option('workers')}, "
        "and repeat the call, which goes on from what is saved"
    )


def _with_threads(function: Callable[[Job], Result], job: Job, threads: int | None) -> Result:
    with surroundings.own() if threads is None else computing(threads):
        return function(job)


def _die_with(parent: int) -> None:
    """End this process soon after its parent: an orphan would go on computing, and hold its locks.

    Linux's PR_SET_PDEATHSIG would not do: it answers to the end of the thread that started the worker.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    if all(thread.name != _WATCH for thread in threading.enumerate()):
        threading.Thread(target=watch, name=_WATCH, daemon=True).start()
