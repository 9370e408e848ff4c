"""Which classes arrive when: class orders, and how many classes an experience has. Avalanche is not imported here."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from dd_core.errors import UserError
from dd_core.streams import generator


def class_order(classes: int, *, seed: int, order: int, rule: Literal["drawn", "numpy"] = "drawn") -> tuple[int, ...]:
    """Permutation number `order` of the classes; by the rule `numpy` of numpy's old generator seeded by `order`."""
    if rule == "numpy":
        return tuple(np.random.RandomState(order).permutation(classes).tolist())
    return tuple(torch.randperm(classes, generator=generator(seed, "class-order", order)).tolist())


def experience_sizes(classes: int, experiences: int) -> tuple[int, ...]:
    """Classes of each experience, as even as can be, larger ones first; raises `UserError` for too many."""
    if experiences > classes:
        raise UserError(f"experiences: {experiences} experiences need as many classes, and there are {classes}")
    share, rest = divmod(classes, experiences)
    return tuple(share + (index < rest) for index in range(experiences))
