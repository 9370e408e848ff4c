"""`dataset-distillation`: learned images and rates. Only `config` is read without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.methods.dataset_distillation.config import DatasetDistillationConfig
    from dd_core.methods.dataset_distillation.distiller import DatasetDistillationDistiller
    from dd_core.methods.dataset_distillation.planning import check_steps, footprint, pool_spec, pretrained_on

__all__ = [
    "DatasetDistillationConfig",
    "DatasetDistillationDistiller",
    "check_steps",
    "footprint",
    "pool_spec",
    "pretrained_on",
]
__getattr__ = names_of(
    __name__,
    {
        "DatasetDistillationConfig": "config",
        "DatasetDistillationDistiller": "distiller",
        "check_steps": "planning",
        "footprint": "planning",
        "pool_spec": "planning",
        "pretrained_on": "planning",
    },
)
