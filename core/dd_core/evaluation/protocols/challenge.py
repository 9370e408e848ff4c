"""The evaluation of the ECCV-2024 Dataset Distillation Challenge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dd_core.distilled import IMAGENET, DistilledSet, Pixels, Statistics
from dd_core.errors import UserError
from dd_core.evaluation.protocol import EvaluationProtocol
from dd_core.evaluation.protocols.recipes import LONG, RATE, SGD

if TYPE_CHECKING:
    from dd_core.images import Source

# mean and std by which the challenge's evaluator normalises its two data sets, by (classes, C, H, W)
CHALLENGE: Mapping[tuple[int, ...], Statistics] = {
    (100, 3, 32, 32): ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    (200, 3, 64, 64): IMAGENET,
}


class Challenge2024Protocol(EvaluationProtocol):
    """The challenge's evaluation: it uses images alone, labelled class after class, without targets or whitening."""

    name = "challenge-2024"
    description = (
        "ECCV-2024 challenge: images only, labelled by their place, class after class; ConvNet-3, 1001 epochs, SGD "
        "0.01/0.9/5e-4, batch 256, rate x0.1 after half, DSA without aligned corners, no whitening"
    )
    changes: ClassVar[Mapping[str, Any]] = {
        **SGD,
        **LONG,
        "learning_rate": RATE,
        "network": "convnet-3",
        "align_corners": False,
        "temperature": 1.0,
        "initialisation": "default",
        "weights": None,
    }

    def prepare(self, ds: DistilledSet, *, train: Source) -> DistilledSet:
        """The images of `ds`, normalised, without targets and whitening, labelled by their place.

        A set of one of the challenge's two data sets is normalised by the challenge's statistics; any other set by its
        own statistics, or by those of `train` where it is whitened. Raises `UserError` for a set whose labels are not
        class after class, equally many, and for a set with a formation.
        """
        if ds.manifest.formation != 1:
            raise UserError(
                "the challenge's evaluator takes stored images, and this set stores several in one (formation); distil "
                "with formation 1"
            )
        classes, manifest = len(ds.classes), ds.manifest.model_copy(update={"targets": "none"})
        if ds.labels is None or not np.array_equal(ds.labels, np.arange(len(ds)) * classes // len(ds)):
            raise UserError(
                "the challenge labels images by their place, class after class; this set is in another order, or has "
                "not as many images of each class"
            )
        statistics = CHALLENGE.get((classes, *ds.images.shape[1:]))
        if statistics is None and ds.whitening is None:
            return replace(ds, targets=None, manifest=manifest)
        mean, std = statistics or _statistics_of(train)
        pixels = Pixels(space="normalised", mean=mean, std=std)
        images = (ds.raw() - _by_channel(mean)) / _by_channel(std)
        return DistilledSet(images, ds.labels, manifest.model_copy(update={"pixels": pixels}))


def _by_channel(values: tuple[float, ...]) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)


def _statistics_of(train: Source) -> Statistics:
    from dd_core.images import channel_stats  # late: it imports torch, and protocols are listed without torch

    return channel_stats(train)
