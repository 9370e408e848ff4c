"""A user's own networks, which tests and the workers that they start import."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """Made by (in_channels, outputs, image_size)."""

    def __init__(self, in_channels: int, outputs: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Narrow(Small):
    """With two outputs, whatever is asked for."""

    def __init__(self, in_channels: int, outputs: int, image_size: tuple[int, int]) -> None:
        super().__init__(in_channels, 2, image_size)
