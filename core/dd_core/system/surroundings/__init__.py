"""The engine's own context: settings of the caller neither change a number in a call nor make the call fail.

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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np

from dd_core.system.surroundings.settings import Setting, attribute

_PILLOW_PIXELS = 89_478_485  # Pillow's own limit, where it suspects a decompression bomb


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
            from dd_core.system.surroundings import torch_settings  # torch is there already

            for context in torch_settings.contexts():
                stack.enter_context(context)
            _set_aside(torch_settings.settings(), stack)
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
    """Within the block warnings raise no errors, unless a filter names the module that warns."""
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


@cache
def _pillow_settings() -> tuple[Setting, ...]:
    """Pillow refuses truncated files, and keeps its own size limit, above which `decoding` refuses an image."""
    from PIL import Image, ImageFile  # Pillow is there already

    return (
        attribute(ImageFile, "LOAD_TRUNCATED_IMAGES", False),
        attribute(Image, "MAX_IMAGE_PIXELS", _PILLOW_PIXELS),
    )
