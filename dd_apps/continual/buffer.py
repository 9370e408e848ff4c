"""`DistilledBuffer`: a storage policy for Avalanche that keeps distilled images instead of real ones.

    buffer = DistilledBuffer(max_size=10, images_per_class=1, method="dm", fill=32)
    plugin = ReplayPlugin(mem_size=10, batch_size_mem=32, storage_policy=buffer)

Each class is distilled once, when its experience is handed over, from that experience's images alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from dd_apps.continual.adapter import (
    AvalancheDataset,
    BalancedExemplarsBuffer,
    ClassBalancedBuffer,
    ExemplarsBuffer,
    RawClass,
    classes_ahead,
    classes_in,
    classes_of,
    concat_datasets,
    filled,
    raw_class,
    replay_dataset,
)
from dd_apps.continual.config import for_particular_weights, memory_config
from dd_apps.continual.labels import batched_with
from dd_core.distilled import Provenance, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError
from dd_core.exchange import with_weights_kept
from dd_core.images import LabelledImages
from dd_core.recipe import DISTRIBUTIONS
from dd_core.runner import RunOptions, distill
from dd_core.store import read_json
from dd_core.streams import counter
from dd_core.system import surroundings


class ClassImages(ExemplarsBuffer):
    """The distilled images of one class, uint8 (n, C, H, W)."""

    def __init__(self, images: UInt8[Tensor, "n C H W"], label: int, like: RawClass, *, fingerprint: str) -> None:
        super().__init__(len(images))
        self.meaning = like.meaning
        self.images, self.label, self.fingerprint = images, label, fingerprint
        self._like = replace(like, images=images[:0])  # not the real images
        self.buffer = replay_dataset(images, label, self._like)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep the first `new_size` images."""
        self.max_size = new_size
        if new_size < len(self.images):
            self.images = self.images[:new_size].clone()
            self.buffer = replay_dataset(self.images, self.label, self._like)


class DistilledBuffer(BalancedExemplarsBuffer[ClassImages]):
    """Distilled images, a group for each class seen, for any plugin that takes a storage policy.

    `max_size` counts distinct images, whatever their number in `buffer`. When more classes arrive than
    `images_per_class` leaves room for, the older ones keep only their first images, equally many of each. A class of
    fewer real images is distilled into as many; the rest of its share stays empty.

    An image is labelled as its experience labels the items of its class, in the same type and by the same target
    transforms. The groups are keyed by Avalanche's class ids, as `targets` has them before those transforms.

    `fill` is the number of memory images in a mini-batch, `batch_size_mem` of the plugin: `buffer` then repeats
    the stored images until such a part comes out full. Without it each image is in `buffer` once, and
    Avalanche's loader draws no more than that against a full batch of current images. `method` is a name, a
    table such as `{"name": "dm", "steps": 500}`, or a config. `data` names the images: a method does not mirror
    "digits". With a `folder`, every distilled set is written there, and found again by the next run.

    `provenances` and `seconds` say how the images were made, and what that cost over all the runs that it took.
    """

    def __init__(
        self,
        max_size: int,
        *,
        images_per_class: int,
        method: str | Mapping[str, Any] | MethodConfig = "dm",
        seed: int = 0,
        fill: int | None = None,
        data: str = "avalanche",
        folder: Path | str | None = None,
        device: str = "cpu",
    ) -> None:
        """Raises `UserError` for an unknown method or option, for a memory smaller than one class, and for a method
        whose set trains networks from particular weights only.
        """
        super().__init__(max_size, adaptive_size=True)
        if not 1 <= images_per_class <= max_size:
            raise UserError(f"images_per_class must be from 1 to max_size ({max_size}), not {images_per_class}")
        if fill is not None and fill < 1:
            raise UserError(f"fill must be at least 1, not {fill}")
        self.images_per_class, self.seed, self.fill, self.data = images_per_class, seed, fill, data
        self.config = with_weights_kept(memory_config({"name": method} if isinstance(method, str) else method))
        self.folder = None if folder is None else Path(folder)
        self.device = device
        self.provenances: list[Provenance] = []
        self.seconds = 0.0
        self._joined: AvalancheDataset | None = None

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride] (Avalanche's setter does nothing)
        """All images as a data set of (image, label, task label), in the experiences' own transforms."""
        if self._joined is None:  # Avalanche joins the groups anew at every access
            self._joined = filled(concat_datasets(self.buffer_datasets), self.fill)
        return self._joined

    @property
    def nbytes(self) -> int:
        """Bytes of the stored pixels; a repetition costs nothing."""
        return sum(group.images.nbytes for group in self.buffer_groups.values())

    def check_benchmark(self, benchmark: Any) -> None:
        """Raise `UserError` where the memory has no room for all classes of a benchmark's training stream.

        benchmark: an Avalanche benchmark, a stream, or a list of experiences. Targets are counted, and no image is
        read. A stream that makes its experiences one by one cannot be counted, and passes.
        """
        self._require_room(classes_in(getattr(benchmark, "train_stream", benchmark)))

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Distil the classes of `exp` from `exp.dataset`; Avalanche calls it after (GDumb: before) training.

        Raises what `update_from_dataset` raises, and at the first experience what `check_benchmark` raises for the
        stream that the experience comes from.
        """
        if not self.buffer_groups:
            self._require_room(classes_ahead(exp))
        self.update_from_dataset(exp.dataset, agent_state)

    def update_from_dataset(self, new_data: AvalancheDataset, strategy: Any = None) -> None:
        """Distil each class of `new_data` from it alone.

        A class that was distilled from these very images before is left as it is. Raises `UserError` for one
        that comes back with others, for images that are not raw, for labels that are no integers or differ within a
        class, where a class would get no room, and for a set that trains networks from particular weights only.
        """
        members = classes_of(new_data)
        if not members:
            return
        raw = {label: raw_class(new_data, label, positions) for label, positions in members.items()}
        source = _source(raw, self.data)
        known = [label for label in raw if label in self.buffer_groups]
        for label in known:
            if self.buffer_groups[label].fingerprint != source.fingerprint():
                raise UserError(
                    f"class {label} comes back in a later experience; a DistilledBuffer distils each class once, "
                    "from the one experience that has it"
                )
        if known:
            return
        _require_one_kind({**self.buffer_groups, **raw})
        per_class = self._room(len(self.buffer_groups) + len(raw), self.max_size)
        for label, images in self._distilled(source, raw, per_class).items():
            self.buffer_groups[label] = ClassImages(images, label, raw[label], fingerprint=source.fingerprint())
        self._shrink(strategy, per_class)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change `max_size`; if need be each class keeps its first images, equally many of each.

        Raises `UserError` where a class would keep none; nothing is changed then.
        """
        per_class = self._room(len(self.buffer_groups), new_size)
        self.max_size = new_size
        self._shrink(strategy, per_class)

    def _room(self, classes: int, max_size: int) -> int:
        per_class = self.images_per_class if classes == 0 else min(self.images_per_class, max_size // classes)
        if per_class < 1:
            raise UserError(f"a memory of {max_size} images has no room for {classes} classes; make max_size {classes}")
        return per_class

    def _require_room(self, classes: set[int]) -> None:
        self._room(len(classes | self.buffer_groups.keys()), self.max_size)

    def _shrink(self, strategy: Any, per_class: int) -> None:
        for group in self.buffer_groups.values():
            group.resize(strategy, per_class)
        self._joined = None

    def _distilled(self, source: LabelledImages, raw: Mapping[int, RawClass], per_class: int) -> dict[int, Tensor]:
        labels = list(raw)
        name = "-".join(map(str, labels[:8])) + f"-{source.fingerprint()[:8]}"
        out = None if self.folder is None else self.folder / f"{name}.safetensors"
        begun = time.monotonic()
        ds = distill(
            self.config,
            source,
            Size.of([min(per_class, len(members.images)) for members in raw.values()]),
            seed=counter(self.seed, "experience", labels[0]),
            out=out,
            options=RunOptions(device=self.device),
        ).quantised()
        if ds.manifest.recipe.initialisation not in DISTRIBUTIONS:
            raise UserError(f"this is {for_particular_weights(self.config.name)}")
        if ds.targets is not None or ds.whitening is not None:
            what = "soft labels" if ds.targets is not None else "whitened pixels"
            raise UserError(f"{self.config.name}: its set has {what}, and a memory keeps plain images and hard labels")
        assert ds.labels is not None
        assert ds.manifest.provenance is not None
        self.provenances.append(ds.manifest.provenance)
        self.seconds += time.monotonic() - begun if out is None else _seconds_of(out)
        return {label: torch.from_numpy(ds.images[ds.labels == index]) for index, label in enumerate(labels)}


class FilledClassBalancedBuffer(ClassBalancedBuffer):
    """Avalanche's memory of real images, repeated as `DistilledBuffer` repeats its own: for fair comparisons."""

    def __init__(self, max_size: int, *, total_num_classes: int | None = None, fill: int | None = None) -> None:
        super().__init__(max_size, adaptive_size=total_num_classes is None, total_num_classes=total_num_classes)
        self.fill = fill

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride] (Avalanche's setter does nothing)
        """All images, each as often as the filling asks for."""
        return filled(concat_datasets(self.buffer_datasets), self.fill)


def _seconds_of(out: Path) -> float:
    """What distilling into `out` took, in this and in earlier runs; 0 where somebody removed the record of it."""
    record = out.with_suffix(".run") / "run.json"
    return float(read_json(record)["seconds"]) if record.exists() else 0.0


def _require_one_kind(classes: Mapping[int, RawClass | ClassImages]) -> None:
    """Raise `UserError` where the labels of two classes do not go into one mini-batch."""
    (first, start), *others = classes.items()
    for label, other in others:
        if not batched_with(start.meaning, other.meaning):
            raise UserError(
                f"the items of class {first} carry labels of type {start.meaning[0]}, and those of class {label} "
                f"{other.meaning[0]}; PyTorch makes no mini-batch of both, so give all experiences labels of one type"
            )


@surroundings.own()
def _source(raw: Mapping[int, RawClass], name: str) -> LabelledImages:
    """The experience as a source with classes 0.. in ascending order of Avalanche's class ids."""
    shapes = sorted({tuple(members.images.shape[1:]) for members in raw.values()})
    if len(shapes) > 1:
        raise UserError(f"the classes of this experience differ in image size: {shapes[0]} and {shapes[1]}")
    images = torch.cat([members.images for members in raw.values()])
    labels = torch.cat([torch.full((len(members.images),), index) for index, members in enumerate(raw.values())])
    return LabelledImages(images, labels, tuple(map(str, raw)), name)
