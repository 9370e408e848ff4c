"""Ray and Dask: a cluster that is running already, or is started for a pool, and tasks on it.

Both retry a task whose worker dies, and say which task is lost for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

from dd_core.errors import Option, OutOfResources, UserError
from dd_core.system.parallel.workers import Workers

RETRIES = 1  # of a job whose worker died


class WorkerDied(Exception):
    """A task's worker died, in the retries too."""


@runtime_checkable
class Tasks(Protocol):
    """Calls on a cluster, each with a handle."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The handle of `function(*arguments)`, which runs elsewhere."""
        ...

    def first(self, handles: Sequence[Any]) -> Any:
        """A handle whose call has ended; waits for one."""
        ...

    def result(self, handle: Any) -> Any:
        """What a call that has ended returned. Raises what it raised, and `WorkerDied`."""
        ...

    def cancel(self, handles: Sequence[Any]) -> None:
        """End calls that nobody waits for any more."""
        ...


def opened(workers: Workers) -> AbstractContextManager[None]:
    """A block with Ray or Dask, started and ended with it if none is running; no effect for local processes."""
    if workers.engine == "ray":
        return _ray(workers)
    return _dask(workers) if workers.engine == "dask" else nullcontext()


def tasks(workers: Workers) -> Tasks:
    """Tasks on the cluster that is open."""
    return _RayTasks(workers.count) if workers.engine == "ray" else _DaskTasks()


# --- Ray ---------------------------------------------------------------------------------------------------------


class _RayTasks:
    def __init__(self, count: int) -> None:
        import ray.exceptions  # an extra

        self.ray = ray
        # Ray lets a task see only its own GPU, or the one that it shares
        self.gpus = min(1.0, int(1e4 * ray.cluster_resources().get("GPU", 0) / count) / 1e4)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        remote = self.ray.remote(_called).options(max_retries=RETRIES, num_gpus=self.gpus)
        return remote.remote(function, *arguments)

    def first(self, handles: Sequence[Any]) -> Any:
        (ended, *_), _ = self.ray.wait(list(handles), num_returns=1)
        return ended

    def result(self, handle: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(handle)
        except errors.RayTaskError as error:
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError):
            raise WorkerDied from None
        except errors.RayError as error:
            raise OutOfResources(f"Ray could not run a job: {str(error).splitlines()[0]}") from None

    def cancel(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            self.ray.cancel(handle, force=True)


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)  # Ray's tasks are functions, and `function` may be any callable


@contextmanager
def _ray(workers: Workers) -> Iterator[None]:
    """A Ray that is running already, the cluster of RAY_ADDRESS, or a local Ray that ends with the block."""
    try:
        import ray  # an extra
    except ImportError:
        raise UserError(f"{Option('parallel', 'ray')} needs Ray: pip install 'dd-apps[ray]'") from None
    ours = not ray.is_initialized()
    if ours and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=workers.count, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


# --- Dask --------------------------------------------------------------------------------------------------------


class _DaskTasks:
    def __init__(self) -> None:
        import distributed  # an extra

        self.distributed = distributed
        self.client = distributed.default_client()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.client.submit(function, *arguments, pure=False)

    def first(self, handles: Sequence[Any]) -> Any:
        ended: Any = self.distributed.wait(list(handles), return_when="FIRST_COMPLETED")
        return next(iter(ended.done))

    def result(self, handle: Any) -> Any:
        try:
            return handle.result()
        except self.distributed.KilledWorker:
            raise WorkerDied from None

    def cancel(self, handles: Sequence[Any]) -> None:
        self.client.cancel(list(handles))


@contextmanager
def _dask(workers: Workers) -> Iterator[None]:
    """The current Dask client, or one with local processes, which end with the block."""
    try:
        import dask.config  # an extra
        from distributed import Client, LocalCluster, default_client  # an extra
    except ImportError:
        raise UserError(f"{Option('parallel', 'dask')} needs Dask: pip install 'dd-apps[dask]'") from None
    with ExitStack() as ours:
        try:
            default_client()
        except ValueError:
            ours.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": RETRIES}))
            # a client does not close a cluster that was given to it
            local = LocalCluster(n_workers=workers.count, threads_per_worker=1, dashboard_address=":0")
            ours.enter_context(Client(ours.enter_context(local)))
        yield
