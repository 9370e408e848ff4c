"""Processes of this machine that train one network together: torch's elastic launcher starts them and ends them.

The caller stays one process. All connections are on the loopback interface; with GPUs, each process has its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import joblib
import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from dd_core.errors import DDError, OutOfResources
from dd_core.system import device as devices
from dd_core.system.threads import computing

Job = TypeVar("Job")
Result = TypeVar("Result")

LOCALHOST, LOOPBACK = "127.0.0.1", "lo0" if sys.platform == "darwin" else "lo"
# a helper process imports everything, has the others forked from itself, and ends with this process
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
JOIN_SECONDS = 300  # within which all processes must have started
CPP_LEVEL = "TORCH_CPP_LOG_LEVEL"
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
LOST = (
    "one of {} processes that train together ended, most likely for lack of memory; use fewer, and repeat the "
    "call, which goes on from what is saved"
)


@dataclass(frozen=True)
class Rank:
    """This process, number `index` of `count` that train one network, each on its part of every mini-batch."""

    index: int
    count: int
    device: torch.device

    def part(self, rows: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
        """The rows of a mini-batch that are this process's: parts are in order, and of equal size but for one row."""
        return rows.tensor_split(self.count)[self.index]

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        dist.all_reduce(value := value.clone())
        return value

    def together(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over processes; each forward pass starts from the first one's buffers."""
        # otherwise torch regroups gradients after the first step, and a resumed run adds them in another order
        return DistributedDataParallel(network, find_unused_parameters=True)


def launched(function: Callable[[Rank, Job], Result], job: Job, *, count: int, device: torch.device) -> Result:
    """What `function(rank, job)` returns in the first of `count` processes; both are picklable.

    device: of the first process; if it is a GPU, the others get the next GPUs. Raises what a process raises,
    `UserError` for too few GPUs, and `OutOfResources` where a process is lost. No process outlives the call.
    """
    where = devices.next_ones(device, count)
    # pickled by value: tensors sent through /dev/shm would be shared, and each process needs its own weights
    call = joblib.wrap_non_picklable_objects((function, job), keep_wrapper=False)
    context = multiprocessing.get_context(START)
    context.set_forkserver_preload([function.__module__, "torch._dynamo"])  # which the first optimiser imports
    errors = context.SimpleQueue()
    with _own_signals(), _store() as port, TemporaryDirectory(prefix="dd-apps-ranks-") as folder, _quiet():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="dd-apps",
            rdzv_backend="static",
            rdzv_endpoint=f"{LOCALHOST}:{port}",
            rdzv_configs={"rank": 0, "timeout": JOIN_SECONDS},
            local_addr=LOCALHOST,
            max_restarts=0,
            start_method=START,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle=",".join(SIGNALS),
        )
        try:
            returned = elastic_launch(config, _process)(call, errors, where, torch.get_num_threads())
        except ChildFailedError as failure:
            raise _cause(failure, errors, count) from None
    return returned[0]


def _cause(failure: ChildFailedError, errors: SimpleQueue[Exception], count: int) -> Exception:
    """The error that the first process to fail reported or, if it could not, an error about how it ended."""
    if not errors.empty():
        return errors.get()
    _, first = failure.get_first_failure()
    if first.exitcode < 0:  # by a signal
        return OutOfResources(LOST.format(count))
    return RuntimeError(f"one of {count} processes that train together ended with exit code {first.exitcode}")


# --- in each process ----------------------------------------------------------------------------------------------


def _process(
    call: tuple[Callable[[Rank, Any], Any], Any],
    errors: SimpleQueue[Exception],
    where: list[torch.device],
    threads: int,
) -> Any:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent answers to Ctrl-C
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.dup2(2, 1)  # libraries print to stderr: stdout is for results
    rank = Rank(int(os.environ["RANK"]), len(where), where[int(os.environ["RANK"])])
    try:
        with computing(threads), _joined(rank):
            function, job = call
            result = function(rank, job)
        return result if rank.index == 0 else None
    except Exception as error:
        errors.put(_told(error, rank.count))
        os._exit(1)  # without a traceback, and without waiting for processes that may be lost


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _joined(rank: Rank) -> Iterator[None]:
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = LOOPBACK
    devices.pin(rank.device.index or 0)
    dist.init_process_group(devices.backend_of(rank.device))
    yield
    dist.barrier()
    dist.destroy_process_group()


def _told(error: Exception, count: int) -> Exception:
    """The error that the caller raises for a process's `error`."""
    if isinstance(error, DDError):
        return error
    if devices.is_out_of_memory(error):
        return OutOfResources(f"out of memory in one of {count} processes that train together; use fewer")
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        return OutOfResources(LOST.format(count))
    return RuntimeError("".join(traceback.format_exception(error)))


# --- around the launcher ------------------------------------------------------------------------------------------


@contextmanager
def _store() -> Iterator[int]:
    """The port of a store on the loopback interface, where processes meet; the launcher uses it as it is there.

    A store that the launcher opens would listen to the whole network.
    """
    with socket.socket() as listening:
        listening.bind((LOCALHOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage] (it is documented)
            LOCALHOST,
            port,
            is_master=True,
            multi_tenant=True,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    yield port
    del store


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's loggers and C++ warnings about the processes: the exception alone reports a failure."""
    noisy = ("torch.distributed", "torch.multiprocessing", "torchelastic")
    names = [name for name in logging.root.manager.loggerDict if name.startswith(noisy)]
    loggers = [logger for logger in map(logging.getLogger, names) if not logger.disabled]
    for logger in loggers:
        logger.disabled = True
    level = os.environ.get(CPP_LEVEL)
    os.environ[CPP_LEVEL] = level or "ERROR"  # of the processes: torch warns of find_unused_parameters
    try:
        yield
    finally:
        os.environ.pop(CPP_LEVEL)
        os.environ.update({} if level is None else {CPP_LEVEL: level})
        for logger in loggers:
            logger.disabled = False


@contextmanager
def _own_signals() -> Iterator[None]:
    """Leave signals to the launcher within the block; then restore the caller's handlers, and pass a signal on."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in SIGNALS] if main else []
    handlers = {number: signal.getsignal(number) for number in numbers}
    received = None
    try:
        yield
    except SignalException as error:
        received = error.sigval
    finally:
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if received is not None:
        signal.raise_signal(received)
        raise KeyboardInterrupt  # for a handler that only took note of the signal
