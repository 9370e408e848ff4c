"""An Avalanche script as its users write it: checkpoints by `save_checkpoint`, resumed by `maybe_load_checkpoint`.

python resumable_program.py CHECKPOINT     # goes on from the checkpoint if there is one; prints what comes out
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import nc_benchmark
    from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.determinism.rng_manager import RNGManager
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.supervised import Naive

from dd_apps.continual import DistilledBuffer

METHOD = {"name": "dm", "steps": 3, "recipe": {"network": "convnet-1-w4"}}


class Net(nn.Module):
    """A network of the program's own, with dropout: it draws in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 6))

    def forward(self, images):
        return self.layers(images)


def digits() -> TensorDataset:
    pixels, labels = load_digits(n_class=6, return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16).float().view(-1, 1, 8, 8), torch.tensor(labels))
    data.targets = data.tensors[1]  # pyright: ignore[reportAttributeAccessIssue]
    return data


def strategy_with_memory() -> Any:
    memory = DistilledBuffer(12, images_per_class=2, method=METHOD, fill=32)
    model = Net()
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=32,
        plugins=[ReplayPlugin(12, batch_size_mem=32, storage_policy=memory)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )


def run(checkpoint: Path | None, *, stop_after: int = 3) -> dict[str, Any]:
    """Learn the experiences that the checkpoint has not; the accuracy after each, the weights, the memory."""
    RNGManager.set_random_seeds(7)
    data = digits()
    benchmark = nc_benchmark(data, data, 3, task_labels=False, shuffle=False)
    strategy, first = strategy_with_memory(), 0
    if checkpoint is not None:
        strategy, first = maybe_load_checkpoint(strategy, checkpoint)
    accuracies: list[float] = []
    for experience in benchmark.train_stream[first:stop_after]:
        strategy.train(experience)
        accuracies.append(strategy.eval(benchmark.test_stream)["Top1_Acc_Stream/eval_phase/test_stream/Task000"])
        if checkpoint is not None:
            save_checkpoint(strategy, checkpoint)
    memory = next(plugin for plugin in strategy.plugins if isinstance(plugin, ReplayPlugin)).storage_policy
    return {
        "first": first,
        "accuracies": accuracies,
        "weights": [parameter.double().sum().item() for parameter in strategy.model.parameters()],
        "sets": [ds.digest() for ds in memory.sets],
        "images": int(np.sum([image.double().sum().item() for image, *_ in memory.buffer])),
        "optimiser": type(strategy.optimizer) is torch.optim.SGD,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]))))
