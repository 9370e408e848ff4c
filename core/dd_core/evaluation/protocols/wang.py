"""Protocols of Wang et al. (2018, "Dataset Distillation", section 4), which choose settings on validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dd_core.evaluation.protocol import EvaluationProtocol, Setting
from dd_core.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dd_core.artefacts import Artefact
    from dd_core.streams import Streams
    from dd_core.training import TrainingData
    from dd_core.training.bank import Bank
    from dd_core.training.own_augmentation import Augmentation


class WangGridProtocol(EvaluationProtocol):
    """Plain gradient descent; an epoch is one step on the whole set.

    1, 3 and 5 epochs are the paper's numbers; 10, 30 and 50 are the same with the paper's ten steps in each epoch.
    """

    name = "wang-grid"
    description = (
        "Wang et al. (2018): gradient descent on the whole set; rate and steps chosen on a tenth of the training images"
    )
    changes: ClassVar[Mapping[str, Any]] = {
        "optimiser": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 10**9,
        "schedule": "constant",
        "augmentation": "none",
        "steps": (),
        "loss": "cross-entropy",
        "warmup": 0,
    }
    grid: ClassVar[Mapping[str, Sequence[int | float]]] = {
        "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        "epochs": (1, 3, 5, 10, 30, 50),
    }


class NearestNeighboursProtocol(EvaluationProtocol):
    """k nearest neighbours: there are no random draws, so a set has one score."""

    name = "knn"
    description = (
        "Wang et al. (2018): nearest neighbours among the pixels; k and norm chosen on a tenth of the training images"
    )
    grid: ClassVar[Mapping[str, Sequence[int | float]]] = {"k": (1, 3, 5), "p": (1, 2)}
    trains_networks = False

    def settings(self, *, images: int) -> list[Setting]:
        """Every k up to the number of images, with each norm."""
        return [setting for setting in super().settings(images=images) if setting["k"] <= images]

    def learner(self, recipe: Recipe) -> str:
        """The name in results, k-nn."""
        del recipe
        return "k-nn"

    def fit(
        self,
        data: TrainingData,
        recipe: Recipe,
        *,
        setting: Setting,
        streams: Streams,
        device: torch.device,
        start: Artefact | None = None,
        index: int = 0,
        teacher: Artefact | None = None,
        bank: Bank | None = None,
        model: nn.Module | None = None,
        augmentation: Augmentation | None = None,
    ) -> nn.Module:
        """Nearest neighbours among `data`, as a network; nothing is trained, and the recipe is ignored."""
        from dd_core.evaluation.neighbours import NearestNeighbours  # late: it imports torch

        return NearestNeighbours(data, **setting)
