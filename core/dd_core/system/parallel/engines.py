"""Independent jobs through joblib: local processes, Ray or Dask. Results come back in the order of the jobs."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TypeVar, cast

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from dd_core.errors import Option, OutOfResources, UserError
from dd_core.system import surroundings
from dd_core.system.parallel.workers import Workers
from dd_core.system.signals import Signals
from dd_core.system.threads import computing

Job = TypeVar("Job")
Result = TypeVar("Result")

_WATCH = "parent-watch"
_WATCH_SECONDS = 0.5


def run(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: Workers | None = None,
    uses_torch: bool = True,
) -> Iterator[Result]:
    """`function` of each job, lazily and in order. Function and jobs must be picklable.

    A job runs in this process where there is one local worker. Raises what a job raises. Jobs without torch
    say so: to set torch's thread count a worker imports torch, which takes seconds.
    """
    workers = workers or Workers()
    threads = workers.threads if uses_torch else None
    if workers.engine == "processes" and workers.count == 1:
        for job in jobs:
            yield _with_threads(function, job, threads)
        return
    with _backend(workers):
        # loky is told the thread count too, so that libraries that read it at import start right
        # Ray's backend cannot hand results over one by one
        order = "list" if workers.engine == "ray" else "generator"
        parallel = joblib.Parallel(n_jobs=workers.count, return_as=order)
        parent = os.getpid() if workers.engine == "processes" else None
        # a worker whose start is cut short prints a traceback of its own, so a signal waits until they run
        with Signals() if workers.engine == "processes" else nullcontext() as signals:
            results = parallel(joblib.delayed(_in_worker)(function, job, threads, parent) for job in jobs)
        if signals is not None and signals.received is not None:
            signal.raise_signal(signals.received)
        with _lost_workers():
            yield from cast("Iterator[Result]", results)


@contextmanager
def _lost_workers() -> Iterator[None]:
    """A worker that the system killed is, nearly always, memory that ran out."""
    try:
        yield
    except TerminatedWorkerError:
        raise OutOfResources(
            f"a worker process was killed, most likely for memory; fewer {Option('workers')} need less"
        ) from None


def _in_worker(function: Callable[[Job], Result], job: Job, threads: int | None, parent: int | None) -> Result:
    # joblib runs a job in the parent itself where it may not start processes
    if parent is not None and parent != os.getpid():
        _die_with(parent)
    return _with_threads(function, job, threads)


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


def _with_threads(function: Callable[[Job], Result], job: Job, threads: int | None) -> Result:
    with surroundings.own() if threads is None else computing(threads):
        return function(job)


def _backend(workers: Workers):
    if workers.engine == "ray":
        return _ray(workers)
    if workers.engine == "dask":
        return _dask(workers)
    # loky replaces a worker that has grown by 300 MB, which training does: nothing is lost, and nobody need know
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
    return joblib.parallel_config(backend="loky", inner_max_num_threads=workers.threads)


@contextmanager
def _ray(workers: Workers) -> Iterator[None]:
    """Ray's own joblib backend, on the cluster of RAY_ADDRESS or on a local Ray started for the occasion."""
    try:
        import ray.util.joblib  # an extra
    except ImportError:
        raise UserError(f"{Option('parallel', 'ray')} needs Ray: pip install 'dd-apps[ray]'") from None
    ours = not ray.is_initialized()
    if ours and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=workers.count, include_dashboard=False, log_to_driver=False)
    ray.util.joblib.register_ray()
    try:
        with joblib.parallel_config(backend="ray"):
            yield
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _dask(workers: Workers) -> Iterator[None]:
    """Dask's joblib backend, on the current client or on local processes started for the occasion."""
    try:
        from distributed import Client, LocalCluster, default_client  # an extra
    except ImportError:
        raise UserError(f"{Option('parallel', 'dask')} needs Dask: pip install 'dd-apps[dask]'") from None
    with ExitStack() as ours:
        try:
            default_client()
        except ValueError:
            # a client does not close a cluster that was given to it
            local = LocalCluster(n_workers=workers.count, threads_per_worker=1, dashboard_address=":0")
            ours.enter_context(Client(ours.enter_context(local)))
        with joblib.parallel_config(backend="dask"):
            yield
