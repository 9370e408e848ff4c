"""How many bytes a computation holds at most, and how many images may go through a network together.

A batch is bounded by bytes, because an image of 224 pixels a side takes fifty times the activations of one of 32. The
budget is a constant and never follows the free memory: how images are batched can move the last bits of a result, and
these are not to depend on the machine. The free memory is only compared with what a run will need, to warn its user.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dd_core import streams
from dd_core.system import device as devices
from dd_core.system.budget import BATCH_BYTES, Footprint

_GROWTH = 1.6  # growth of a process on a CPU, over the bytes of its tensors
_FEW, _MORE = 2, 3  # images of a measurement; batch norm may refuse a single one


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak bytes of the tensors that `function` makes, counted while they are alive.

    Tensors that were there before do not count, nor do buffers that a kernel allocates for itself. Dropout and other
    draws of `function` leave torch's global generator as it was.
    """
    ledger = _Ledger()
    with streams.seeded(0, "footprint"), ledger:
        function()
    return ledger.peak


def bytes_an_image(
    function: Callable[[Tensor], object], image_shape: tuple[int, int, int], device: torch.device
) -> int:
    """How much `peak_bytes` of `function` grows with each image that `function` is given.

    `function` takes uint8 images (n, C, H, W) on `device`, black ones here. What it makes once and keeps, such as a
    copy of a whitening's matrix, does not count.
    """

    def black(count: int) -> Tensor:
        return torch.zeros(count, *image_shape, dtype=torch.uint8, device=device)

    with streams.seeded(0, "footprint"):
        function(black(_FEW))  # makes what is made once
    few, more = (peak_bytes(lambda count=count: function(black(count))) for count in (_FEW, _MORE))
    return max(1, -(-(more - few) // (_MORE - _FEW)))


def images_at_once(cost: int, *, budget: int = BATCH_BYTES, most: int) -> int:
    """How many images of `cost` bytes each fit into `budget` bytes: at least one, and no more than `most`."""
    return max(1, min(most, budget // cost))


@torch.no_grad()
def prediction_batch(
    predict: Callable[[Tensor], Tensor], image_shape: tuple[int, int, int], device: torch.device, *, most: int = 512
) -> int:
    """How many uint8 images (C, H, W) `predict` may be given at once, without a gradient, within `BATCH_BYTES`."""
    return images_at_once(bytes_an_image(predict, image_shape, device), most=most)


def most_forward(device: torch.device, *, on_gpu: int = 512) -> int:
    """How many images go forward together at most, without a gradient: 128 on a CPU, as more are no faster there."""
    return 128 if device.type == "cpu" else on_gpu


def expected_bytes(need: Footprint, device: torch.device) -> int:
    """The bytes by which a process grows during a computation whose tensors take `need`.

    On a CPU the kernels have buffers of their own, and freed memory stays with the process: `make bench-photos`
    measures 1.6 to 1.8 times the tensors.
    """
    return round(need.bytes * (_GROWTH if device.type == "cpu" else 1))


def shortage(need: Footprint, device: torch.device) -> str | None:
    """One line for the user where `need` is beyond the free memory of `device`; else None."""
    expected, free = expected_bytes(need, device), devices.free_memory_bytes(device)
    if expected <= free:
        return None
    least = f"; a smaller {' or '.join(need.settings)} needs less" if need.settings else ""
    return f"about {expected / 1e9:.1f} GB of memory will be needed, and {free / 1e9:.1f} GB are free{least}"


class _Ledger(TorchDispatchMode):
    """Counts the bytes of storages that torch's operations make within the block, until each storage is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {_key(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf.untyped_storage()) not in before:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = _key(storage)
        if key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.total += storage.nbytes()
        self.peak = max(self.peak, self.total)
        weakref.finalize(storage, self._remove, key).atexit = False

    def _remove(self, key: int) -> None:
        self.total -= self.alive.pop(key)


def _key(storage: torch.UntypedStorage) -> int:
    """The address of the storage object, the same for all its tensors; an empty storage has no address of data."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]
