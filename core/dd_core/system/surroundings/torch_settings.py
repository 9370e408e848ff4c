"""Torch's settings that change a number. Loaded only where torch is: where nobody imported it, nobody set it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

from dd_core.system import device
from dd_core.system.surroundings.settings import Setting, attribute, value_or


def contexts() -> tuple[AbstractContextManager[Any], ...]:
    """Settings that torch offers only as context managers."""
    # without inference mode gradients are on; without torch functions nothing is placed on a default device
    return torch.inference_mode(False), torch._C.DisableTorchFunction()  # pyright: ignore[reportPrivateUsage] (torch's guide to extending it names it)


@cache
def settings() -> tuple[Setting, ...]:
    """Torch's settings that change a number; a setting that others follow comes before them."""
    return (
        *(_autocast(kind) for kind in device.KINDS),
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
    return Setting(
        lambda: torch.is_autocast_enabled(kind), lambda value: torch.set_autocast_enabled(kind, value), (False,)
    )


def _flushes_denormals() -> bool:
    """Whether this thread flushes denormal floats to zero; torch can set this mode, but not read it."""
    return sys.float_info.min * 0.5 == 0.0


def _kernel_settings() -> tuple[Setting, ...]:
    """Which kernels compute float32, and how precisely."""
    backends = torch.backends
    return (
        Setting(
            value_or("highest", torch.get_float32_matmul_precision), torch.set_float32_matmul_precision, ("highest",)
        ),
        attribute(backends.cudnn, "allow_tf32", True),
        attribute(backends.cudnn, "enabled", True),
        attribute(backends.cudnn, "benchmark", False),
        attribute(backends.cudnn, "deterministic", False),
        *(
            attribute(backends.mkldnn, name, value)
            for name, value in {"enabled": True, "deterministic": False}.items()
            if hasattr(backends.mkldnn, name)
        ),
        Setting(torch._C._get_nnpack_enabled, backends.nnpack.set_flags, (True,)),  # pyright: ignore[reportPrivateUsage] (nothing else tells)
        *(attribute(holder, "fp32_precision", *values) for holder, values in device.precisions()),
    )
