"""The parts from which every strategy is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dd_apps.continual.adapter import ReplayPlugin, silent_evaluator, warnings_contained
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.config import Replay, Retraining
from dd_apps.continual.replay import SoftLabelReplay
from dd_apps.continual.rows import StrategyConfig, Table
from dd_apps.continual.strategies.memories import Memory
from dd_core.errors import UserError

with warnings_contained():
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.training.plugins import EvaluationPlugin


@dataclass(frozen=True)
class Learning:
    """One row in one table, before the first experience.

    each: images of each of the `classes` that a strategy's own memory may hold at the end; adaptive: whether the
    classes seen so far share all of that memory's room; plugins: Avalanche plugins that every strategy gets; loggers:
    Avalanche loggers of training accuracy and loss; seed: of the draws from a memory with soft labels.
    """

    config: StrategyConfig
    settings: Retraining | Replay
    network: nn.Module
    memory: Memory | None
    each: int
    classes: int
    adaptive: bool
    table: Table
    device: torch.device
    plugins: tuple[Any, ...] = ()
    loggers: tuple[Any, ...] = ()
    seed: int = 0

    def common(self, *plugins: Any) -> dict[str, Any]:
        """The arguments that every Avalanche strategy takes, but for the network; `plugins` are added."""
        return {
            "optimizer": torch.optim.SGD(
                self.network.parameters(),
                lr=self.settings.learning_rate,
                momentum=self.settings.momentum,
                weight_decay=self.settings.weight_decay,
            ),
            "train_mb_size": self.settings.batch_size,
            "eval_mb_size": self.settings.batch_size,
            "train_epochs": self.settings.epochs,
            "device": self.device,
            "plugins": [*plugins, *self.plugins],
            "evaluator": self._evaluator(),
        }

    @property
    def room(self) -> int:
        """Images that the strategy's own memory may hold."""
        return self.each * self.classes

    @property
    def replay(self) -> Replay:
        """The settings of a strategy of the table 'replay'."""
        assert isinstance(self.settings, Replay)
        return self.settings

    @property
    def replayed(self) -> list[Any]:
        """A list of the plugin that mixes the memory into every mini-batch; empty without a memory."""
        if self.memory is None:
            return []
        if isinstance(self.memory, DistilledBuffer) and self.memory.labels != "hard":
            return [SoftLabelReplay(self.memory, batch_size_mem=self.replay.batch_size_mem, seed=self.seed)]
        return [
            ReplayPlugin(
                mem_size=self.memory.max_size,
                batch_size=self.replay.batch_size,
                batch_size_mem=self.replay.batch_size_mem,
                storage_policy=self.memory,
            )
        ]

    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Features and classifier of the network; raises `UserError` for a network without these two parts."""
        features, classifier = (getattr(self.network, name, None) for name in ("features", "classifier"))
        if not isinstance(features, nn.Module) or not isinstance(classifier, nn.Linear):
            raise UserError(
                f"strategy '{self.config.name}': needs a network of features and one linear layer, such as convnet; "
                f"{type(self.network).__name__} is not made so"
            )
        return features, classifier

    def _evaluator(self) -> Any:
        if not self.loggers:
            return silent_evaluator()
        metrics = [measure(epoch=True, experience=True, stream=True) for measure in (accuracy_metrics, loss_metrics)]
        return EvaluationPlugin(*metrics, loggers=list(self.loggers))
