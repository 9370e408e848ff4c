"""Which classes arrive when: class orders, and how many classes an experience has. Avalanche is not imported here."""

from __future__ import annotations

import torch

from dd_core.errors import UserError
from dd_core.streams import generator


def class_order(classes: int, *, seed: int, order: int) -> tuple[int, ...]:
    """Permutation number `order` of the classes."""
    return tuple(torch.randperm(classes, generator=generator(seed, "class-order", order)).tolist())


def experience_sizes(classes: int, experiences: int) -> tuple[int, ...]:
    """Classes of each experience, as even as can be, larger ones first; raises `UserError` for too many."""
    if experiences > classes:
        raise UserError(f"experiences: {experiences} experiences need as many classes, and there are {classes}")
    share, rest = divmod(classes, experiences)
    return tuple(share + (index < rest) for index in range(experiences))
