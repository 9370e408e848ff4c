"""The parameters theta_0 .. theta_{T-1} of a sweep forward, kept for the sweep back, which takes the last first.

On a CPU the first ones lie in memory and the others in a temporary file, so that memory does not grow with T. Writing
and reading a megabyte takes half a millisecond, far less than a step. On a GPU all lie in the GPU's memory, because a
copy to the CPU would wait for the GPU.
"""

from __future__ import annotations

import os
import tempfile
from io import FileIO
from typing import NamedTuple

import torch
from torch import Tensor

from dd_core.errors import OutOfResources

Tensors = tuple[Tensor, ...]

MEMORY_BYTES = 2 << 20  # of parameters that lie in memory
ON_DISK = "/var/tmp"  # on many systems /tmp is memory


def bytes_in_memory(each: int, count: int, device: torch.device) -> int:
    """Of `count` parameters of `each` bytes, the bytes that lie in the memory of `device`."""
    return min(count * each, MEMORY_BYTES) if device.type == "cpu" else count * each


class Written(NamedTuple):
    """Parameters in the file: where they begin, and the shape and type of each tensor."""

    start: int
    tensors: tuple[tuple[torch.Size, torch.dtype], ...]


class Trail:
    """A stack of parameters.

    The file has no name, so that it is gone with the process. It lies in `TMPDIR`, where that is set, else in /var/tmp,
    else where Python puts temporary files. Parameters that cannot be written, as on a full disk, lie in memory.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._room = memory_bytes
        self._stack: list[Tensors | Written] = []
        self._file: FileIO | None = None
        self._end = 0  # of what is written and not yet taken
        self._full = False

    def push(self, theta: Tensors) -> None:
        """Put `theta` on top."""
        self._room -= sum(tensor.nbytes for tensor in theta)
        written = None
        if self._room < 0 and not self._full and all(tensor.device.type == "cpu" for tensor in theta):
            written = self._write(theta)
        self._stack.append(theta if written is None else written)

    def pop(self) -> Tensors:
        """Take the top; raises `OutOfResources` where the file cannot be read."""
        top = self._stack.pop()
        return self._read(top) if isinstance(top, Written) else top

    def close(self) -> None:
        """Close the file, and so remove it."""
        if self._file is not None:
            self._file.close()

    def _write(self, theta: Tensors) -> Written | None:
        """Where `theta` is in the file; None, now and from now on, where it cannot be written."""
        written = Written(self._end, tuple((tensor.shape, tensor.dtype) for tensor in theta))
        try:
            if self._file is None:
                self._file = _temporary()
            self._file.seek(self._end)
            for tensor in theta:
                rest = _raw(tensor.detach().resolve_conj().resolve_neg().contiguous())
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError:
            self._full = True
            return None
        self._end = self._file.tell()
        return written

    def _read(self, written: Written) -> Tensors:
        assert self._file is not None
        self._end = written.start
        theta = tuple(torch.empty(shape, dtype=dtype) for shape, dtype in written.tensors)
        try:
            self._file.seek(written.start)
            for tensor in theta:
                rest = _raw(tensor)
                while rest:
                    count = self._file.readinto(rest)
                    if not count:
                        raise OSError("it was cut short")
                    rest = rest[count:]
        except OSError as error:
            raise OutOfResources(
                f"the temporary file with the parameters of inner steps cannot be read: {error.strerror or error}"
            ) from error
        return theta


def _temporary() -> FileIO:
    """A new file without a name and without a buffer."""
    elsewhere = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")) or not os.access(ON_DISK, os.W_OK)
    return tempfile.TemporaryFile(buffering=0, dir=None if elsewhere else ON_DISK)


def _raw(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
