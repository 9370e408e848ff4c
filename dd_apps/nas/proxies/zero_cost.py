"""Zero-cost measures of an untrained network as proxies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dd_apps.nas import measures
from dd_apps.nas.proxies.proxy import Proxy
from dd_core import streams
from dd_core.errors import Option, UserError
from dd_core.images import InputForm, Source, called, require_labels
from dd_core.system import device as devices

IMAGES = 64  # images in a mini-batch: Abdelfattah et al. 2021
NASWOT_IMAGES = 128  # Mellor et al. 2021


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ZeroCostProxy(Proxy):
    """A measure of `dd_apps.nas.measures` on a mini-batch of the training images `data`, drawn by the score's seed.

    images: number of images in the mini-batch; None: 64, and 128 for `naswot`. form: turns images into inputs of a
    network; None: normalises by the mean and std of each channel of `data`. name: by default the measure's.

    Raises `UserError` for an unknown measure, for a measure that needs labels where `data` has none, and for more
    images than `data` has.
    """

    name: str = ""
    measure: str
    data: Source
    images: int | None = None
    form: InputForm | None = None

    def __post_init__(self) -> None:
        spec = measures.by_name(self.measure)
        if spec.needs_labels:
            require_labels(self.data)
        images = (NASWOT_IMAGES if self.measure == "naswot" else IMAGES) if self.images is None else self.images
        if not 1 <= images <= len(self.data):
            raise UserError(f"{Option('images')}: {images}, but {called(self.data)} has {len(self.data)} images")
        own = {"name": self.name or self.measure, "images": images, "form": self.form or InputForm.of(self.data)}
        for field, value in own.items():
            object.__setattr__(self, field, value)

    def _prepare(self, seed: int) -> None:
        if measures.by_name(self.measure).needs_images:
            self._mini_batch(seed)

    def _outcome(self, network: nn.Module, *, seed: int) -> dict[str, Any]:
        if not measures.by_name(self.measure).needs_images:
            black = torch.zeros(1, *self.data.image_shape)  # only its shape matters
            return {"value": measures.measure(self.measure, network.to(self._device), black), "passes": 0}
        inputs, labels = self._mini_batch(seed)
        return {
            "value": measures.measure(self.measure, network.to(self._device), inputs, labels),
            "passes": len(inputs),
        }

    def _mini_batch(self, seed: int) -> tuple[Float[Tensor, "n C H W"], Int64[Tensor, " n"] | None]:
        """Inputs and labels of the images that the seed draws without replacement; kept for the next network."""
        if self._drawn.get("seed") != seed:
            assert self.form is not None
            order = torch.randperm(len(self.data), generator=streams.generator(seed, "mini-batch"))
            rows = order[: self.images]
            labels = None if self.data.labels is None else self.data.labels[rows]
            inputs = self.form(self.data.take(rows).to(self._device))
            self._drawn.update(seed=seed, batch=(inputs, labels))
        return self._drawn["batch"]

    @cached_property
    def _drawn(self) -> dict[str, Any]:
        """The last mini-batch, kept because all networks of a search have the same seed."""
        return {}

    @cached_property
    def _device(self) -> torch.device:
        return devices.resolve(self.device)
