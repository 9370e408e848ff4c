"""How much of a teacher's space of features some targets cover, for `transfer_cpu.py`: a number and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch


def covered(real: torch.Tensor, targets: torch.Tensor) -> float:
    """The part of the real features' variance that is left of their distance to the nearest target, taken from 1.

    1: every real image has a target at its very place; 0: they are as far as from their mean.
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
