"""What a trained network says of real images."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from dd_core.images import InputForm, Source, require_labels
from dd_core.system.footprint import prediction_batch


def accuracy(model: nn.Module, source: Source, form: InputForm, *, device: torch.device) -> float:
    """The fraction of real images, fed as `form` says, that `model` labels rightly; in evaluation mode."""
    labels = require_labels(source)
    return int((predictions(model, source, form, device=device) == labels).sum()) / len(source)


@torch.no_grad()
def predictions(model: nn.Module, source: Source, form: InputForm, *, device: torch.device) -> Int64[Tensor, " N"]:
    """The class that `model` gives to each real image, fed as `form` says; in evaluation mode."""
    model = model.to(device).eval()

    def logits(images: Tensor) -> Tensor:
        return model(form(images))

    size = prediction_batch(logits, source.image_shape, device)
    return torch.cat([logits(batch.to(device)).argmax(1).cpu() for batch in source.batches(size)])
