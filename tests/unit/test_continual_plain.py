"""A `DistilledBuffer` fed by hand: arrays, torch Datasets, a method's name; no benchmark of Avalanche."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_streams import Images, benchmark
from torch.utils.data import Dataset, TensorDataset

from dd_apps.continual import DistilledBuffer
from dd_apps.continual.memory.budget import Budget
from dd_core.errors import UserError
from dd_core.images import LabelledImages
from dd_core.methods import method

DATA = Images()
PIXELS, TARGETS = DATA.pixels[:, :, :, :].repeat(1, 1, 2, 2), np.array(DATA.targets)  # 8 x 8: 4 pixels may be channels


def buffer(**options) -> DistilledBuffer:
    return DistilledBuffer(6, **{"images_per_class": 1, "method": "average", **options})


def averages(labels) -> np.ndarray:
    means = [PIXELS[label == TARGETS].double().mean(0) for label in sorted(labels)]
    return torch.stack(means).round().to(torch.uint8).numpy()


def of(labels) -> np.ndarray:
    return np.isin(TARGETS, labels)


@pytest.mark.parametrize(
    "form",
    [
        lambda images, labels: (images.numpy(), labels),
        lambda images, labels: (images.numpy() / 255, labels.tolist()),
        lambda images, labels: (images.float() / 255, torch.from_numpy(labels)),
        lambda images, labels: (images[:, 0].numpy(), labels),
        lambda images, labels: TensorDataset(images, torch.from_numpy(labels)),
        lambda images, labels: TensorDataset(images / 255, torch.from_numpy(labels)),
        lambda images, labels: LabelledImages(images, torch.from_numpy(labels), tuple("012345"), "mine"),
    ],
)
def test_each_class_is_distilled_from_plain_data(form):
    memory = buffer()
    for labels in ((4, 1), (0, 5)):
        memory.update_from_dataset(form(PIXELS[of(labels)], TARGETS[of(labels)]))
    assert [ds.classes for ds in memory.sets] == [("1", "4"), ("0", "5")]
    assert (memory.sets[0].images == averages((1, 4))).all()
    assert (memory.sets[1].images == averages((0, 5))).all()
    items = list(memory.buffer)
    assert sorted(int(label) for _, label in items) == [0, 1, 4, 5]
    given = form(PIXELS, TARGETS)
    first = given.images if isinstance(given, LabelledImages) else given[0][0]
    assert {image.dtype for image, _ in items} == {torch.as_tensor(first).dtype}  # a network meets both alike


def test_plain_data_and_a_benchmark_give_the_same_sets():
    by_hand, by_stream = buffer(), buffer()
    stream = benchmark(TensorImages()).train_stream
    for experience in stream:
        by_stream.update_from_dataset(experience.dataset)
    for labels in ((4, 1), (0, 5), (3, 2)):
        by_hand.update_from_dataset((PIXELS[of(labels)], TARGETS[of(labels)]))
    assert [a.digest() for a in by_hand.sets] == [b.digest() for b in by_stream.sets]


class TensorImages(Images):
    """The images of eight pixels a side."""

    def __getitem__(self, index):
        return PIXELS[index], self.targets[index]


class Drawing(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index):
        return (torch.rand(1, 8, 8)), index % 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((PIXELS.permute(0, 2, 3, 1), TARGETS), r"give images.transpose\(0, 3, 1, 2\)"),
        (Drawing(), "its transform is random"),
        ((PIXELS / 127.5 - 1, TARGETS), "the experience's data .*looks normalised"),
        ((PIXELS, TARGETS[:3]), "the experience's data has 36 images and 3 labels"),
        ("digits", "the experience's data is 'digits'; give a pair"),
        ((PIXELS, [str(label) for label in TARGETS]), "are words, which cannot be numbered alike in all experiences"),
    ],
)
def test_plain_data_are_looked_at_as_everywhere(data, message):
    memory = buffer()
    with pytest.raises(UserError, match=message):
        memory.update_from_dataset(data)
    assert memory.sets == ()


def test_channels_that_come_last_are_noticed_in_a_benchmark_too():
    class Last(TensorImages):
        def __getitem__(self, index):
            return PIXELS[index].permute(1, 2, 0), self.targets[index]

    stream = benchmark(Last(), train_transform=None, eval_transform=None).train_stream
    with pytest.raises(UserError, match=r"tensors of shape \(8, 8, 1\), which looks like H x W x C"):
        buffer().update_from_dataset(stream[0].dataset)


def test_a_method_is_a_name_a_table_or_a_config():
    given = ("average", {"name": "average"}, method("average"))
    assert {buffer(method=one).config.model_dump_json() for one in given} == {method("average").model_dump_json()}
    with pytest.raises(UserError, match="unknown method 'avrage'; did you mean 'average'"):
        buffer(method="avrage")


@pytest.mark.parametrize("name", ["max_size", "images_per_class", "max_bytes", "bytes_per_class"])
@pytest.mark.parametrize("value", ["6", 6.0, True])
def test_a_budget_is_a_whole_number(name, value):
    with pytest.raises(UserError, match=rf"{name} is '{value}' \(a (str|float|bool)\); give an int"):
        Budget(**{"max_size": 6, "images_per_class": 1, name: value}).check()


def test_a_memory_lets_go_of_the_real_images():
    memory = buffer()
    for labels in ((4, 1), (0, 5)):
        memory.update_from_dataset((PIXELS[of(labels)], TARGETS[of(labels)]))
    kept = [raw.images for held in memory._held for raw in held.like.values()]
    assert len(kept) == 4
    assert {images.untyped_storage().nbytes() for images in kept} == {0}
