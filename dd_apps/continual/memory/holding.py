"""The sets that a memory holds of one experience, and each class of them as a buffer for Avalanche.

The images of an experience are one `DistilledSet` (in a hybrid memory two: distilled images, and real exemplars),
whose class names are Avalanche's class ids. A class is a selection of their rows, so that soft labels, formations and
bytes are those of the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dd_apps.continual.adapter import AvalancheDataset, ExemplarsBuffer, RawClass, replay_dataset
from dd_apps.continual.labels import Meaning
from dd_apps.continual.memory.banks import StoredViews
from dd_core.distilled import DistilledSet
from dd_core.recipe import RATE_BYTES
from dd_core.system import surroundings


@dataclass(frozen=True)
class Decoded:
    """The M images of a set that networks see; a formation makes several of each stored image.

    images: uint8 (M, C, H, W) raw pixels; ids: (M,) Avalanche's class ids; rows: (M,) the stored image of each.
    """

    images: UInt8[Tensor, "M C H W"]
    ids: Int64[Tensor, " M"]
    rows: Int64[Tensor, " M"]


@surroundings.own()
def decoded(ds: DistilledSet) -> Decoded:
    """The images of a set that networks see, brought back from network inputs to raw pixels, rounded to uint8."""
    numbered = replace(  # each image carries the number of its row, whatever the formation makes of the row
        ds,
        targets=np.arange(len(ds), dtype=np.float32)[:, None],
        manifest=ds.manifest.model_copy(update={"targets": "features"}),
    )
    inputs, labels, rows = (torch.stack(list(parts)) for parts in zip(*numbered.as_dataset(), strict=True))
    mean, std = (
        torch.tensor(values).float().view(1, -1, 1, 1) for values in (ds.manifest.pixels.mean, ds.manifest.pixels.std)
    )
    images = ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Decoded(images, torch.from_numpy(ids_of(ds)[labels.numpy()]), rows[:, 0].long())


def ids_of(ds: DistilledSet) -> np.ndarray:
    """(K,) Avalanche's class ids, in the order of the set's labels and of the columns of its soft labels."""
    return np.array([int(name) for name in ds.classes], dtype=np.int64)


def rows_of(ds: DistilledSet, label: int) -> np.ndarray:
    """Rows of a set that are of Avalanche's class `label`."""
    return np.flatnonzero(ids_of(ds)[ds.labels] == label)


class Held:
    """The sets of one experience, which shrink class by class.

    sets: the distilled set, and after it the real exemplars of a hybrid memory; like: labels and transforms of each
    class in the experience; fingerprint: of the experience's real images; rates: number of learned rates of the set;
    real_share: fraction of a class's stored images that are real; views: labelled views of the set's images, in a
    memory with a bank.
    """

    def __init__(
        self,
        sets: Sequence[DistilledSet],
        like: Mapping[int, RawClass],
        *,
        fingerprint: str,
        rates: int = 0,
        real_share: Fraction = Fraction(0),
        views: StoredViews | None = None,
    ) -> None:
        self.sets, self.views = tuple(sets), views
        self.fingerprint, self.rates, self.real_share = fingerprint, rates, real_share
        # labels and transforms of a class without its real images; an empty slice would keep all of them in memory
        self.like = {label: replace(raw, images=raw.images[:0].clone()) for label, raw in like.items()}
        self._decoded: tuple[Decoded, ...] | None = None

    @property
    def decoded(self) -> tuple[Decoded, ...]:
        """The images of each set that networks see; computed once until the sets change."""
        if self._decoded is None:
            self._decoded = tuple(map(decoded, self.sets))
        return self._decoded

    def count(self, label: int) -> int:
        """Stored images of a class."""
        return sum(len(rows_of(ds, label)) for ds in self.sets)

    def nbytes(self, most: int | None = None) -> int:
        """Bytes of stored pixels, soft labels, views and learned rates, if each class keeps at most `most` images."""
        kept = 0
        for index, ds in enumerate(self.sets):
            rows = len(ds) if most is None else sum(len(self._first(index, label, most)) for label in self.like)
            kept += ds.nbytes // len(ds) * rows
            if self.views is not None:
                kept += self.views.nbytes // len(ds) * rows
        return kept + RATE_BYTES * self.rates

    def keep(self, label: int, most: int) -> None:
        """Keep the first `most` images of a class; the share of real images among them is rounded down."""
        if most >= self.count(label):
            return
        sets: list[DistilledSet] = []
        for index, ds in enumerate(self.sets):
            others = np.flatnonzero(ids_of(ds)[ds.labels] != label)
            rows = np.sort(np.concatenate([others, self._first(index, label, most)]))
            if len(rows):
                sets.append(ds.take(rows))
            if self.views is not None:
                self.views = self.views.take(rows)
        self.sets, self._decoded = tuple(sets), None

    def exchange(self, sets: Sequence[DistilledSet], *, rates: int) -> None:
        """Replace the sets by sets of the same classes, which have `rates` learned learning rates."""
        self.sets, self.rates, self._decoded = tuple(sets), rates, None

    def _first(self, index: int, label: int, most: int) -> np.ndarray:
        """Rows of a class in set `index` that are left when the class keeps at most `most` images."""
        rows = rows_of(self.sets[index], label)
        if most >= self.count(label):
            return rows
        real = int(most * self.real_share)
        return rows[: real if index else most - real]


class ClassImages(ExemplarsBuffer):
    """A class of an experience: the rows of the experience's sets with this label.

    Where soft labels are a network's outputs (`logits`), the items of `buffer` carry them, as in DER.
    """

    def __init__(self, held: Held, label: int) -> None:
        super().__init__(held.count(label))
        self.held, self.label = held, label
        self._made: tuple[object, AvalancheDataset] | None = None

    @property
    def images(self) -> UInt8[Tensor, "n C H W"]:
        """uint8 (n, C, H, W) images that networks see."""
        return torch.cat([part.images[part.ids == self.label] for part in self.held.decoded])

    @property
    def soft(self) -> Float[Tensor, "n K"] | None:
        """(n, K) soft labels of `images`, a column for each class of the experience's sets, or None."""
        parts = zip(self.held.sets, self.held.decoded, strict=True)
        soft = [
            torch.from_numpy(ds.targets[part.rows[part.ids == self.label].numpy()]).float()
            for ds, part in parts
            if ds.targets is not None
        ]
        return torch.cat(soft) if soft else None

    @property
    def views(self) -> StoredViews:
        """The labelled views of `images`, in a memory with a bank."""
        assert self.held.views is not None
        return self.held.views.take(rows_of(self.held.sets[0], self.label))

    @property
    def meaning(self) -> Meaning:
        """Type and value of the label that items carry."""
        return self.held.like[self.label].meaning

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the experience's real images."""
        return self.held.fingerprint

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride] (the sets decide)
        """The images as Avalanche's data, in the experience's own transforms."""
        key = self.held.sets
        if self._made is None or self._made[0] is not key:
            logits = self.soft if self.held.sets[0].manifest.targets == "logits" else None
            data = replay_dataset(self.images, self.label, self.held.like[self.label], logits=logits)
            self._made = key, data
        return self._made[1]

    @buffer.setter
    def buffer(self, new_buffer: AvalancheDataset) -> None:
        raise NotImplementedError("the images of a class are rows of its experience's set; change that set")

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep the first `new_size` stored images; see `Held.keep`."""
        self.max_size = new_size
        self.held.keep(self.label, new_size)
