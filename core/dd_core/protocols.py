"""Named ways to train on a set before it is scored. Imports no torch: the command line lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dd_core.distilled import Recipe
from dd_core.errors import unknown_name

_SGD = {"optimiser": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256}

PROTOCOLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "recipe": ("the set's own recipe", {}),
    "plain-300": (
        "300 epochs, SGD 0.01/0.9/5e-4, batch 256, rate x0.1 after half, no augmentation",
        {**_SGD, "schedule": "step", "epochs": 300, "augmentation": "none"},
    ),
    "dm-1000": (
        "DM and DSA (Zhao and Bilen): 1001 epochs, SGD 0.01/0.9/5e-4, batch 256, rate x0.1 after half, DSA",
        {**_SGD, "schedule": "step", "epochs": 1001, "augmentation": "auto"},
    ),
}


def recipe_of(protocol: str, own: Recipe, *, source_name: str) -> Recipe:
    """The recipe that `protocol` makes of a set's own; raises `UserError` for an unknown name."""
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    return own.model_copy(update=PROTOCOLS[protocol][1]).for_source(source_name)
