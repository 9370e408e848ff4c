"""`HybridBuffer`: distilled images and real exemplars of each class share the memory's room.

Real exemplars are chosen given the distilled images, an idea of Hybrid Memory Replay (arXiv 2410.15372), by iCaRL's
criterion (Rebuffi et al. 2017, algorithm 4), with the class's m distilled images s_i as the first terms of the sum:

    p_k = argmin_x || mu - (sum_i phi(s_i) + sum_{j<k} phi(p_j) + phi(x)) / (m + k) ||

over the class's real images x, with mu the mean of phi(x) over all of them. So each exemplar brings the mean of the
memory closer to the mean of the real images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from dd_apps.continual.adapter import RawClass, replay_dataset
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.memory.holding import decoded, ids_of
from dd_apps.continual.memory.network_at_hand import features
from dd_core.distilled import DistilledSet, Manifest
from dd_core.errors import UserError, unknown_name
from dd_core.selection import herd
from dd_core.system import surroundings

Features = Literal["pixels", "network"]
FEATURES: tuple[Features, ...] = ("pixels", "network")


class HybridBuffer(DistilledBuffer):
    """A `DistilledBuffer` of whose n stored images of a class floor(n `real_share`) are real, and the others distilled.

    `features` (phi) is the space in which real exemplars are chosen: "pixels", or "network" for the input of the last
    linear layer of the strategy's network. As the memory shrinks, both kinds lose their last images, and the share
    stays. Where distilled images keep the class probabilities of their method (`labels="stored"`), an exemplar's are
    one-hot.
    """

    def __init__(
        self, max_size: int, *, real_share: float = 0.5, features: Features = "pixels", **options: Any
    ) -> None:
        """Takes the options of `DistilledBuffer`, and raises `UserError` as `DistilledBuffer` does.

        real_share: above 0 and below 1, else raises `UserError`, too.
        """
        if not 0 < real_share < 1:
            raise UserError(
                f"real_share must be above 0 and below 1, not {real_share}; a memory of distilled images alone is a "
                "DistilledBuffer"
            )
        if features not in FEATURES:
            raise unknown_name("kind of features", features, FEATURES)
        super().__init__(max_size, **options)
        if self.shrinking != "first":
            raise UserError("shrinking: real exemplars are not distilled; a hybrid memory keeps its first images")
        if self.labels == "bank":
            raise UserError("labels: a bank is of distilled images, and a hybrid memory has real ones too")
        self.real_share = Fraction(real_share).limit_denominator(1_000_000)  # 0.29 of 100 images are 29
        self.features: Features = features

    @property
    def asks_network(self) -> bool:
        """Whether the strategy's network must have learned an experience first, for labels or for features."""
        return super().asks_network or self.features == "network"

    def _options(self) -> dict[str, JsonValue]:
        """See `DistilledBuffer`."""
        return {**super()._options(), "real_share": str(self.real_share), "features": self.features}

    def _completed(
        self, ds: DistilledSet, raw: Mapping[int, RawClass], real: Sequence[int], strategy: Any
    ) -> list[DistilledSet]:
        """The distilled set, and a set of `real[i]` exemplars of the class i."""
        if not any(real):
            return [ds]
        part = decoded(ds)
        picks: list[Tensor] = []
        for (label, members), count in zip(raw.items(), real, strict=True):
            given = part.images[part.ids == label]
            phi, phi_given = (self._features(images, label, members, strategy) for images in (members.images, given))
            picks.append(members.images[herd(phi, count, given=phi_given)])
        return [ds, _exemplars(ds, picks, list(raw))]

    def _features(self, images: Tensor, label: int, like: RawClass, strategy: Any) -> Tensor:
        if self.features == "network":
            return features(strategy, replay_dataset(images, label, like))
        return _pixels(images)


@surroundings.own()
def _pixels(images: Tensor) -> Tensor:
    """(n, D) pixels in [0, 1]."""
    return images.flatten(1).float() / 255


def _exemplars(ds: DistilledSet, picks: Sequence[Tensor], labels: Sequence[int]) -> DistilledSet:
    """`picks[i]` (n, C, H, W) of the class `labels[i]` as a set beside `ds`, in the same normalisation."""
    counts = [len(images) for images in picks]
    places = [ids_of(ds).tolist().index(label) for label in labels]
    numbers = np.repeat(np.array(places, dtype=np.int64), counts)
    targets = None
    if ds.targets is not None:
        if ds.manifest.targets != "probabilities":
            raise UserError(
                f"the distilled images have {ds.manifest.targets}, and a real exemplar has none; use labels='network'"
            )
        targets = np.eye(len(ds.classes), dtype=ds.targets.dtype)[numbers]
    manifest = Manifest(
        classes=ds.classes, pixels=ds.manifest.pixels, targets=ds.manifest.targets, recipe=ds.manifest.recipe
    )
    return DistilledSet(torch.cat(list(picks)).numpy(), numbers, manifest, targets)
