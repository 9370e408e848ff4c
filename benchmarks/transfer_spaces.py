"""The share of a teacher's feature space that targets cover, as a number and a figure, for `transfer_cpu.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch


def covered(real: torch.Tensor, targets: torch.Tensor) -> float:
    """1 minus the mean squared distance of real features to their nearest target, divided by their variance.

    1: every real feature has a target in the same place; 0: targets are as far off as the mean of the features.
    """
    squares = torch.cdist(real, targets).amin(1).square().mean()
    return 1 - (squares / (real - real.mean(0)).square().sum(1).mean()).item()


def draw_spaces(spaces: Mapping[str, tuple[torch.Tensor, ...]], path: Path) -> None:
    """Two principal components of each teacher's features: of real images, of 100 of them, and the learned targets."""
    from matplotlib.figure import Figure  # a second

    figure = Figure(figsize=(4.2 * len(spaces), 4), layout="constrained")
    marks = {"real images": ("0.8", 2, "."), "100 random real": ("#0072b2", 18, "o"), "KRR-ST": ("#d55e00", 26, "x")}
    for place, (objective, parts) in enumerate(spaces.items()):
        axes = figure.add_subplot(1, len(spaces), place + 1)
        mean = parts[0].mean(0)
        _, _, directions = torch.pca_lowrank(parts[0] - mean, q=2, center=False)
        for points, (name, (colour, size, marker)) in zip(parts, marks.items(), strict=True):
            x, y = ((points - mean) @ directions).T.tolist()
            axes.scatter(x, y, s=size, c=colour, marker=marker, label=name, linewidths=1)
        axes.set(title=objective, xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)
