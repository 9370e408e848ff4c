"""Protocols that train by a set's recipe, or by that recipe with some fields replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dd_core.evaluation.protocol import EvaluationProtocol

LABELS: dict[str, Any] = {"loss": "cross-entropy", "warmup": 0}  # as in every published evaluation here
SGD: dict[str, Any] = {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256, **LABELS}
LONG: dict[str, Any] = {"schedule": "step", "epochs": 1001, "augmentation": "auto", "steps": ()}
RATE = 0.01


class RecipeProtocol(EvaluationProtocol):
    """Training by the set's own recipe, as its method intends."""

    name = "recipe"
    description = "the set's own recipe"


class Plain300Protocol(EvaluationProtocol):
    """Ordinary training, the same for every set."""

    name = "plain-300"
    description = "300 epochs, SGD 0.01/0.9/5e-4, batch 256, rate x0.1 after half, no augmentation"
    changes: ClassVar[Mapping[str, Any]] = {
        **SGD,
        "learning_rate": RATE,
        "schedule": "step",
        "epochs": 300,
        "augmentation": "none",
        "steps": (),
    }


class DM1000Protocol(EvaluationProtocol):
    """The evaluation of DM (Zhao and Bilen 2023) and DSA (2021)."""

    name = "dm-1000"
    description = "DM and DSA (Zhao and Bilen): 1001 epochs, SGD 0.01/0.9/5e-4, batch 256, rate x0.1 after half, DSA"
    changes: ClassVar[Mapping[str, Any]] = {**SGD, **LONG, "learning_rate": RATE}


class MTT1000Protocol(EvaluationProtocol):
    """The evaluation of MTT (Cazenavette et al. 2022), at the learning rate that was learned with the set."""

    name = "mtt-1000"
    description = (
        "MTT (Cazenavette et al.): 1001 epochs, SGD 0.9/5e-4 at the set's own rate, batch 256, rate x0.1 after half, "
        "DSA"
    )
    changes: ClassVar[Mapping[str, Any]] = {**SGD, **LONG}


class DATMSoftProtocol(EvaluationProtocol):
    """The evaluation of DATM (Guo et al. 2024)."""

    name = "datm-soft"
    description = "DATM (Guo et al. 2024): as mtt-1000 with batch 128, by the set's soft labels if it has any"
    changes: ClassVar[Mapping[str, Any]] = {**SGD, **LONG, "batch_size": 128}
