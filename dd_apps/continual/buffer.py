"""`DistilledBuffer`: a storage policy for Avalanche that keeps distilled images instead of real ones.

    buffer = DistilledBuffer(max_size=10, images_per_class=1, method="dm", fill=32)
    plugin = ReplayPlugin(mem_size=10, batch_size_mem=32, storage_policy=buffer)

Each class is distilled once, when Avalanche hands its experience to the buffer, from that experience's images alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import JsonValue
from torch import Tensor

from dd_apps.continual.adapter import (
    AvalancheDataset,
    BalancedExemplarsBuffer,
    RawClass,
    classes_ahead,
    classes_in,
    classes_of,
    concat_datasets,
    filled,
    raw_class,
)
from dd_apps.continual.config import for_particular_weights, memory_config
from dd_apps.continual.memory import saving
from dd_apps.continual.memory.arriving import images_of, pixel_counts, require_one_kind, source_of
from dd_apps.continual.memory.banks import StoredViews, checked_epochs, labelled_by_teacher
from dd_apps.continual.memory.budget import Budget
from dd_apps.continual.memory.by_hand import as_experience
from dd_apps.continual.memory.holding import ClassImages, Held
from dd_apps.continual.memory.network_at_hand import require_network
from dd_apps.continual.memory.saving import KeptExperience, Record
from dd_apps.continual.memory.showing import require_viewable
from dd_apps.continual.memory.soft_labels import (
    BY_NETWORK,
    LABEL_BYTES,
    LABELS,
    Labels,
    labelled_by_network,
    require_fitting,
)
from dd_apps.continual.rows import bank_bytes
from dd_core.datasets.plain import Images
from dd_core.distilled import DistilledSet, Pixels, Provenance, Size
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError, unknown_name
from dd_core.exchange import with_weights_kept
from dd_core.images import LabelledImages, stats_of_counts
from dd_core.recipe import DISTRIBUTIONS, Recipe
from dd_core.runner import Reporter, RunOptions, distill, seconds_of
from dd_core.selection import join
from dd_core.streams import counter, require_seed
from dd_core.system.progress import Progress

Shrinking = Literal["first", "distil"]
SHRINKING: tuple[Shrinking, ...] = ("first", "distil")


class DistilledBuffer(BalancedExemplarsBuffer[ClassImages]):
    """A storage policy of distilled images: a set for each experience, and a group for each class seen.

    `max_size` limits the number of stored images; repetitions in `buffer` do not count. When more classes arrive than
    `images_per_class` leaves room for, older classes keep only their first images, equally many each. A class with
    fewer real images than its share is distilled into as many as it has, and the rest of its share stays empty.

    Budgets in bytes limit `nbytes` (pixels, soft labels, views, learned rates): `max_bytes` is shared equally by the
    classes seen so far, as `max_size` is; `bytes_per_class` holds for each class alone, so that the memory grows. With
    either, `images_per_class` may be left out. `resize` and new classes make a class's share smaller. `shrinking` says
    what the class then keeps: "first", its first images; "distil", fewer images, which the method distils from those
    that the memory has.

    `labels` are the targets that a network learns for an image. "hard": its class; sets with soft labels are refused.
    "stored": the soft labels that the method made. "network": class probabilities by the strategy's network as it is
    when the experience ends, over the classes seen so far. "logits": all outputs of that network, which DER replays.
    "bank": `bank_epochs` views of each image, with logits of the method's own teacher, which was trained on the
    experience's real images alone. All but "hard" need `SoftLabelReplay`; "logits" also work with DER.

    An image is labelled as its experience labels the items of its class, in the same type and by the same target
    transforms. The groups are keyed by Avalanche's class ids, as `targets` has them before those transforms; `sets`
    name their classes by these ids.

    `fill` is the number of memory images in a mini-batch, `batch_size_mem` of the plugin: `buffer` then repeats the
    stored images until every mini-batch has its full part of them. Without `fill` each image is in `buffer` once, and
    Avalanche's loader draws no more than that against a full batch of current images. `method` is a name, a table such
    as `{"name": "dm", "steps": 500}`, or a config. `data` is the images' name: methods do not mirror "digits". With a
    `folder`, each distilled set is written there, and the next run uses it. `reporter` receives the progress; by
    default, work of more than some seconds shows a bar, or lines in a log, and `Silent()` shows nothing.

    `provenances` say how the images were made, and `seconds` how long that took over all resumed runs; of labelling a
    bank's views, only the time in this process counts, which is next to none if the cache has them.
    """

    real_share = Fraction(0)  # fraction of a class's images that are real; above 0 in a hybrid memory

    def __init__(
        self,
        max_size: int,
        *,
        images_per_class: int | None = None,
        max_bytes: int | None = None,
        bytes_per_class: int | None = None,
        method: str | Mapping[str, Any] | MethodConfig = "dm",
        labels: Labels = "hard",
        bank_epochs: int | None = None,
        shrinking: Shrinking = "first",
        seed: int = 0,
        fill: int | None = None,
        data: str = "avalanche",
        folder: Path | str | None = None,
        device: str = "cpu",
        reporter: Reporter | None = None,
    ) -> None:
        """Raises `UserError` for an unknown method or option, for a memory smaller than one class, for a method whose
        set trains networks from particular weights only, and for a bank by a method without a teacher.
        """
        super().__init__(max_size, adaptive_size=True)
        self.images_per_class, self.max_bytes, self.bytes_per_class = images_per_class, max_bytes, bytes_per_class
        self._budget(max_size).check()
        if fill is not None and fill < 1:
            raise UserError(f"fill must be at least 1, not {fill}")
        if labels not in LABELS:
            raise unknown_name("kind of labels", labels, LABELS)
        if shrinking not in SHRINKING:
            raise unknown_name("rule of shrinking", shrinking, SHRINKING)
        self.labels: Labels = labels
        self.shrinking: Shrinking = shrinking
        self.for_der = False  # whether DER asks for `buffer`, and learns the logits of its items
        self.seed, self.fill, self.data = require_seed(seed), fill, data
        self.config = with_weights_kept(memory_config(method))
        self.bank_epochs = checked_epochs(bank_epochs, self.config, labels, shrinking)
        self.folder = None if folder is None else Path(folder)
        self.device, self.reporter = device, reporter or Progress()
        self.provenances: list[Provenance] = []
        self.seconds = 0.0
        self._held: list[Held] = []
        self._counts: list[Tensor] = []  # of each experience, how often each pixel value occurs in its real images
        self._joined: AvalancheDataset | None = None

    @property
    def buffer(self) -> AvalancheDataset:  # pyright: ignore[reportIncompatibleMethodOverride] (Avalanche's setter does nothing)
        """All images as a data set of (image, label, task label), in the experiences' own transforms.

        Where `use_buffer` gave DER a memory of logits, an item's last value is its logits. Raises `UserError` for any
        other memory with soft labels, since a plugin that reads `buffer` would ignore them.
        """
        if self.labels != "hard" and not self.for_der:
            by_der = ", or by DER after use_buffer" if self.labels == "logits" else ""
            raise UserError(
                f"a memory with labels='{self.labels}' is learned by SoftLabelReplay{by_der}; ReplayPlugin and its "
                "like learn labels='hard'"
            )
        if self._joined is None:  # Avalanche joins the groups anew at every access
            self._joined = filled(self.items, self.fill)
        return self._joined

    @property
    def items(self) -> AvalancheDataset:
        """The items of `buffer`, each image once; unlike `buffer`, for every kind of labels."""
        return concat_datasets(self.buffer_datasets)

    @property
    def sets(self) -> tuple[DistilledSet, ...]:
        """The stored sets, one for each experience; in a hybrid memory a set of real exemplars follows each of them."""
        return tuple(ds for held in self._held for ds in held.sets)

    def joined(self, *, recipe: Recipe | None = None, pixels: Pixels | None = None) -> DistilledSet:
        """All stored sets as one set, whose classes are named by Avalanche's class ids.

        recipe: of the joined set; None: the recipe that all sets have. pixels: normalisation of the joined set; None:
        the mean and std of all real images distilled so far. Raises what `join` raises, as for recipes with learned
        rates, and `UserError` for an empty memory.
        """
        if not self._held:
            raise UserError("the memory is empty: no experience was handed to it yet")
        mean, std = stats_of_counts(torch.stack(self._counts).sum(0))
        return join(self.sets, recipe=recipe, pixels=pixels or Pixels(space="raw", mean=mean, std=std))

    @property
    def nbytes(self) -> int:
        """Bytes of pixels as stored, soft labels, views and learned rates; repetitions in `buffer` do not count."""
        return sum(held.nbytes() for held in self._held)

    @property
    def outputs_of(self) -> dict[int, int]:
        """Class id -> the label that items of the class carry, which is the index of the class's network output."""
        return {label: group.meaning[1] for label, group in self.buffer_groups.items()}

    @property
    def asks_network(self) -> bool:
        """Whether the strategy's network must have learned an experience before the memory sees it."""
        return self.labels in BY_NETWORK

    def check_benchmark(self, benchmark: Any) -> None:
        """Raise `UserError` where the memory has no room for all classes of a benchmark's training stream.

        benchmark: an Avalanche benchmark, a stream, or a list of experiences. Targets are counted, and no image is
        read, but for one where the budget is in bytes. A stream that makes its experiences one by one cannot be
        counted, and passes.
        """
        stream = getattr(benchmark, "train_stream", benchmark)
        classes = classes_in(stream)
        image_bytes = 0
        if classes and self._budget(self.max_size).counts_bytes:
            first = classes_of(stream[0].dataset)
            label, positions = next(iter(first.items()))
            image_bytes = raw_class(stream[0].dataset, label, positions[:1]).images.nbytes
            image_bytes += bank_bytes(self.bank_epochs, len(first))
        self._require_room(classes, image_bytes)

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Distil the classes of `exp` from `exp.dataset`; Avalanche calls it after (GDumb, ER_ACE: before) training.

        Raises what `update_from_dataset` raises, and at the first experience what `check_benchmark` raises for the
        stream that the experience comes from.
        """
        self._adopt(exp.dataset, agent_state, ahead=classes_ahead(exp) if not self.buffer_groups else set())

    def update_from_dataset(self, new_data: AvalancheDataset | Images, strategy: Any = None) -> None:
        """Distil each class of `new_data` (Avalanche's data, or data that `as_experience` takes) from it alone.

        A class that was distilled from the same images before stays as it is. Raises `UserError` for a class that comes
        back with other images, for images that are not raw, for labels that are no integers or differ within a class,
        where a class would get no room, for a set that trains networks from particular weights only, and without a
        strategy if the strategy's network has to label or embed.
        """
        self._adopt(as_experience(new_data), strategy, ahead=set())

    def _adopt(self, new_data: AvalancheDataset, strategy: Any, *, ahead: set[int]) -> None:
        if not self._budget(self.max_size).counts_bytes:
            self._require_room(ahead, 0)  # before any image is read
        members = classes_of(new_data)
        if not members:
            return
        if self.asks_network:
            require_network(strategy)
        raw = {label: raw_class(new_data, label, positions) for label, positions in members.items()}
        source = source_of(images_of(raw), self.data)
        known = [label for label in raw if label in self.buffer_groups]
        for label in known:
            if self.buffer_groups[label].fingerprint != source.fingerprint():
                raise UserError(
                    f"class {label} comes back in a later experience; a DistilledBuffer distils each class once, "
                    "from the one experience that has it"
                )
        if known:
            return
        require_one_kind({**self.buffer_groups, **raw})
        if self.bank_epochs is not None:
            require_viewable(raw, self.config.recipe)
        image_bytes = source.images[:1].nbytes + bank_bytes(self.bank_epochs, len(raw))
        self._require_room(ahead, image_bytes)
        per_class = self._room(self.buffer_groups.keys() | raw.keys(), self.max_size, image_bytes)
        held = self._made(source, raw, per_class, strategy)
        per_class = self._fitting([*self._held, held], per_class, new=held)
        self._hold(held, source)
        self._shrink(strategy, per_class)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change `max_size`; if need be each class keeps its first images, equally many of each.

        Raises `UserError` where a class would keep none; nothing is changed then.
        """
        image_bytes = max((ds.images[:1].nbytes for ds in self.sets), default=1)
        per_class = self._room(self.buffer_groups, new_size, image_bytes)
        per_class = self._fitting(self._held, per_class) if self._held else per_class
        self.max_size = new_size
        self._shrink(strategy, per_class)

    def save(self, folder: Path | str) -> None:
        """Write the memory to a folder of its own, for `restore`; call `save` between experiences."""
        experiences = map(KeptExperience.of, self._held, self.provenances)
        record = Record(
            options=self._options(), max_size=self.max_size, seconds=self.seconds, experiences=tuple(experiences)
        )
        saving.write(Path(folder), record, self.sets, [held.views for held in self._held if held.views is not None])

    def restore(self, folder: Path | str, experiences: Sequence[Any]) -> None:
        """Load what another memory saved; nothing is distilled or labelled again.

        experiences: the experiences that the saved memory had seen, in the same order; its images go through their
        transforms. Raises `UserError` for a memory with other options, for other experiences or images, and where this
        memory is in use already.
        """
        if self._held:
            raise UserError("this memory has images already; restore into a new one")
        record, sets, views = saving.read(Path(folder), self._options())
        if len(experiences) != len(record.experiences):
            raise UserError(
                f"{folder} has the memory of {len(record.experiences)} experiences, and {len(experiences)} were given"
            )
        for number, (kept, exp) in enumerate(zip(record.experiences, experiences, strict=True)):
            raw = {label: raw_class(exp.dataset, label, rows) for label, rows in classes_of(exp.dataset).items()}
            source = source_of(images_of(raw), self.data)
            if source.fingerprint() != kept.fingerprint:
                raise UserError(f"{folder}: experience {number} has other images or classes than the memory has seen")
            held = Held(
                [sets[digest] for digest in kept.sets],
                raw,
                fingerprint=kept.fingerprint,
                rates=kept.rates,
                real_share=self.real_share,
                views=None if kept.views is None else views[kept.views],
            )
            self._hold(held, source)
            self.provenances.append(kept.provenance)
        self.max_size, self.seconds, self._joined = record.max_size, record.seconds, None

    def _options(self) -> dict[str, JsonValue]:
        """All that determines the memory, but for the experiences and the strategy's networks."""
        return {
            "kind": type(self).__name__,
            "method": self.config.name,
            "config": self.config.model_dump(mode="json"),
            "labels": self.labels,
            "bank_epochs": self.bank_epochs,
            "shrinking": self.shrinking,
            "seed": self.seed,
            "data": self.data,
            "images_per_class": self.images_per_class,
            "max_bytes": self.max_bytes,
            "bytes_per_class": self.bytes_per_class,
        }

    def _hold(self, held: Held, source: LabelledImages) -> None:
        self._held.append(held)
        self._counts.append(pixel_counts(source))
        self.buffer_groups.update({label: ClassImages(held, label) for label in held.like})

    def _budget(self, max_size: int) -> Budget:
        return Budget(max_size, self.images_per_class, self.max_bytes, self.bytes_per_class)

    def _room(self, classes: Collection[int], max_size: int, pixel_bytes: int) -> int:
        """Images of a class that fit, each of `pixel_bytes` and of the network's soft label over `classes`, if any."""
        label_bytes = LABEL_BYTES * len(classes) if self.labels in BY_NETWORK else 0
        return self._budget(max_size).room(len(classes), pixel_bytes + label_bytes)

    def _require_room(self, classes: set[int], pixel_bytes: int) -> None:
        if not self._budget(self.max_size).counts_bytes or pixel_bytes:
            self._room(classes | self.buffer_groups.keys(), self.max_size, pixel_bytes)

    def _fitting(self, held: Sequence[Held], per_class: int, *, new: Held | None = None) -> int:
        newest = new or held[-1]
        return self._budget(self.max_size).fitting(
            per_class,
            sum(len(part.like) for part in held),
            len(newest.like),
            lambda count: sum(part.nbytes(count) for part in held),
            newest.nbytes,
        )

    def _shrink(self, strategy: Any, per_class: int) -> None:
        if self.shrinking == "distil":
            self._distil_again(strategy, per_class)
        for group in self.buffer_groups.values():
            group.resize(strategy, per_class)
        self._joined = None

    def _distil_again(self, strategy: Any, per_class: int) -> None:
        """Distil the stored images of each experience into at most `per_class` images of a class."""
        for number, held in enumerate(self._held):
            if all(held.count(label) <= per_class for label in held.like):
                continue
            images = {label: ClassImages(held, label).images for label in held.like}
            counts = [min(per_class, held.count(label)) for label in held.like]
            ds = self._distilled(source_of(images, self.data), list(images), counts)
            self.provenances[number] = _provenance(ds)
            held.exchange(
                self._labelled([ds], held.like, self.outputs_of, strategy),
                rates=ds.manifest.recipe.learned_rates(self.config.recipe),
            )

    def _made(self, source: LabelledImages, raw: Mapping[int, RawClass], per_class: int, strategy: Any) -> Held:
        """The experience's images, at most `per_class` of a class, distilled and labelled."""
        counts = [min(per_class, len(members.images)) for members in raw.values()]
        ds = self._distilled(source, list(raw), [count - int(count * self.real_share) for count in counts])
        self.provenances.append(_provenance(ds))
        sets = self._completed(ds, raw, [int(count * self.real_share) for count in counts], strategy)
        seen = self.outputs_of | {label: members.meaning[1] for label, members in raw.items()}
        sets, views = self._labelled(sets, raw, seen, strategy), self._views(ds, source)
        return Held(
            sets,
            raw,
            fingerprint=source.fingerprint(),
            rates=ds.manifest.recipe.learned_rates(self.config.recipe),
            real_share=self.real_share,
            views=views,
        )

    def _views(self, ds: DistilledSet, source: LabelledImages) -> StoredViews | None:
        """The labelled views of a set that was distilled from `source`; None in a memory without a bank."""
        if self.bank_epochs is None:
            return None
        begun, seed = time.monotonic(), counter(self.seed, "bank", int(source.classes[0]))
        options = RunOptions(device=self.device, reporter=self.reporter)
        views = labelled_by_teacher(ds, source, self.config, epochs=self.bank_epochs, seed=seed, options=options)
        self.seconds += time.monotonic() - begun
        return views

    def _labelled(
        self, sets: list[DistilledSet], like: Mapping[int, RawClass], seen: Mapping[int, int], strategy: Any
    ) -> list[DistilledSet]:
        """The sets, labelled by the strategy's network over the classes `seen` if `labels` is of that kind."""
        if self.labels not in BY_NETWORK:
            return sets
        return [labelled_by_network(ds, strategy, like, seen, self.labels) for ds in sets]

    def _completed(
        self, ds: DistilledSet, raw: Mapping[int, RawClass], real: Sequence[int], strategy: Any
    ) -> list[DistilledSet]:
        """The distilled set, and after it the further sets that a subclass keeps; here none."""
        del raw, real, strategy
        return [ds]

    def _distilled(self, source: LabelledImages, labels: Sequence[int], counts: Sequence[int]) -> DistilledSet:
        """`counts[i]` distilled images of the class `labels[i]`, uint8."""
        name = "-".join(map(str, labels[:8])) + f"-{source.fingerprint()[:8]}"
        out = None if self.folder is None else self.folder / f"{name}.safetensors"
        begun = time.monotonic()
        with self.reporter.stage(f"memory of classes {', '.join(map(str, labels[:8]))}", total=1) as stage:
            ds = distill(
                self.config,
                source,
                Size.of(counts),
                seed=counter(self.seed, "experience", labels[0]),
                out=out,
                options=RunOptions(device=self.device, reporter=self.reporter),
            ).quantised()
            stage.advance()
        if ds.manifest.recipe.initialisation not in DISTRIBUTIONS:
            raise UserError(f"this is {for_particular_weights(self.config.name)}")
        require_fitting(ds, self.labels, self.config.name)
        self.seconds += time.monotonic() - begun if out is None else seconds_of(out)
        return ds


def _provenance(ds: DistilledSet) -> Provenance:
    assert ds.manifest.provenance is not None
    return ds.manifest.provenance
