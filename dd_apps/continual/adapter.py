"""The one module that uses the internals of Avalanche 0.6: its datasets, its benchmarks, its side effects.

Avalanche keeps an experience's images in a tree: leaves hold the user's own data set, and each level above may
add transforms of images and of labels (groups named "train", "eval", ...). A replay memory of synthetic images has to
hang new leaves below the same transforms, so this module can take the two apart and put them together again.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import Dataset

from dd_apps.continual.labels import Meaning, copied, meaning, shown
from dd_core.datasets.raw_pixels import Form, from_uint8, to_uint8
from dd_core.errors import UserError
from dd_core.lazy import require
from dd_core.system.surroundings.generators import generators_kept, generators_seeded


@contextmanager
def warnings_contained() -> Iterator[None]:
    """Undo Avalanche's process-wide warning filters after the block, and drop deprecation warnings raised in it."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if not issubclass(warning.category, DeprecationWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


with warnings_contained():
    require("avalanche.training", called="Avalanche", use="continual learning", extra="continual")
    from avalanche.benchmarks import CLExperience, EagerCLStream, SequenceCLStream, nc_benchmark
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import (
        ClassificationDataset,
        TaskAwareClassificationDataset,
    )
    from avalanche.benchmarks.utils.flat_data import ConstantSequence
    from avalanche.benchmarks.utils.transform_groups import TransformGroups
    from avalanche.benchmarks.utils.transforms import (
        MultiParamCompose,
        MultiParamTransform,
        MultiParamTransformCallable,
        TupleTransform,
    )
    from avalanche.benchmarks.utils.utils import concat_datasets
    from avalanche.core import SupervisedPlugin
    from avalanche.models import avalanche_forward
    from avalanche.training.plugins import (
        BiCPlugin,
        EvaluationPlugin,
        FromScratchTrainingPlugin,
        GDumbPlugin,
        ReplayPlugin,
        bic,
    )
    from avalanche.training.storage_policy import BalancedExemplarsBuffer, ClassBalancedBuffer, ExemplarsBuffer
    from avalanche.training.supervised import Cumulative, Naive

__all__ = [
    "AvalancheDataset",
    "BalancedExemplarsBuffer",
    "BiCPlugin",
    "ClassBalancedBuffer",
    "ClassificationDataset",
    "Cumulative",
    "DataAttribute",
    "ExemplarsBuffer",
    "FromScratchTrainingPlugin",
    "GDumbPlugin",
    "Naive",
    "RawClass",
    "ReplayPlugin",
    "SupervisedPlugin",
    "Transforms",
    "avalanche_forward",
    "classes_ahead",
    "classes_in",
    "classes_of",
    "concat_datasets",
    "contained",
    "contents",
    "filled",
    "mend_bic",
    "nc_benchmark",
    "raw_class",
    "replay_dataset",
    "silent_evaluator",
    "warnings_contained",
]


Function = Callable[[Any], Any]

_RAW = "the experience's untransformed images"
_ADVICE = (
    "distilling needs raw images (PIL, uint8, or floats in [0, 1]): hand those to the benchmark, and put "
    "ToTensor and Normalize into its train_transform and eval_transform"
)


@dataclass(frozen=True)
class Transforms:
    """The transforms that Avalanche applies to an item between a leaf and the network.

    images, labels: name of a group of transforms -> functions of an image, or of a label, in order; active: the group
    that is applied to the experience's items.
    """

    images: dict[str, list[Function]]
    labels: dict[str, list[Function]]
    active: str


@dataclass(frozen=True)
class RawClass:
    """The images of one class of one experience as the leaves hold them, and the transforms above the leaves.

    images: uint8 (n, C, H, W); label: the label in the leaf, before any transform of labels; meaning: type and value of
    the label that the experience's items carry; task: task label, None for data without task labels.
    """

    images: Tensor
    form: Form
    label: Any
    meaning: Meaning
    transforms: Transforms
    task: int | None


def classes_of(data: AvalancheDataset) -> dict[int, list[int]]:
    """Class id -> positions of its images, in ascending order of the ids; raises `UserError` without such targets."""
    members: dict[int, list[int]] = {}
    for position, target in enumerate(_targets(data)):
        members.setdefault(target, []).append(position)
    return dict(sorted(members.items()))


def _targets(data: Any) -> list[int]:
    targets = getattr(data, "targets", None)
    if targets is None:
        raise UserError("the experience's data set has no targets: a class-incremental benchmark is needed")
    return [meaning(target, of="the targets of the experience's data set")[1] for target in targets]


def classes_ahead(exp: Any) -> set[int]:
    """Class ids of an experience and of those that come after it in its stream; see `classes_in`.

    The set is empty for an `EagerCLStream`: the experiences of a slice name the whole stream as their origin, so it is
    unknown whether training goes over a slice such as `stream[:2]` or over the whole stream.
    """
    if not isinstance(exp, CLExperience):
        return set()
    view: Any = exp.logging()  # in training mode an experience hides its stream
    stream = view._origin_stream
    if not isinstance(stream, SequenceCLStream) or isinstance(stream, EagerCLStream):
        return set()
    places = range(len(stream)) if stream.slice_ids is None else stream.slice_ids
    first = view._current_experience
    return classes_in(stream, [position for position, place in enumerate(places) if place >= first])


def classes_in(stream: Any, positions: Sequence[int] | None = None) -> set[int]:
    """Class ids of a stream or of a list of experiences, of all experiences or of those at `positions`.

    Targets are read, and no image is. The set is empty for a stream that makes its experiences lazily: reading all
    targets would make, and keep in memory, the data sets of all experiences.
    """
    if not isinstance(stream, Sequence) or _is_lazy(stream):
        return set()
    wanted = range(len(stream)) if positions is None else positions
    return {target for position in wanted for target in _targets(stream[position].dataset)}


def _is_lazy(stream: Any) -> bool:
    definitions: Any = getattr(getattr(stream, "benchmark", None), "stream_definitions", {})
    definition = definitions.get(getattr(stream, "name", None))
    return definition is not None and definition.is_lazy


def raw_class(data: AvalancheDataset, label: int, positions: Sequence[int]) -> RawClass:
    """The untransformed images at `positions`, which all belong to class `label`.

    The global random generators keep their states. Raises `UserError` for images that are not raw, that differ in size
    or form, or that Avalanche transforms in different ways, and for items whose labels are no integers or differ within
    the class.
    """
    flat: Any = data._flat_data  # pyright: ignore[reportPrivateUsage] (no public way leads below the transforms)
    leaves = [_leaf(flat, position) for position in positions]
    with generators_kept():
        pairs = [_pair(leaf[index]) for leaf, index, _ in leaves]
        images, forms = zip(*(to_uint8(image, of=_RAW, advice=_ADVICE) for image, _ in pairs), strict=True)
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) > 1 or len(set(forms)) > 1:
            shapes = ", ".join("x".join(map(str, size)) for size in sizes[:3])
            raise UserError(
                f"class {label}: its untransformed images are not alike ({shapes}); resize and convert them before the "
                "benchmark is made, not in its transforms"
            )
        active = flat._transform_groups.current_group
        transforms = _common(label, [_transforms(levels, active, label=label) for _, _, levels in leaves])
        labels = [own for _, own in pairs]
        carried = _meaning(data[positions[0]], label=label, labels=labels, transforms=transforms)
    task = _task(data, label, positions)
    return RawClass(torch.stack(images), forms[0], copied(labels[0]), carried, transforms, task)


def _pair(item: Any) -> tuple[Any, Any]:
    """Image and label of a leaf's item."""
    if not isinstance(item, Sequence) or len(item) != 2:
        what = f"{len(item)} values" if isinstance(item, Sequence) else f"a {type(item).__name__}"
        raise UserError(f"the experience's items hold {what}; a distilled image comes as a pair of image and label")
    return item[0], item[1]


def _common(label: int, transforms: Sequence[Transforms]) -> Transforms:
    first = transforms[0]
    if any(other is not first and other != first for other in transforms):
        raise UserError(
            f"class {label}: its images go through different transforms; a replayed image needs the same for all"
        )
    return first


def _meaning(item: Any, *, label: int, labels: Sequence[Any], transforms: Transforms) -> Meaning:
    """Type and value of the label that a real item of a class carries, and that a replayed one will carry.

    item: one real item of the class; labels: the leaves' labels of all its items. Raises `UserError` where the
    transforms of a group turn these into different labels.
    """
    for group, functions in transforms.labels.items():
        outcomes = sorted({shown(InSequence(functions)(own)) for own in labels})
        if len(outcomes) > 1:
            raise UserError(
                f"class {label}: its items carry the labels {' and '.join(outcomes[:2])} in the group '{group}'; a "
                "distilled image stands for its whole class, so all items of a class need the same label"
            )
    replayed = InSequence(transforms.labels[transforms.active])(labels[0])
    if shown(item[1]) != shown(replayed):
        raise UserError(
            f"class {label}: a real item carries the label {shown(item[1])}, and a replayed one would carry "
            f"{shown(replayed)}; labels must come from the data set and its target transforms alone"
        )
    return meaning(replayed, of=f"class {label}")


def _leaf(flat: Any, position: int) -> tuple[Any, int, list[Any]]:
    """(the user's own data set, index into it, transform groups from there upwards) of one image."""
    levels: list[Any] = []
    while hasattr(flat, "_datasets"):
        if hasattr(flat, "_transform_groups"):
            levels[:0] = [flat._frozen_transform_groups, flat._transform_groups]
        child, position = flat._get_idx(position)
        flat = flat._datasets[child]
    return flat, position, levels


def _transforms(levels: Sequence[Any], active: str, *, label: int) -> Transforms:
    names = {"train", "eval", active}.union(*(level.transform_groups for level in levels)) - {None}
    images: dict[str, list[Function]] = {}
    labels: dict[str, list[Function]] = {}
    for name in sorted(name for name in names if all(_has(level, name) for level in levels)):
        halves = [half for level in levels for half in _halves(level[name], label=label)]
        images[name] = [functions[0] for functions in halves if functions[0] is not None]
        labels[name] = [functions[1] for functions in halves if len(functions) > 1 and functions[1] is not None]
    return Transforms(images, labels, active)


def _has(level: Any, group: str) -> bool:
    """Whether a level has this group of transforms; some levels have one transform for every group."""
    return group in level.transform_groups or isinstance(level.transform_groups, defaultdict)


def _halves(step: Any, *, label: int) -> list[Sequence[Function | None]]:
    """(function of the image, function of the label) for each part of a transform, in order."""
    if step is None:
        return []
    if isinstance(step, TupleTransform):
        return [step.transforms]
    if isinstance(step, MultiParamTransformCallable):
        return _halves(step.transform, label=label)
    if isinstance(step, MultiParamCompose):
        return [half for inner in step.transforms for half in _halves(inner, label=label)]
    if isinstance(step, MultiParamTransform) or MultiParamTransformCallable(step).max_params != 1:
        raise UserError(
            f"class {label}: a transform takes image and label together ({type(step).__name__}), and would change a "
            "replayed image's label with it; give the benchmark a transform of images and one of targets"
        )
    return [(step,)]


def _task(data: AvalancheDataset, label: int, positions: Sequence[int]) -> int | None:
    attributes: Any = data._data_attributes  # pyright: ignore[reportPrivateUsage]
    extra = [
        name for name, attribute in attributes.items() if attribute.use_in_getitem and name != "targets_task_labels"
    ]
    if extra:
        raise UserError(f"the experience's items carry '{extra[0]}', which a distilled image does not have")
    if "targets_task_labels" not in attributes or not attributes["targets_task_labels"].use_in_getitem:
        return None
    tasks = {int(attributes["targets_task_labels"][position]) for position in positions}
    if len(tasks) > 1:
        raise UserError(f"class {label} belongs to several tasks: {sorted(tasks)}")
    return tasks.pop()


class InSequence:
    """A function that applies functions one after the other; unlike a closure, it can be pickled."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self.functions = list(functions)

    def __call__(self, value: Any) -> Any:
        for function in self.functions:
            value = function(value)
        return value


class StoredImages(Dataset[tuple[Any, Any]]):
    """uint8 (n, C, H, W) images of one class, returned in the form of the experience's own images (PIL, uint8, float).

    label: the label that the experience's own leaf has for an image of the class.
    """

    def __init__(self, images: Tensor, label: Any, form: Form) -> None:
        self.images, self.label, self.form = images, label, form

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return from_uint8(self.images[index], self.form), copied(self.label)


def replay_dataset(images: Tensor, label: int, like: RawClass, *, logits: Tensor | None = None) -> AvalancheDataset:
    """uint8 (n, C, H, W) images of class `label` as Avalanche's data that can be joined with `like`'s experience.

    Images and labels have the form, the transforms and the task of those in the experience. With `logits` (n, K) the
    last value of each item is its row of logits, as for Avalanche's DER.
    """
    leaf = StoredImages(images, like.label, like.form)
    transforms = like.transforms
    groups = {
        name: (InSequence(functions), InSequence(transforms.labels[name]))
        for name, functions in transforms.images.items()
    }
    attributes = [DataAttribute(ConstantSequence(label, len(leaf)), "targets")]
    kind: Any = ClassificationDataset
    if like.task is not None:
        tasks = ConstantSequence(like.task, len(leaf))
        attributes.append(DataAttribute(tasks, "targets_task_labels", use_in_getitem=True))
        kind = TaskAwareClassificationDataset
    if logits is not None:
        attributes.append(DataAttribute(cast(Any, list(logits)), "logits", use_in_getitem=True))
    data = kind([leaf], data_attributes=attributes, transform_groups=TransformGroups(groups))
    return data.with_transforms(transforms.active)


def mend_checkpoints() -> None:
    """Let Avalanche's `save_checkpoint` write a strategy with an optimiser of PyTorch's.

    `torch.optim` deletes the names of its modules, so dill does not find their classes by name and writes each by
    value, with all that the class refers to: typing_extensions too, which cannot be written. This restores the names.
    """
    for path, module in [*sys.modules.items()]:
        package, _, name = path.rpartition(".")
        if package == "torch.optim" and not hasattr(torch.optim, name):
            setattr(torch.optim, name, module)


mend_checkpoints()  # as soon as a memory is imported: no call of ours is between a strategy and `save_checkpoint`


def mend_bic() -> None:
    """Let BiC's second stage run: it hands its scheduler the argument `verbose`, which PyTorch no longer has."""
    bic.MultiStepLR = _scheduler


def _scheduler(*arguments: Any, verbose: bool = False, **options: Any) -> MultiStepLR:
    del verbose
    return MultiStepLR(*arguments, **options)


def silent_evaluator() -> EvaluationPlugin:
    """An evaluator that neither measures nor prints; Avalanche's warning about such an evaluator is suppressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EvaluationPlugin()


def filled(data: AvalancheDataset, fill: int | None) -> AvalancheDataset:
    """`data` repeated until its length is a multiple of `fill`, so that all mini-batches are full; None: unchanged."""
    if fill is None or len(data) == 0:
        return data
    return data.subset(list(range(len(data))) * (lcm(len(data), fill) // len(data)))


def contents(policy: BalancedExemplarsBuffer[Any]) -> tuple[np.ndarray, np.ndarray]:
    """All images of a memory, uint8 (N, C, H, W), and their class ids, int64 (N,), in ascending order of the ids."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, group in sorted(policy.buffer_groups.items()):
        own = getattr(group, "images", None)  # a group of ours; Avalanche's has its images below transforms
        stored = raw_class(group.buffer, label, range(len(group.buffer))).images if own is None else own
        images.append(stored.numpy())
        labels += [label] * len(stored)
    return np.concatenate(images), np.array(labels, dtype=np.int64)


@contextmanager
def contained(seed: int, stream: str) -> Iterator[None]:
    """Seed the global generators, which Avalanche draws from, within the block; then undo its warning filters."""
    with warnings_contained(), generators_seeded(seed, stream):
        yield
