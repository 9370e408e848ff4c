"""A user's own space, named by tests as `own_space:Widths`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dd_apps.nas import spaces

import nni  # isort: skip (spaces imports it without its warnings)
from nni.nas.nn.pytorch import ModelSpace  # isort: skip

assert spaces


class Net(nn.Module):
    """A hidden layer for images of `pixels` pixels; a width of 0 cannot be built, one of 1 gives no finite number."""

    def __init__(self, width: int, pixels: int) -> None:
        super().__init__()
        if width == 0:
            raise ValueError("a network of no width\nand a second line")
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, 10))
        self.factor = float("nan") if width == 1 else 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.layers(images) * self.factor


class Widths(ModelSpace):
    """Widths 0 to 8."""

    def __init__(self, pixels: int = 64) -> None:
        super().__init__()
        self.add_mutable(nni.choice("width", [*range(9)]))

    @classmethod
    def create_fixed_module(cls, sample: Mapping[str, Any], pixels: int = 64) -> nn.Module:
        """The network of a sample."""
        return Net(sample["width"], pixels)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of a sample."""
        self.validate(dict(sample))
        return self.create_fixed_module(sample, **self.trace_kwargs)
