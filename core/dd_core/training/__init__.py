"""Training networks on a set or on real images: the data, the initial weights, the loop, estimates of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_core.training.bank import opened_bank
    from dd_core.training.fitting import fit, train
    from dd_core.training.initial import for_network, initialised, load_weights, require_pure, require_startable
    from dd_core.training.kept_weights import keep_weights
    from dd_core.training.lessons import (
        Lessons,
        RealLessons,
        RegressionData,
        TrainingData,
        block_rows,
        lessons_of,
        training_data,
    )
    from dd_core.training.loop import Loop
    from dd_core.training.mosaics import check_mosaics, mosaics_in, mosaics_of
    from dd_core.training.predicting import accuracy, predictions
    from dd_core.training.pretraining import pretrain
    from dd_core.training.settings import Settings
    from dd_core.training.teachers import asked, form_in

_HOME = {
    "Lessons": "lessons",
    "Loop": "loop",
    "RealLessons": "lessons",
    "RegressionData": "lessons",
    "Settings": "settings",
    "TrainingData": "lessons",
    "accuracy": "predicting",
    "asked": "teachers",
    "block_rows": "lessons",
    "check_mosaics": "mosaics",
    "fit": "fitting",
    "form_in": "teachers",
    "for_network": "initial",
    "initialised": "initial",
    "keep_weights": "kept_weights",
    "lessons_of": "lessons",
    "load_weights": "initial",
    "mosaics_in": "mosaics",
    "mosaics_of": "mosaics",
    "opened_bank": "bank",
    "predictions": "predicting",
    "pretrain": "pretraining",
    "require_pure": "initial",
    "require_startable": "initial",
    "train": "fitting",
    "training_data": "lessons",
}
__all__ = [
    "Lessons",
    "Loop",
    "RealLessons",
    "RegressionData",
    "Settings",
    "TrainingData",
    "accuracy",
    "asked",
    "block_rows",
    "check_mosaics",
    "fit",
    "for_network",
    "form_in",
    "initialised",
    "keep_weights",
    "lessons_of",
    "load_weights",
    "mosaics_in",
    "mosaics_of",
    "opened_bank",
    "predictions",
    "pretrain",
    "require_pure",
    "require_startable",
    "train",
    "training_data",
]
__getattr__ = names_of(__name__, _HOME)
