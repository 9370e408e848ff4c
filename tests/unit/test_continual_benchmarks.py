"""`DistilledBuffer` on every kind of benchmark that Avalanche makes without a download, next to Avalanche's own buffer.

The brightness of an image says its class, so what a stored image looks like can be told from its pixels alone.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision import transforms

from dd_apps.continual import DistilledBuffer
from dd_apps.continual.adapter import ClassBalancedBuffer, contained, silent_evaluator
from dd_core.errors import UserError

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import (
        OnlineCLScenario,
        benchmark_from_datasets,
        benchmark_with_validation_stream,
        class_incremental_benchmark,
        data_incremental_benchmark,
        dataset_benchmark,
        filelist_benchmark,
        nc_benchmark,
        new_instances_benchmark,
        ni_benchmark,
        paths_benchmark,
        split_continuous_linear_decay_stream,
        split_online_stream,
        task_incremental_benchmark,
        tensors_benchmark,
        with_task_labels,
    )
    from avalanche.benchmarks.scenarios.deprecated.generic_benchmark_creation import (
        LazyStreamDefinition,
        create_lazy_generic_benchmark,
    )
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset, as_classification_dataset
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.supervised import Naive

CLASSES, EACH = 6, 8
HALVES = (range(3), range(3, 6))


def pixels(label: int) -> np.ndarray:
    """uint8 (EACH, 8, 8), one class: brightness 20 + 40 * label, and noise."""
    noise = np.random.default_rng(label).integers(0, 15, (EACH, 8, 8))
    return (noise + 20 + 40 * label).astype(np.uint8)


class Images(Dataset):
    """uint8 (1, 8, 8) tensors of some classes; labels in any type."""

    def __init__(self, classes=range(CLASSES), label=int) -> None:
        self.images = torch.from_numpy(np.concatenate([pixels(name) for name in classes]))[:, None]
        self.targets = [name for name in classes for _ in range(EACH)]
        self.label = label

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.images[index], self.label(self.targets[index])


def to_input(image):
    return image.float() / 255


def reverse(label):
    """The user's own numbering of the classes."""
    return CLASSES - 1 - label


def tensor32(label: int) -> torch.Tensor:
    return torch.tensor(label, dtype=torch.int32).long()


def halves(**options) -> list[Images]:
    return [Images(half, **options) for half in HALVES]


def tensors(half: range) -> list[torch.Tensor]:
    data = Images(half)
    return [data.images, torch.tensor(data.targets)]


def supervised(*, target=None, image=to_input, **options):
    """A data set of Avalanche's own, with a task label for each image; `target` transforms labels in training only."""
    groups = {"train": (image, target), "eval": (image, None)}
    return _make_taskaware_classification_dataset(Images(**options), transform_groups=groups)


def without_tasks(**options):
    """A data set of Avalanche's own, whose items are pairs."""
    groups = {"train": (to_input, reverse), "eval": (to_input, None)}
    return as_classification_dataset(Images(**options), transform_groups=groups)


def stream_of(**options):
    """A class-incremental benchmark of three experiences."""
    data = {"train": supervised(**options), "test": supervised()}
    return class_incremental_benchmark(data, num_experiences=3, class_order=list(range(CLASSES)))


def with_classes(**options):
    common = {"task_labels": False, "train_transform": to_input, "eval_transform": to_input}
    order = {} if "one_dataset_per_exp" in options else {"fixed_class_order": list(range(CLASSES))[::-1]}
    train = options.pop("train", None) or Images()
    test = Images() if isinstance(train, Images) else halves()
    return nc_benchmark(train, test, 2, **(common | order | options))


def of_datasets(train=None, **options):
    transform = {"train_transform": to_input, "eval_transform": to_input}
    return dataset_benchmark(train or halves(), halves(), **transform, **options)


def saved(folder, half: range) -> list[tuple[str, int]]:
    """Files of a half's images, and their labels."""
    found = []
    for label in half:
        for index, image in enumerate(pixels(label)):
            path = folder / f"{label}-{index}.png"
            Image.fromarray(image).save(path)
            found.append((str(path), label))
    return found


def of_paths(folder, **options):
    lists = [saved(folder, half) for half in HALVES]
    to_tensor = {"train_transform": transforms.ToTensor(), "eval_transform": transforms.ToTensor()}
    return paths_benchmark(lists, lists, task_labels=[0, 0], **to_tensor, **options)


def of_filelists(folder, **options):
    lists = []
    for number, half in enumerate(HALVES):
        lists.append(folder / f"list-{number}.txt")
        lists[-1].write_text("".join(f"{path} {label}\n" for path, label in saved(folder, half)))
    to_tensor = {"train_transform": transforms.ToTensor(), "eval_transform": transforms.ToTensor()}
    return filelist_benchmark(None, lists, lists, task_labels=[0, 0], **to_tensor, **options)


def lazy(**options):
    def made():
        return LazyStreamDefinition((supervised(classes=half, image=None) for half in HALVES), 2, [0, 0])

    common = {"train_transform": to_input, "eval_transform": to_input}
    return create_lazy_generic_benchmark(made(), made(), **common, **options)


class Stream:
    """Whatever has a training stream."""

    def __init__(self, train_stream) -> None:
        self.train_stream = train_stream


def nested_groups():
    """Data sets with transforms of their own below a benchmark that adds a stream, and with it a group, of its own."""
    own = [supervised(classes=half, image=None, target=reverse) for half in HALVES]
    return of_datasets(own, other_streams_datasets={"valid": halves()}, other_streams_transforms={"valid": to_input})


def frozen():
    """Data sets whose transforms are frozen before the benchmark adds one of labels."""
    own = [supervised(classes=half, target=reverse).freeze_transforms() for half in HALVES]
    return dataset_benchmark(own, halves(), train_target_transform=lambda label: label + 10)


BENCHMARKS = {
    "nc": lambda folder: with_classes(),
    "nc, tasks": lambda folder: with_classes(task_labels=True),
    "nc, ids from zero": lambda folder: with_classes(class_ids_from_zero_from_first_exp=True),
    "nc, a data set each": lambda folder: with_classes(train=halves(), one_dataset_per_exp=True),
    "nc, tensor labels": lambda folder: with_classes(train=Images(label=tensor32)),
    "dataset": lambda folder: of_datasets(),
    "dataset, targets transformed": lambda folder: of_datasets(
        train_target_transform=reverse, eval_target_transform=reverse
    ),
    "dataset, tensor labels": lambda folder: of_datasets(halves(label=torch.tensor)),
    "dataset, tensor labels transformed": lambda folder: of_datasets(
        halves(label=torch.tensor), train_target_transform=reverse
    ),
    "dataset, NumPy labels": lambda folder: of_datasets(halves(label=np.int64)),
    "dataset, its own target transform": lambda folder: of_datasets(halves(label=reverse)),
    "dataset, labels made tensors": lambda folder: of_datasets(train_target_transform=torch.tensor),
    "dataset, labels made coarse": lambda folder: of_datasets(train_target_transform=lambda label: label // 2),
    "dataset, words made labels": lambda folder: of_datasets(halves(label=str), train_target_transform=int),
    "dataset, nested groups": lambda folder: nested_groups(),
    "dataset, frozen": lambda folder: frozen(),
    "tensors": lambda folder: tensors_benchmark(
        *[[tensors(half) for half in HALVES]] * 2, task_labels=[0, 0], train_transform=to_input, eval_transform=to_input
    ),
    "paths": lambda folder: of_paths(folder),
    "paths, targets transformed": lambda folder: of_paths(folder, train_target_transform=reverse),
    "filelist": lambda folder: of_filelists(folder),
    "filelist, targets transformed": lambda folder: of_filelists(folder, train_target_transform=reverse),
    "lazy": lambda folder: lazy(),
    "lazy, targets transformed": lambda folder: lazy(train_target_transform=reverse),
    "class-incremental": lambda folder: stream_of(),
    "class-incremental, targets transformed": lambda folder: stream_of(target=reverse),
    "class-incremental, tensor labels": lambda folder: stream_of(label=torch.tensor),
    "task-incremental": lambda folder: task_incremental_benchmark(stream_of(target=reverse), reset_task_labels=True),
    "class-incremental, no tasks": lambda folder: class_incremental_benchmark(
        {"train": without_tasks(), "test": without_tasks()}, num_experiences=3, class_order=list(range(CLASSES))
    ),
    "from data sets": lambda folder: benchmark_from_datasets(
        train=[without_tasks(classes=half) for half in HALVES], test=[without_tasks()]
    ),
    "from data sets, tasks": lambda folder: with_task_labels(
        benchmark_from_datasets(
            train=[supervised(classes=half, target=reverse) for half in HALVES], test=[supervised()]
        )
    ),
    "with a validation stream": lambda folder: benchmark_with_validation_stream(
        stream_of(target=reverse), 0.25, shuffle=True, seed=0
    ),
    "nc with a validation stream": lambda folder: benchmark_with_validation_stream(with_classes(), 0.25),
    "online, whole experiences": lambda folder: Stream(
        split_online_stream(stream_of(target=reverse).train_stream, experience_size=2 * EACH)
    ),
    "data-incremental, whole experiences": lambda folder: data_incremental_benchmark(with_classes(), 3 * EACH),
}

BACK = {
    "ni": lambda: ni_benchmark(Images(), Images(), 2, train_transform=to_input, eval_transform=to_input),
    "new instances": lambda: new_instances_benchmark(supervised(), supervised(), 2, seed=0),
    "nc, ids from zero in each": lambda: with_classes(class_ids_from_zero_in_each_exp=True, task_labels=True),
    "data-incremental": lambda: data_incremental_benchmark(with_classes(), EACH, shuffle=True),
    "online": lambda: Stream(split_online_stream(stream_of().train_stream, experience_size=EACH, seed=0)),
    "online scenario": lambda: Stream(
        OnlineCLScenario(stream_of().streams.values(), experience_size=EACH).streams["train_online"]
    ),
    "continuous": lambda: Stream(
        split_continuous_linear_decay_stream(stream_of().train_stream, 2 * EACH, 2, beta=2, shuffle=True)
    ),
}


# Avalanche's buffer gives items of such data sets a task label that the real ones have not, and cannot be trained with
PAIRS = ("class-incremental, no tasks", "from data sets")


def train(policy, experiences) -> None:
    """Train on the experiences with `policy` as the memory of Avalanche's own strategy and plugin."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(experiences[0].dataset[0][0].numel(), 16))
    plugin = ReplayPlugin(mem_size=policy.max_size, batch_size_mem=6, storage_policy=policy)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    strategy = Naive(model=model, optimizer=optimiser, train_mb_size=8, plugins=[plugin], evaluator=silent_evaluator())
    for experience in experiences:
        strategy.train(experience)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def first_two(benchmark) -> list:
    experiences = []
    for experience in benchmark.train_stream:
        experiences.append(experience)
        if len(experiences) == 2:
            break
    return experiences


def kind(label) -> tuple:
    """Type, dtype and value of a label."""
    return type(label), getattr(label, "dtype", None), int(label)


def looks(experiences, group: str | None = None) -> dict[tuple, float]:
    """Label of real items, with its type -> mean brightness of each class of images that carries it."""
    found: dict[tuple, list[float]] = {}
    for experience in experiences:
        data = experience.dataset if group is None else experience.dataset.with_transforms(group)
        for item in data:
            found.setdefault((kind(item[1]), round((float(item[0].mean()) * 255 - 27) / 40)), []).append(
                float(item[0].mean())
            )
    return {key: float(np.mean(values)) for key, values in found.items()}


def wrongly_labelled(stored, real: dict[tuple, float]) -> list:
    """Items of a memory whose label is not, in value and type, that of the real items that they look like."""
    wrong = []
    for item in stored:
        (nearest, _) = min(real, key=lambda key: abs(real[key] - float(item[0].mean())))
        if kind(item[1]) != nearest:
            wrong.append((kind(item[1]), nearest))
    return wrong


@pytest.mark.parametrize("name", BENCHMARKS)
def test_stored_images_carry_the_labels_of_the_real_items_that_they_look_like(name, tmp_path):
    random.seed(0)
    with contained(0, "test"):
        experiences = first_two(BENCHMARKS[name](tmp_path))
        own, avalanches = DistilledBuffer(12, images_per_class=2, method="random"), ClassBalancedBuffer(12)
        for policy in (avalanches, own):
            if policy is own or name not in PAIRS:
                train(policy, experiences)
    real = looks(experiences)
    assert len(real) == len({target for one in experiences for target in one.dataset.targets})
    assert wrongly_labelled(own.buffer, real) == []
    assert [int(target) for target in own.buffer.targets] == [label for label in own.buffer_groups for _ in range(2)]
    if name not in PAIRS:
        assert wrongly_labelled(avalanches.buffer, real) == []
        assert set(own.buffer_groups) == set(avalanches.buffer_groups)


@pytest.mark.parametrize("name", BACK)
def test_a_benchmark_that_brings_classes_back_is_refused_at_its_second_experience(name):
    random.seed(0)
    with contained(0, "test"):
        experiences = first_two(BACK[name]())
        train(ClassBalancedBuffer(12), experiences)
        with pytest.raises(UserError, match=r"class \d comes back in a later experience"):
            train(DistilledBuffer(12, images_per_class=1, method="random"), experiences)
