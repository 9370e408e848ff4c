"""A context of the engine's own: what surrounds a call neither changes a number in it nor makes it fail.

A caller may be inside `torch.autocast`, `no_grad` or `inference_mode`, may have chosen float64 or another device as
torch's default, or may make errors of warnings. The engine computes as in a fresh interpreter, as its worker processes
do, and puts back whatever it set aside.

On purpose these stay the caller's: the number of CPU threads and the current GPU, where an argument does not choose
them; and hooks and modes that watch what is computed (module hooks, saved-tensor hooks, a `TorchDispatchMode`).
Settings of torch that hold for the process, such as its default dtype, are set aside for every thread of the process:
where a caller changed one, two threads may not be in the engine at once, since the first to leave puts it back.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

_KINDS = ("cpu", "cuda", "mps", "xpu")  # that torch has an autocast for
_PILLOW_PIXELS = 89_478_485  # Pillow's own limit, where it suspects a decompression bomb


class Setting(NamedTuple):
    """A setting of a library: how it is read and written, and the values under which the engine computes.

    The first of `ours` is written where the setting has none of them.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    ours: tuple[Any, ...]


@contextmanager
def own() -> Iterator[None]:
    """Compute a block, or a decorated function, as in a fresh interpreter; every setting is put back at its end.

    A block may be within another, and costs some microseconds. It may not hold a `yield` of a generator, whose caller
    would then compute in the engine's context. Torch is not imported here: where nobody imported it, nobody set it.
    """
    with ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(_warnings_as_warnings())
        if "torch" in sys.modules:
            for context in _torch_contexts():
                stack.enter_context(context)
            _set_aside(_torch_settings(), stack)
        if "PIL.ImageFile" in sys.modules:
            _set_aside(_pillow_settings(), stack)
        yield


def _set_aside(settings: tuple[Setting, ...], stack: ExitStack) -> None:
    """Give each setting a value of ours; `stack` puts back those that had another, the last first."""
    for setting in settings:
        before = setting.read()
        if before not in setting.ours:
            stack.callback(setting.write, before)
            setting.write(setting.ours[0])


@contextmanager
def _warnings_as_warnings() -> Iterator[None]:
    """What a library warns of is no error, unless a filter names the module that warns."""
    if not any(_is_for_all(entry) for entry in warnings.filters):
        yield
        return
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.resetwarnings()  # tells Python that the list changes
        warnings.filters[:] = [("default", *entry[1:]) if _is_for_all(entry) else entry for entry in before]  # pyright: ignore[reportIndexIssue] (it is a list)
        yield


def _is_for_all(entry: tuple[Any, ...]) -> bool:
    action, _, _, module, _ = entry
    return action == "error" and module is None


def _torch_contexts() -> tuple[AbstractContextManager[Any], ...]:
    """What torch offers a context manager for and nothing else."""
    import torch

    # without inference mode gradients are on; without torch functions nothing is placed on a default device
    return torch.inference_mode(False), torch._C.DisableTorchFunction()  # pyright: ignore[reportPrivateUsage] (torch's guide to extending it names it)


@cache
def _torch_settings() -> tuple[Setting, ...]:
    """Torch's settings that change a number, the ones that others follow before those."""
    import torch

    return (
        *(_autocast(kind) for kind in _KINDS),
        Setting(torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
        # 0: off, 1: warn, 2: raise where an operation has no deterministic form
        Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, (0,)),
        Setting(
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda values: torch.set_anomaly_enabled(*values),
            ((False, True), (False, False)),
        ),
        Setting(_flushes_denormals, torch.set_flush_denormal, (False,)),
        *_kernel_settings(),
    )


def _autocast(kind: str) -> Setting:
    import torch

    return Setting(
        lambda: torch.is_autocast_enabled(kind), lambda value: torch.set_autocast_enabled(kind, value), (False,)
    )


def _flushes_denormals() -> bool:
    """Whether this thread takes the smallest floats for zero, which torch sets and does not tell."""
    return sys.float_info.min * 0.5 == 0.0


def _kernel_settings() -> tuple[Setting, ...]:
    """Which kernels compute float32, and how precisely."""
    import torch

    backends = torch.backends
    return (
        Setting(_or("highest", torch.get_float32_matmul_precision), torch.set_float32_matmul_precision, ("highest",)),
        _attribute(backends.cudnn, "allow_tf32", True),
        _attribute(backends.cudnn, "enabled", True),
        _attribute(backends.cudnn, "benchmark", False),
        _attribute(backends.cudnn, "deterministic", False),
        *(
            _attribute(backends.mkldnn, name, value)
            for name, value in {"enabled": True, "deterministic": False}.items()
            if hasattr(backends.mkldnn, name)
        ),
        Setting(torch._C._get_nnpack_enabled, backends.nnpack.set_flags, (True,)),  # pyright: ignore[reportPrivateUsage] (nothing else tells)
        *(_attribute(holder, "fp32_precision", *values) for holder, values in _precisions()),
    )


def _precisions() -> list[tuple[Any, tuple[str, ...]]]:
    """Objects whose `fp32_precision` says how float32 is computed (torch 2.9 and later), each with torch's defaults.

    One that others inherit from comes before those.
    """
    import torch

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


def _attribute(holder: Any, name: str, *ours: Any) -> Setting:
    return Setting(_or(ours[0], lambda: getattr(holder, name)), lambda value: setattr(holder, name, value), ours)


def _or(default: Any, read: Callable[[], Any]) -> Callable[[], Any]:
    """`read`, and `default` where torch refuses: of two spellings of a precision only one can be read at a time."""

    def value() -> Any:
        try:
            return read()
        except RuntimeError:
            return default

    return value


@cache
def _pillow_settings() -> tuple[Setting, ...]:
    """A truncated file is no image, and what is too large is told by `decoding`."""
    from PIL import Image, ImageFile

    return (
        _attribute(ImageFile, "LOAD_TRUNCATED_IMAGES", False),
        _attribute(Image, "MAX_IMAGE_PIXELS", _PILLOW_PIXELS),
    )
