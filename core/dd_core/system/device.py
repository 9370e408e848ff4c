"""Which device computes, and what is worth recording about it. The only file that says "cuda"."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_core.errors import UserError
from dd_core.system.environment import Environment

Tensors = tuple[Tensor, ...]
KINDS = ("cpu", "cuda", "mps", "xpu")  # the device types with an autocast in torch


def resolve(name: str | None = None) -> torch.device:
    """The device called `name`; `auto` or None is the first GPU, or the CPU where there is none.

    Raises `UserError` for a device that torch does not know or that is not there.
    """
    available = torch.cuda.is_available()
    if name is None or name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}' (known: auto, cpu, cuda, cuda:0, ...)") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device '{name}' is not supported; use cpu, or a GPU that torch calls cuda")
    if device.type == "cuda" and (not available or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device '{name}' is not there; torch sees {torch.cuda.device_count()} GPUs")
    return device


def pin(slot: int) -> None:
    """Make `auto` and `cuda` mean GPU `slot` (modulo the number of GPUs) in this process; no effect without a GPU."""
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(slot % gpus)


def next_ones(device: torch.device, count: int) -> list[torch.device]:
    """`count` devices for processes that compute together: the GPUs from `device` on, or the CPU for all.

    Raises `UserError` where there are fewer GPUs.
    """
    if device.type != "cuda":
        return [device] * count
    first, gpus = device.index or 0, torch.cuda.device_count()
    if first + count > gpus:
        raise UserError(f"{count} processes need a GPU each, and there are {gpus - first} from '{device}' on")
    return [torch.device("cuda", first + index) for index in range(count)]


def backend_of(device: torch.device) -> str:
    """The torch.distributed backend by which processes on such devices communicate."""
    return "nccl" if device.type == "cuda" else "gloo"


def environment(device: torch.device) -> Environment:
    """What can change the last bits of a result computed now, on this device."""
    return Environment(
        dd_apps=_version("dd-apps"),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=_version("numpy"),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def hardware(device: torch.device | None = None, *, threads: int | None = None) -> dict[str, Any]:
    """Facts about the machine to record beside a measured figure; threads: of a job; None: torch's current number."""
    facts: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__}
    facts["threads"] = threads or torch.get_num_threads()
    if device is not None and device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts | {"python": platform.python_version(), "system": platform.system()}


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far, in bytes: of the GPU's allocator, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # Linux: getrusage has the parent's memory too, which a process inherits at its start
        if line := re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE):
            return int(line[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory_bytes(device: torch.device) -> int:
    """Bytes of memory that could be allocated now: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def precisions() -> list[tuple[Any, tuple[str, ...]]]:
    """Objects whose `fp32_precision` says how float32 is computed (torch 2.9 and later), each with torch's defaults.

    An object from which others inherit comes before them.
    """
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    exact = ("none", "ieee")
    return [
        (backends, exact),
        (backends.cudnn, exact),
        (backends.cuda.matmul, exact),
        (backends.cudnn.conv, ("tf32",)),
        (backends.cudnn.rnn, ("tf32",)),
        *((getattr(backends.mkldnn, part), exact) for part in ("matmul", "conv", "rnn")),
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def captures(device: torch.device) -> bool:
    """Whether functions on this device can be captured as CUDA graphs; see `Captured`."""
    return device.type == "cuda"


class Captured:
    """A function as a CUDA graph: arguments are copied in, its kernels launched together, its results copied out."""

    def __init__(self, function: Callable[..., Tensors], *examples: Tensor) -> None:
        self.inputs = tuple(one.detach().clone() for one in examples)
        side = torch.cuda.Stream()  # PyTorch asks for a few runs on another stream before a capture
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(3):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *arguments: Tensor) -> Tensors:
        """What the function returns for these."""
        for mine, given in zip(self.inputs, arguments, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return tuple(one.clone() for one in self.outputs)


# --- several tasks at the same time ------------------------------------------------------------------------------


def overlapping(name: str, jobs: int) -> bool:
    """Whether each of `jobs` processes has a GPU of this machine to itself, which can then do several tasks at once.

    name: as in `resolve`; without an index, processes share all GPUs.
    """
    if name == "cpu":
        return False
    return jobs <= (1 if ":" in name else torch.cuda.device_count())


class Queue:
    """A queue of a GPU's work: a CUDA stream, whose kernels run beside those of other streams. Nothing on a CPU.

    own: False: no stream, but the one that all other work lies in.
    """

    def __init__(self, device: torch.device, *, own: bool = True) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if own and device.type == "cuda" else None

    def begin(self) -> None:
        """Wait for work that has begun outside of the queue, and which may still write what is read here."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def used(self) -> AbstractContextManager[object]:
        """Work that begins within the block lies in this queue."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


_QUEUES: dict[
    torch.device, list[Queue]
] = {}  # of this process: memory that a stream has freed serves that stream alone


def queues(device: torch.device, count: int) -> list[Queue]:
    """`count` queues of a device, the same at each call; a single one is the queue of all other work."""
    if count == 1:
        return [Queue(device, own=False)]
    known = _QUEUES.setdefault(device, [])
    known += [Queue(device) for _ in range(count - len(known))]
    return known[:count]


def has_room(device: torch.device, *, beside: int) -> bool:
    """Whether a GPU has memory for another task; a CPU always has.

    beside: how many tasks run. The free memory must be twice what each of these has reserved so far.
    """
    return device.type != "cuda" or free_memory_bytes(device) >= 2 * torch.cuda.memory_reserved(device) // beside


def emptied(device: torch.device, queues: int) -> None:
    """Give back what several queues of a GPU have freed, which other queues and processes cannot use."""
    if device.type == "cuda" and queues > 1:
        torch.cuda.empty_cache()


def generator_states(device: torch.device) -> tuple[Tensor, ...]:
    """The states of torch's global generators: the CPU's, and a GPU's own."""
    on_gpu = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *on_gpu)


def set_generator_states(device: torch.device, states: tuple[Tensor, ...]) -> None:
    """Put back states of `generator_states`."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
