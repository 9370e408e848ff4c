"""The parameters theta_0 .. theta_{T-1} of a sweep forward, kept for the sweep back, which takes the last first.

On a CPU the first ones lie in memory and the others in a temporary file, so that memory does not grow with T. Writing
and reading a megabyte takes half a millisecond, far less than a step. On a GPU all lie in the GPU's memory, because a
copy to the CPU would wait for the GPU.
"""

from __future__ import annotations

import tempfile
from io import BufferedRandom

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]

MEMORY_BYTES = 2 << 20  # of parameters that lie in memory


def bytes_in_memory(each: int, count: int, device: torch.device) -> int:
    """Of `count` parameters of `each` bytes, the bytes that lie in the memory of `device`."""
    return min(count * each, MEMORY_BYTES) if device.type == "cpu" else count * each


class Trail:
    """A stack of parameters, all of the same shapes and types.

    The file has no name, so that it is gone with the process. Parameters that cannot be written, as on a full disk, lie
    in memory.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._room = memory_bytes
        self._stack: list[Tensors | None] = []  # None: in the file
        self._file: BufferedRandom | None = None
        self._written = 0
        self._like: Tensors = ()

    def push(self, theta: Tensors) -> None:
        """Put `theta` on top."""
        self._like = theta
        self._room -= _nbytes(theta)
        in_file = self._room < 0 and theta[0].device.type == "cpu" and self._write(theta)
        self._stack.append(None if in_file else theta)

    def pop(self) -> Tensors:
        """Take the top."""
        theta = self._stack.pop()
        return self._read() if theta is None else theta

    def _write(self, theta: Tensors) -> bool:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="dd-apps-")  # noqa: SIM115
            self._file.seek(self._written * _nbytes(theta))
            for tensor in theta:
                self._file.write(_raw(tensor.detach().contiguous()))
            self._file.flush()
        except OSError:
            return False
        self._written += 1
        return True

    def _read(self) -> Tensors:
        assert self._file is not None
        self._written -= 1
        theta = tuple(torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in self._like)
        self._file.seek(self._written * _nbytes(theta))
        for tensor in theta:
            if self._file.readinto(_raw(tensor)) != tensor.nbytes:
                raise OSError("the temporary file with the parameters of inner steps was cut short")
        return theta


def _nbytes(theta: Tensors) -> int:
    return sum(tensor.nbytes for tensor in theta)


def _raw(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
