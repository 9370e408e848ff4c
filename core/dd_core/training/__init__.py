"""Training a network on a set or on real images: what it learns from, where it starts, the loop, its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.training.fitting import (
        TrainingData,
        accuracy,
        block_rows,
        fit,
        for_network,
        initialised,
        load_weights,
        predictions,
        pretrain,
        require_pure,
        require_startable,
        train,
        training_data,
    )

__all__ = [
    "TrainingData",
    "accuracy",
    "block_rows",
    "fit",
    "for_network",
    "initialised",
    "load_weights",
    "predictions",
    "pretrain",
    "require_pure",
    "require_startable",
    "train",
    "training_data",
]
__getattr__ = names_of(
    __name__,
    {
        "TrainingData": "fitting",
        "accuracy": "fitting",
        "block_rows": "fitting",
        "fit": "fitting",
        "for_network": "fitting",
        "initialised": "fitting",
        "load_weights": "fitting",
        "predictions": "fitting",
        "pretrain": "fitting",
        "require_pure": "fitting",
        "require_startable": "fitting",
        "train": "fitting",
        "training_data": "fitting",
    },
)
