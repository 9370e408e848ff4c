"""What may surround a call of the library, and what torch, numpy, Pillow and Python say of it."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch.overrides import TorchFunctionMode


class Halved(TorchFunctionMode):
    """A mode of a user that rounds every float32 result to half precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and not result.requires_grad:
            with torch._C.DisableTorchFunction():
                return result.half().float()
        return result


@contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def attribute(holder: Any, name: str, value: Any) -> AbstractContextManager[None]:
    return setting(lambda: getattr(holder, name), lambda new: setattr(holder, name, new), value)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def other_draws() -> Iterator[None]:
    """The global generators are elsewhere than after the start of a program."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def precision(value: str) -> AbstractContextManager[None]:
    return setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, value)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default device": lambda: default_device("meta"),
    "device block": lambda: torch.device("meta"),
    "torch function": Halved,
    "deterministic": lambda: setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 2),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "no denormals": lambda: setting(lambda: False, torch.set_flush_denormal, True),
    "matmul precision": lambda: precision("medium"),
    "no onednn": lambda: attribute(torch.backends.mkldnn, "enabled", False),
    "no cudnn": lambda: attribute(torch.backends.cudnn, "enabled", False),
    "cudnn without tf32": lambda: attribute(torch.backends.cudnn, "allow_tf32", False),
    "cudnn benchmark": lambda: attribute(torch.backends.cudnn, "benchmark", True),
    "cudnn deterministic": lambda: attribute(torch.backends.cudnn, "deterministic", True),
    "no nnpack": lambda: setting(torch._C._get_nnpack_enabled, torch.backends.nnpack.set_flags, False),
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings": warnings_are_errors,
    "truncated images": lambda: attribute(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    "few pixels": lambda: attribute(Image, "MAX_IMAGE_PIXELS", 1),
    "other draws": other_draws,
}
if hasattr(torch.backends, "fp32_precision"):
    STATES["bf16 convolutions"] = lambda: attribute(torch.backends.mkldnn.conv, "fp32_precision", "bf16")
    STATES["bf16 products"] = lambda: attribute(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")
    STATES["tf32 everywhere"] = lambda: attribute(torch.backends, "fp32_precision", "tf32")


TOGETHER = {
    "kernels": ["deterministic", "matmul precision", "no onednn", "no cudnn", "cudnn without tf32", "no nnpack"],
    "precisions": ["bf16 convolutions", "bf16 products", "tf32 everywhere"],
    "strict": ["numpy raises", "warnings", "anomaly", "no denormals", "truncated images", "few pixels"],
}
ALONE = "autocast", "no_grad", "inference_mode", "float64", "default device", "device block", "torch function"


@contextmanager
def inside(state: str) -> Iterator[None]:
    """Within one of `STATES`, or within several of them that are together under one name."""
    with ExitStack() as stack:
        for name in TOGETHER.get(state, [state]):
            if name in STATES:
                stack.enter_context(STATES[name]())
        yield


def read_or_refused(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # torch reads one of two spellings of a precision at a time
        return "refused"


def surroundings() -> dict[str, Any]:
    """Every setting that a state above changes, but for the position of the global generators."""
    backends, tiny = torch.backends, sys.float_info.min
    readings: dict[str, Callable[[], Any]] = {
        "autocast": lambda: torch.is_autocast_enabled("cpu"),
        "gradients": torch.is_grad_enabled,
        "inference": torch.is_inference_mode_enabled,
        "dtype": torch.get_default_dtype,
        "device": lambda: torch.zeros(1).device.type,
        "halved": lambda: (torch.zeros(1) + 1 / 3).item(),
        "deterministic": torch.get_deterministic_debug_mode,
        "anomaly": torch.is_anomaly_enabled,
        "denormals": lambda: tiny * 0.5 > 0,
        "matmul": torch.get_float32_matmul_precision,
        "onednn": lambda: bool(backends.mkldnn.enabled),
        "cudnn": lambda: [backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic],
        "tf32": lambda: bool(backends.cudnn.allow_tf32),
        "nnpack": torch._C._get_nnpack_enabled,
        "numpy": np.geterr,
        "warnings": lambda: [entry for entry in warnings.filters if entry[0] == "error" and entry[3] is None],
        "pillow": lambda: [ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS],
    }
    if hasattr(backends, "fp32_precision"):
        for name, holder in {"conv": backends.mkldnn.conv, "linear": backends.mkldnn.matmul, "all": backends}.items():
            readings[name] = lambda holder=holder: holder.fp32_precision.replace("ieee", "none")
    return {name: read_or_refused(read) for name, read in readings.items()}
