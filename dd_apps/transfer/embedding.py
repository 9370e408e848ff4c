"""The features of real images by a frozen backbone: the inputs of its last linear layer, in evaluation mode."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dd_core import networks
from dd_core.errors import Diverged
from dd_core.images import InputForm, Source
from dd_core.system import device as devices
from dd_core.system import surroundings
from dd_core.system.footprint import prediction_batch


@surroundings.own()
@torch.no_grad()
def features(
    backbone: nn.Module, source: Source, form: InputForm | None = None, *, device: str = "auto"
) -> Float[Tensor, "N D"]:
    """The features of all images in order, float32 on the CPU; `backbone` stays in evaluation mode afterwards.

    form: normalisation of images, as of the set that the backbone learned (`ds.input_form()`); None: by the mean and
    std of `source` itself. Raises `UserError` for a backbone without a linear layer, and `Diverged` where a feature is
    not finite.
    """
    form, where = form or InputForm.of(source), devices.resolve(device)
    model = backbone.to(where).eval()

    def embed(images: Tensor) -> Tensor:
        return networks.embed(model, form(images))

    size = prediction_batch(embed, source.image_shape, where)
    found = torch.cat([embed(batch.to(where)).float().cpu() for batch in source.batches(size)])
    if not torch.isfinite(found).all():
        raise Diverged(
            f"the features of {source.name} have values that are not finite; the backbone's weights diverged"
        )
    return found
