"""The size of a set as a program gives it: a `Size`, or a number of images a class."""

from __future__ import annotations

from typing import Any

import numpy as np

from dd_core.distilled.sets import Size
from dd_core.errors import UserError


def as_size(given: Any) -> Size:
    """A `Size` as it is, or a whole number as so many images a class; raises `UserError` for anything else."""
    if isinstance(given, Size):
        return given
    if not isinstance(given, (int, np.integer)) or isinstance(given, bool):
        raise UserError(
            f"the size is {str(given)[:40]!r} (a {type(given).__name__}); give a whole number of images a class, "
            "Size(images=100) for images in all, or Size(counts=(1, 2)) for those of each class"
        )
    if given < 1:
        raise UserError(f"the size is {given} images a class; at least 1 is needed")
    return Size(ipc=int(given))
