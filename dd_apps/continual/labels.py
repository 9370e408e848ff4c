"""Labels as Avalanche's items carry them: one integer for an image, in one of the types that PyTorch batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd_core.errors import UserError

Meaning = tuple[str, int]  # the name of a label's type, and its value


def meaning(label: Any, *, of: str) -> Meaning:
    """Type and value of an int, a NumPy integer or a 0-dimensional integer tensor; `of` says what carries `label`.

    Raises `UserError` for anything else: floats, one-hot vectors, strings.
    """
    if isinstance(label, Tensor):
        whole = label.ndim == 0 and not (label.is_floating_point() or label.is_complex())
    else:
        whole = isinstance(label, int | np.integer)
    if not whole:
        raise UserError(
            f"{of}: the label {shown(label)} is no integer; a distilled image stands for one class, so labels must be "
            "int, NumPy integers or 0-dimensional integer tensors"
        )
    return _type_of(label), int(label)


def shown(label: Any) -> str:
    """A label and its type, in words; two labels that differ are shown differently."""
    value = str(label.item()) if isinstance(label, Tensor) and label.ndim == 0 else " ".join(repr(label).split())
    return f"{value} ({_type_of(label)})"


def _type_of(label: Any) -> str:
    return f"{label.dtype} tensor" if isinstance(label, Tensor) else type(label).__name__


def copied(label: Any) -> Any:
    """The same label; a tensor is copied, because a view of it would keep all labels of its data set in memory."""
    return label.detach().clone() if isinstance(label, torch.Tensor) else label


def batched_with(meaning: Meaning, other: Meaning) -> bool:
    """Whether PyTorch makes a mini-batch of labels of both types: tensors are stacked with tensors only."""
    return meaning[0].endswith("tensor") == other[0].endswith("tensor")
