"""ZCA whitening as a value, which a set in whitened space carries. numpy only; `zca` fits a whitening to real images.

    z = (x - offset) W          x = z W^-1 + offset

x is an image as D = C*H*W numbers in [0, 1], row by row of channel after channel; W is symmetric and positive definite.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dd_core.config import FrozenArrays
from dd_core.errors import UserError
from dd_core.system import surroundings

LARGEST = 3 * 32 * 32  # numbers in an image; at 64 pixels a side the matrix would take 604 MB

_FLOOR = 1e-7  # least eigenvalue, as a part of the mean eigenvalue: a smaller one is lost in float32


@dataclass(frozen=True, eq=False)
class Whitening(FrozenArrays):
    """offset: float32 (D,); matrix: float32 (D, D), symmetric and positive definite. The arrays are read-only.

    Raises `UserError` for anything else, and for more than `LARGEST` numbers in an image.
    """

    offset: np.ndarray
    matrix: np.ndarray

    @surroundings.own()
    def __post_init__(self) -> None:
        if (problem := _problem(self.offset, self.matrix)) is not None:
            raise UserError(f"not a whitening: {problem}")
        for name in ("offset", "matrix"):
            array = getattr(self, name)
            if array.flags.writeable or not array.flags.c_contiguous:
                array = np.array(array, order="C")
                array.flags.writeable = False
                object.__setattr__(self, name, array)

    @property
    def nbytes(self) -> int:
        """Bytes of offset and matrix."""
        return self.offset.nbytes + self.matrix.nbytes

    @surroundings.own()
    def apply(self, images: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32: images in [0, 1], whitened."""
        with one_thread():
            flat = (_flat(images) - self.offset) @ self.matrix.astype(np.float64)
        return flat.reshape(images.shape).astype(np.float32)

    @surroundings.own()
    def undo(self, inputs: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32: the images that `apply` turns into `inputs`."""
        with one_thread():
            flat = _flat(inputs) @ self._inverse + self.offset
        return flat.reshape(inputs.shape).astype(np.float32)

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self.matrix.astype(np.float64))

    def __getstate__(self) -> dict[str, Any]:
        return {"offset": self.offset, "matrix": self.matrix}  # not the inverse: jobs go to other processes


@contextmanager
def one_thread() -> Iterator[None]:
    """numpy's linear algebra in one thread: the partial sums of several threads differ in the last bits."""
    with threadpool_limits(1, user_api="blas"):
        yield


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _problem(offset: np.ndarray, matrix: np.ndarray) -> str | None:
    """Why the arrays are no whitening, in words."""
    size = len(offset) if offset.ndim == 1 else 0
    if not 1 <= size <= LARGEST or matrix.shape != (size, size) or {offset.dtype, matrix.dtype} != {np.dtype("f4")}:
        kinds = f"{offset.dtype} {offset.shape} and {matrix.dtype} {matrix.shape}"
        return f"offset and matrix are {kinds}, not float32 (D,) and (D, D) with D from 1 to {LARGEST}"
    if not (np.isfinite(offset).all() and np.isfinite(matrix).all()):
        return "it holds a value that is not finite"
    if max(np.abs(offset).max(), np.abs(matrix).max()) > 1e12:
        return "its values must be at most 1e12, to be of use in float32"
    if not np.array_equal(matrix, matrix.T):
        return "its matrix is not symmetric"
    shifted = matrix.astype(np.float64)
    shifted[np.diag_indices(size)] -= max(_FLOOR * np.trace(shifted) / size, 1e-12)
    try:
        with one_thread():
            np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return "its matrix is not positive definite"
    return None
