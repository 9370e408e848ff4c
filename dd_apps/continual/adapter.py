"""The one place that knows Avalanche 0.6 from the inside: its datasets, its benchmarks, its side effects.

Avalanche keeps an experience's images in a tree: leaves hold the user's own data set, and each level above may
add transforms (groups named "train", "eval", ...). A replay memory of synthetic images has to hang new leaves
below the same transforms, so this module can take the two apart and put them together again.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_apps.continual.pixels import Form, from_uint8, to_uint8
from dd_core import streams
from dd_core.errors import UserError


@contextmanager
def warnings_contained() -> Iterator[None]:
    """Keep Avalanche's process-wide warning filters and its own deprecations inside; other warnings get out."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for one in caught:
        if not issubclass(one.category, DeprecationWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


with warnings_contained():
    from avalanche.benchmarks import nc_benchmark
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import (
        ClassificationDataset,
        TaskAwareClassificationDataset,
    )
    from avalanche.benchmarks.utils.flat_data import ConstantSequence
    from avalanche.benchmarks.utils.transform_groups import TransformGroups
    from avalanche.benchmarks.utils.utils import concat_datasets
    from avalanche.training.plugins import (
        EvaluationPlugin,
        FromScratchTrainingPlugin,
        GDumbPlugin,
        ReplayPlugin,
    )
    from avalanche.training.storage_policy import BalancedExemplarsBuffer, ClassBalancedBuffer, ExemplarsBuffer
    from avalanche.training.supervised import Cumulative, Naive

__all__ = [
    "AvalancheDataset",
    "BalancedExemplarsBuffer",
    "ClassBalancedBuffer",
    "Cumulative",
    "ExemplarsBuffer",
    "FromScratchTrainingPlugin",
    "GDumbPlugin",
    "Naive",
    "RawClass",
    "ReplayPlugin",
    "Transforms",
    "classes_of",
    "concat_datasets",
    "contained",
    "contents",
    "filled",
    "nc_benchmark",
    "raw_class",
    "replay_dataset",
    "silent_evaluator",
    "warnings_contained",
]


@dataclass(frozen=True)
class Transforms:
    """What Avalanche does to an image between a leaf and the network: group name -> functions, in order."""

    groups: dict[str, list[Callable[[Any], Any]]]


@dataclass(frozen=True)
class RawClass:
    """The images of one class of one experience as they lie in the leaves, and what is done to them above.

    images: uint8 (n, C, H, W); task is None for data without task labels.
    """

    images: Tensor
    form: Form
    transforms: Transforms
    task: int | None


def classes_of(data: AvalancheDataset) -> dict[int, list[int]]:
    """Class id -> positions of its images, in ascending order of the ids; raises `UserError` without targets."""
    targets = getattr(data, "targets", None)
    if targets is None:
        raise UserError("the experience's data set has no targets: a class-incremental benchmark is needed")
    members: dict[int, list[int]] = {}
    for position, target in enumerate(targets):
        members.setdefault(int(target), []).append(position)
    return dict(sorted(members.items()))


def raw_class(data: AvalancheDataset, label: int, positions: Sequence[int]) -> RawClass:
    """The untransformed images at `positions`, which all belong to class `label`.

    Raises `UserError` for images that are not raw, that differ in size or form, or that Avalanche transforms in
    different ways.
    """
    flat: Any = data._flat_data  # pyright: ignore[reportPrivateUsage] (no public way leads below the transforms)
    found = [_leaf(flat, position) for position in positions]
    images, forms = zip(*(to_uint8(leaf[index][0]) for leaf, index, _ in found), strict=True)
    sizes = sorted({tuple(image.shape) for image in images})
    if len(sizes) > 1 or len(set(forms)) > 1:
        shown = ", ".join("x".join(map(str, size)) for size in sizes[:3])
        raise UserError(
            f"class {label}: its untransformed images are not alike ({shown}); resize and convert them before the "
            "benchmark is made, not in its transforms"
        )
    pipelines: list[Transforms] = []
    for _, _, levels in found:
        transforms = _transforms(levels)
        if transforms not in pipelines:
            pipelines.append(transforms)
    if len(pipelines) > 1:
        raise UserError(
            f"class {label}: its images go through different transforms, so a replayed one could go nowhere"
        )
    return RawClass(torch.stack(images), forms[0], pipelines[0], _task(data, label, positions))


def _leaf(flat: Any, position: int) -> tuple[Any, int, list[Any]]:
    """(the user's own data set, index into it, transform groups from there upwards) of one image."""
    levels: list[Any] = []
    while hasattr(flat, "_datasets"):
        if hasattr(flat, "_transform_groups"):
            levels[:0] = [flat._frozen_transform_groups, flat._transform_groups]
        child, position = flat._get_idx(position)
        flat = flat._datasets[child]
    return flat, position, levels


def _transforms(levels: Sequence[Any]) -> Transforms:
    names = {"train", "eval"}.union(*(level.transform_groups for level in levels)) - {None}
    groups: dict[str, list[Callable[[Any], Any]]] = {}
    for name in sorted(names):
        steps = [level[name] for level in levels]
        groups[name] = [function for step in steps if step is not None for function in step.flat_transforms(0)]
    return Transforms(groups)


def _task(data: AvalancheDataset, label: int, positions: Sequence[int]) -> int | None:
    attributes: Any = data._data_attributes  # pyright: ignore[reportPrivateUsage]
    extra = [name for name, one in attributes.items() if one.use_in_getitem and name != "targets_task_labels"]
    if extra:
        raise UserError(f"the experience's items carry '{extra[0]}', which a distilled image does not have")
    if "targets_task_labels" not in attributes or not attributes["targets_task_labels"].use_in_getitem:
        return None
    tasks = {int(attributes["targets_task_labels"][position]) for position in positions}
    if len(tasks) > 1:
        raise UserError(f"class {label} belongs to several tasks: {sorted(tasks)}")
    return tasks.pop()


class InSequence:
    """Functions one after the other; a class of its own, so that it can be pickled."""

    def __init__(self, functions: Sequence[Callable[[Any], Any]]) -> None:
        self.functions = list(functions)

    def __call__(self, image: Any) -> Any:
        for function in self.functions:
            image = function(image)
        return image


class StoredImages(Dataset[tuple[Any, int]]):
    """uint8 (n, C, H, W) images of one class, handed out in the form in which the experience had its own."""

    def __init__(self, images: Tensor, label: int, form: Form) -> None:
        self.images, self.label, self.form = images, label, form

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return from_uint8(self.images[index], self.form), self.label


def replay_dataset(images: Tensor, label: int, like: RawClass) -> AvalancheDataset:
    """uint8 (n, C, H, W) images as data that stands beside `like`'s experience: same form, transforms and task."""
    leaf = StoredImages(images, label, like.form)
    groups = {name: (InSequence(functions), None) for name, functions in like.transforms.groups.items()}
    attributes = [DataAttribute(ConstantSequence(label, len(leaf)), "targets")]
    kind: Any = ClassificationDataset
    if like.task is not None:
        tasks = ConstantSequence(like.task, len(leaf))
        attributes.append(DataAttribute(tasks, "targets_task_labels", use_in_getitem=True))
        kind = TaskAwareClassificationDataset
    return kind([leaf], data_attributes=attributes, transform_groups=TransformGroups(groups))


def silent_evaluator() -> EvaluationPlugin:
    """An evaluator that neither measures nor prints; Avalanche warns of such a one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EvaluationPlugin()


def filled(data: AvalancheDataset, fill: int | None) -> AvalancheDataset:
    """`data` repeated until mini-batches of `fill` come out full, all of them; as it is where `fill` is None."""
    if fill is None or len(data) == 0:
        return data
    return data.subset(list(range(len(data))) * (lcm(len(data), fill) // len(data)))


def contents(policy: BalancedExemplarsBuffer[Any]) -> tuple[np.ndarray, np.ndarray]:
    """What a memory of classes stores: images uint8 (N, C, H, W), labels int64 (N,), in ascending order of labels."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, group in sorted(policy.buffer_groups.items()):
        stored = raw_class(group.buffer, label, range(len(group.buffer))).images
        images.append(stored.numpy())
        labels += [label] * len(stored)
    return np.concatenate(images), np.array(labels, dtype=np.int64)


@contextmanager
def contained(seed: int, stream: str) -> Iterator[None]:
    """Run a block of Avalanche: its draws from the global generators seeded, its warning filters undone after."""
    number = streams.counter(seed, stream, 0)
    python, numbers = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    try:
        with streams.seeded(seed, stream), warnings_contained():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
