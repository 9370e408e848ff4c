"""Labels of replayed items: types, groups of transforms, and what is refused because it would be a wrong label."""

from __future__ import annotations

import operator
import pickle
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from dd_apps.continual import DistilledBuffer
from dd_apps.continual.adapter import contents
from dd_apps.continual.labels import meaning
from dd_core.errors import UserError
from dd_core.system.surroundings.generators import generators_kept

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
    from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
    from avalanche.benchmarks.utils.transforms import MultiParamCompose, MultiParamTransformCallable


class Images(Dataset):
    """Ten grey images of each of three classes; `label` says what an item of a class carries."""

    def __init__(self, label=int, classes=(0, 1, 2)) -> None:
        self.targets = [name for name in classes for _ in range(10)]
        self.label = label

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        image = torch.full((1, 4, 4), 20 + 40 * self.targets[index], dtype=torch.uint8)
        return image, self.label(self.targets[index])


def times_ten(label):
    return label * 10


def plus_one(label):
    return label + 1


def data_of(images=None, *, train=None, evaluation=None, kind=None):
    """An experience's data set, with a transform of labels for each group."""
    groups = {"train": (None, train), "eval": (None, evaluation)}
    data = _make_taskaware_classification_dataset(images or Images(), transform_groups=groups)
    if kind is not None:
        data.__class__ = kind
    return data


def buffer_of(*data, **options) -> DistilledBuffer:
    buffer = DistilledBuffer(12, **({"images_per_class": 2, "method": "random"} | options))
    for one in data:
        buffer.update_from_dataset(one)
    return buffer


def labels(data) -> list:
    return [item[1] for item in data]


# --- what a label is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (3, ("int", 3)),
        (np.int32(4), ("int32", 4)),
        (torch.tensor(5), ("torch.int64 tensor", 5)),
        (torch.tensor(6, dtype=torch.uint8), ("torch.uint8 tensor", 6)),
    ],
)
def test_integers_of_every_type_that_pytorch_batches_are_labels(label, expected):
    assert meaning(label, of="it") == expected


@pytest.mark.parametrize(
    ("label", "named"),
    [
        (1.0, r"1\.0 \(float\)"),
        (np.float64(1), r"np\.float64\(1\.0\) \(float64\)"),
        ("cat", r"'cat' \(str\)"),
        (torch.tensor(1.0), r"1\.0 \(torch\.float32 tensor\)"),
        (torch.tensor([0, 1]), r"tensor\(\[0, 1\]\) \(torch\.int64 tensor\)"),
        (np.array([0, 1]), r"array\(\[0, 1\]\) \(ndarray\)"),
        ([0, 1], r"\[0, 1\] \(list\)"),
    ],
)
def test_any_other_label_is_refused_in_a_line(label, named):
    with pytest.raises(UserError, match=f"^class 0: the label {named} is no integer; ") as caught:
        buffer_of(data_of(Images(lambda name: label)))
    assert "\n" not in str(caught.value)


def test_targets_that_are_no_integers_are_refused_in_a_line():
    data = data_of()
    data._data_attributes["targets"] = [torch.tensor([0.0, 1.0])] * 30
    with pytest.raises(UserError, match=r"the targets of the experience's data set: the label tensor\(\[0\., 1\.\]\)"):
        buffer_of(data)


# --- the group that is active ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["train", "eval"])
def test_replayed_items_follow_the_group_of_transforms_that_is_read(group):
    experience = data_of(train=times_ten, evaluation=plus_one)
    expected = {"train": [0, 0, 10, 10, 20, 20], "eval": [1, 1, 2, 2, 3, 3]}[group]
    assert labels(buffer_of(experience).buffer.with_transforms(group)) == expected
    assert sorted(set(labels(experience.with_transforms(group)))) == sorted(set(expected))


@pytest.mark.parametrize("group", ["train", "eval"])
def test_a_memory_starts_in_the_group_of_the_experience(group):
    experience = data_of(train=times_ten, evaluation=plus_one).with_transforms(group)
    assert set(labels(buffer_of(experience).buffer)) == set(labels(experience))


def test_a_transform_that_makes_one_label_of_many_is_followed():
    class Fine(Images):
        def __getitem__(self, index: int):
            return super().__getitem__(index)[0], 2 * self.targets[index] + index % 2

    experience = data_of(Fine(), train=lambda label: label // 2, evaluation=lambda label: label // 2)
    buffer = buffer_of(experience)
    assert labels(buffer.buffer) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match=r"class 0: its items carry the labels 0 \(int\) and 1 \(int\) in the group 'e"):
        buffer_of(data_of(Fine(), train=lambda label: label // 2))


def test_contents_are_labelled_by_class_ids():
    experience = data_of(Images(torch.tensor), train=times_ten, evaluation=times_ten)
    images, ids = contents(buffer_of(experience))
    assert ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert [image.mean() for image in images] == [20, 20, 60, 60, 100, 100]


# --- what would be a wrong label ---------------------------------------------------------------------------------


def test_labels_that_a_transform_draws_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"class 0: its items carry the labels 0 \(int\) and 5 \(int\) in the group 't"):
        buffer_of(data_of(train=lambda label: label + 5 * int(generator.random() < 0.3)))


def test_items_whose_labels_differ_within_a_class_are_refused():
    class Noisy(Images):
        def __getitem__(self, index: int):
            return super().__getitem__(index)[0], 0 if index == 13 else self.targets[index]

    with pytest.raises(UserError, match=r"class 1: its items carry the labels 0 \(int\) and 1 \(int\) in the group 'e"):
        buffer_of(data_of(Noisy()))


class Shifting(TaskAwareSupervisedClassificationDataset):
    """A data set that changes labels where no transform says so."""

    def __getitem__(self, idx):
        image, label, task = super().__getitem__(idx)
        return image, label + 100, task


def test_a_real_item_of_each_class_is_compared():
    with pytest.raises(
        UserError, match=r"class 0: a real item carries the label 100 \(int\), and a .* carry 0 \(int\)"
    ):
        buffer_of(data_of(kind=Shifting))


def test_labels_of_two_types_that_pytorch_does_not_batch_are_refused():
    buffer = buffer_of(data_of(Images(classes=(0, 1))))
    with pytest.raises(UserError, match=r"class 0 carry labels of type int, and those of class 2 torch\.int64 tensor"):
        buffer.update_from_dataset(data_of(Images(torch.tensor, classes=(2,))))
    assert set(buffer.buffer_groups) == {0, 1}
    buffer.update_from_dataset(data_of(Images(np.int64, classes=(2,))))
    assert [type(label) for label in labels(buffer.buffer)] == [int] * 4 + [np.int64] * 2


def negative(image):
    return 255 - image


def swapped(image, label):
    return image, 2 - label


@pytest.mark.parametrize("transform", [MultiParamTransformCallable(swapped), MultiParamCompose([swapped])])
def test_a_transform_of_image_and_label_together_is_refused(transform):
    data = data_of()
    data._flat_data._transform_groups["train"] = transform
    with pytest.raises(UserError, match=r"class 0: a transform takes image and label together \(function\)"):
        buffer_of(data)


def test_a_transform_of_one_argument_in_avalanches_wrappers_is_of_the_image():
    data = data_of(train=times_ten)
    data._flat_data._transform_groups["train"] = MultiParamCompose([MultiParamTransformCallable(negative)])
    assert {(int(item[0].float().mean()), item[1]) for item in buffer_of(data).buffer} == {
        (255 - 20, 0),
        (255 - 60, 1),
        (255 - 100, 2),
    }


@pytest.mark.parametrize(
    ("item", "what"), [(lambda pair: (*pair, 1), "3 values"), (lambda pair: {"x": pair[0], "y": pair[1]}, "a dict")]
)
def test_items_that_are_no_pairs_are_refused(item, what):
    class Odd(Images):
        def __getitem__(self, index: int):
            return item(super().__getitem__(index))

    with pytest.raises(UserError, match=f"the experience's items hold {what}; a distilled image comes as a pair"):
        buffer_of(data_of(Odd()))


# --- what the check leaves alone ---------------------------------------------------------------------------------


def drawing(image):
    return image + int(torch.rand(1) + np.random.rand() + random.random())


def test_the_check_draws_nothing_from_the_global_generators():
    data = data_of()
    data._flat_data._transform_groups["train"] = (drawing, None)
    python = random.getstate()  # beartype draws from it in tests, so it is told apart by the block alone
    with generators_kept():
        drawing(0)
    assert random.getstate() == python
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    buffer_of(data)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_a_tensor_label_is_the_items_own_and_small():
    everyones = torch.arange(100_000)
    buffer = buffer_of(data_of(Images(lambda name: everyones[name])))
    first = buffer.buffer[5][1]
    first += 7
    assert labels(buffer.buffer) == [0, 0, 1, 1, 2, 2]
    assert {label.dtype for label in labels(buffer.buffer)} == {torch.int64}
    groups = pickle.dumps([group.buffer for group in buffer.buffer_groups.values()])
    assert len(groups) < 100_000


def test_a_memory_can_be_pickled_with_its_labels_and_transforms():
    buffer = buffer_of(data_of(Images(torch.tensor), train=partial(operator.mul, 10)))
    restored = pickle.loads(pickle.dumps(buffer)).buffer
    for before, after in zip(buffer.buffer, restored, strict=True):
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
    assert [int(label) for label in labels(restored)] == [0, 0, 10, 10, 20, 20]
