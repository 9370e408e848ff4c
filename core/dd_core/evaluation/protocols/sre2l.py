"""SRe2L's evaluations (Yin, Xing and Shen 2023), in which a teacher labels every view, and one without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from dd_core.augment.view_config import Views
from dd_core.distilled import DistilledSet
from dd_core.evaluation.protocol import EvaluationProtocol
from dd_core.recipe import BETAS

if TYPE_CHECKING:
    from dd_core.images import Source

ADAMW: dict[str, Any] = {
    "optimiser": "adamw",
    "learning_rate": 1e-3,
    "betas": BETAS,
    "weight_decay": 0.01,
    "decayed": "matrices",
    "schedule": "cosine",
    "warmup": 0,
    "augmentation": "none",
    "steps": (),
}
TAUGHT: dict[str, Any] = {"teacher": "eval", "loss": "kl"}


class SRe2LFKDProtocol(EvaluationProtocol):
    """SRe2L's evaluation on ImageNet-1K by fast knowledge distillation; the paper has 300 epochs and batch 1024."""

    name = "sre2l-fkd"
    description = (
        "SRe2L on ImageNet-1K: a teacher labels every view; crops, flips and CutMix, AdamW 0.001/0.01, cosine, KL at "
        "T = 20 without T^2; epochs and batch of the set's recipe"
    )
    changes: ClassVar[Mapping[str, Any]] = {**ADAMW, **TAUGHT, "temperature": 20.0, "views": Views(mix="cutmix")}


class SRe2LKDProtocol(EvaluationProtocol):
    """SRe2L's evaluation on Tiny-ImageNet by knowledge distillation."""

    name = "sre2l-kd"
    description = (
        "SRe2L on Tiny-ImageNet: a teacher labels every view; crops and flips, 100 epochs, SGD 0.2/0.9/1e-4, batch "
        "256, cosine after 5 epochs of warm-up, KL at T = 20 times T^2"
    )
    changes: ClassVar[Mapping[str, Any]] = {
        **TAUGHT,
        "optimiser": "sgd",
        "learning_rate": 0.2,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decayed": "all",
        "schedule": "cosine",
        "warmup": 5,
        "epochs": 100,
        "batch_size": 256,
        "augmentation": "none",
        "steps": (),
        "views": Views(),
        "loss": "kl-t2",
        "temperature": 20.0,
    }


class SRe2LCIFARProtocol(EvaluationProtocol):
    """SRe2L's evaluation on CIFAR-100, whose published figures come from a teacher in mode `batch-stats`."""

    name = "sre2l-cifar"
    description = (
        "SRe2L on CIFAR-100: a teacher labels every view; shifts by 4 px, flips and MixUp 0.8, 400 epochs, AdamW "
        "0.001/0.01, batch 128, cosine, KL at T = 30 without T^2"
    )
    changes: ClassVar[Mapping[str, Any]] = {
        **ADAMW,
        **TAUGHT,
        "decayed": "all",
        "epochs": 400,
        "batch_size": 128,
        "temperature": 30.0,
        "views": Views(crop=None, padding=4, mix="mixup", mix_alpha=0.8),
    }


class HardProtocol(EvaluationProtocol):
    """`sre2l-fkd` without a teacher; the difference of both accuracies is the worth of the teacher's labels."""

    name = "hard"
    description = "as sre2l-fkd without a teacher: the hard labels of the images, mixed as CutMix mixes the views"
    changes: ClassVar[Mapping[str, Any]] = {
        **SRe2LFKDProtocol.changes,
        "teacher": "none",
        "loss": "cross-entropy",
        "temperature": 1.0,
    }

    def prepare(self, ds: DistilledSet, *, train: Source) -> DistilledSet:
        """The set with its hard labels alone, without targets."""
        del train
        manifest = ds.manifest.model_copy(update={"targets": "none"})
        return ds if ds.targets is None else replace(ds, targets=None, manifest=manifest)
