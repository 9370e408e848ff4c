"""Predictions and accuracy of a trained network on real images."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from dd_core.images import InputForm, Source, require_labels
from dd_core.system.footprint import most_forward, prediction_batch


def accuracy(model: nn.Module, source: Source, form: InputForm, *, device: torch.device) -> float:
    """The fraction of real images, as inputs of `form`, that `model` classifies rightly in evaluation mode."""
    labels = require_labels(source)
    return int((predictions(model, source, form, device=device) == labels).sum()) / len(source)


@torch.no_grad()
def predictions(model: nn.Module, source: Source, form: InputForm, *, device: torch.device) -> Int64[Tensor, " N"]:
    """The class that `model`, in evaluation mode, gives to each real image, as inputs of `form`."""
    model = model.to(device).eval()

    def logits(images: Tensor) -> Tensor:
        return model(form(images))

    size = prediction_batch(logits, source.image_shape, device, most=most_forward(device))
    return torch.cat([logits(batch.to(device)).argmax(1).cpu() for batch in source.batches(size)])
