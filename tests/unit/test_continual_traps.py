"""The traps of Avalanche 0.6 that a replay memory of synthetic images can fall into, and the tests that show ours past them.

1  ReplayPlugin collates no soft labels         test_continual_sets.py::test_plugins_that_would_drop_soft_labels_get_no_images
                                                test_continual_soft_replay.py::test_a_networks_labels_are_learned_by_the_recipes_loss_at_its_temperature
2  transforms are applied twice, or never       test_continual_buffer.py::test_a_replayed_image_goes_through_the_experiences_transforms_exactly_once
                                                test_continual_buffer.py::test_normalised_tensors_under_the_transforms_are_refused
3  a benchmark normalises by other statistics   test_continual_traps.py::test_the_benchmarks_normalisation_holds_and_not_the_sets
                                                test_continual_run.py::test_images_are_normalised_by_the_first_experience_alone
4  labels are ints, task labels 0, three fields test_continual_buffer.py::test_groups_are_keyed_by_class_and_the_items_fit_a_replay_loader
                                                test_continual_labels.py::test_labels_of_two_types_that_pytorch_does_not_batch_are_refused
                                                test_continual_traps.py::test_items_are_an_image_an_int_and_task_label_0
5  a remainder of classes is dropped            test_continual_run.py::test_ten_classes_in_three_experiences_all_arrive_with_all_their_images
6  the first data loader counts as the longest  test_continual_traps.py::test_an_epoch_has_each_current_image_once_however_long_the_memory_is
7  importing Avalanche changes the process      test_continual_buffer.py::test_warning_filters_and_generators_are_put_back
                                                test_continual_run.py::test_the_application_is_imported_lightly
                                                test_continual_traps.py::test_plain_data_sets_are_added_as_before
8  a fixed size compares None with 0            test_continual_traps.py::test_a_fixed_number_of_classes_is_given_where_avalanche_compares_it
9  mem_size counts samples, not bytes           test_continual_sets.py::test_a_budget_in_bytes_is_shared_by_the_classes_seen_so_far
                                                test_continual_sets.py::test_soft_labels_and_learned_rates_take_room
10 the buffer is joined anew at every access    test_continual_buffer.py::test_the_joined_data_set_is_cached_until_something_changes
"""  # noqa: E501 (a test's name is not broken)

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_streams import Images, benchmark, linear, to_input
from torch import nn
from torch.utils.data import ConcatDataset, TensorDataset
from torchvision import transforms

from dd_apps.continual import DistilledBuffer
from dd_apps.continual.adapter import contained, silent_evaluator
from dd_apps.continual.strategies.memories import FilledClassBalancedBuffer

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin
    from avalanche.training.storage_policy import BalancedExemplarsBuffer
    from avalanche.training.supervised import Naive


def buffer_of(*experiences, **options) -> DistilledBuffer:
    buffer = DistilledBuffer(12, **({"images_per_class": 2, "method": "random"} | options))
    for experience in experiences:
        buffer.post_adapt(None, experience)
    return buffer


def test_the_page_names_tests_that_exist_for_all_ten_traps():
    page = ast.get_docstring(ast.parse(Path(__file__).read_text()), clean=False) or ""
    assert [int(number) for number in re.findall(r"^(\d+) ", page, re.MULTILINE)] == list(range(1, 11))
    named = re.findall(r"(test_\w+\.py)::(test_\w+)", page)
    assert len(named) == 18
    for file, name in named:
        assert f"def {name}(" in (Path(__file__).parent / file).read_text()


def test_the_benchmarks_normalisation_holds_and_not_the_sets():
    """SplitTinyImageNet normalises by CIFAR-10's statistics; whatever a benchmark does is done to memory images."""
    foreign = transforms.Compose([to_input, transforms.Normalize((0.4914,), (0.2023,))])
    buffer = buffer_of(benchmark(train_transform=foreign, eval_transform=foreign).train_stream[0])
    ds = buffer.sets[0]
    assert ds.manifest.pixels.mean[0] != pytest.approx(0.4914, abs=0.05)
    wanted = (torch.tensor(ds.images[0]).float() / 255 - 0.4914) / 0.2023
    assert torch.allclose(buffer.buffer[0][0], wanted, atol=1e-6)
    assert not torch.allclose(ds.inputs()[0], wanted, atol=0.1)


def test_items_are_an_image_an_int_and_task_label_0():
    experience = benchmark().train_stream[0]
    data = buffer_of(experience).buffer
    image, label, task = data[0]
    assert (type(label), label, task) == (int, 1, 0)
    assert [type(value) for value in data[0]] == [type(value) for value in experience.dataset[0]]
    assert list(data.targets) == [1, 1, 4, 4]
    assert image.dtype == torch.float32


class Current(SupervisedPlugin):
    """Counts the images that iterations saw, apart from the memory's."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.memory, self.seen, self.iterations = memory, Counter(), 0

    def before_training_iteration(self, strategy, **kwargs) -> None:
        current = (
            strategy.mb_x[: len(strategy.mb_x) - self.memory]
            if strategy.experience.current_experience
            else strategy.mb_x
        )
        self.seen.update(image.numpy().tobytes() for image in current)
        self.iterations += 1


def test_an_epoch_has_each_current_image_once_however_long_the_memory_is():
    """The memory's loader of 60 batches is longer than the experience's of three."""
    memory, model = buffer_of(fill=32), linear()
    witness = Current(memory=32)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        plugins=[ReplayPlugin(12, batch_size_mem=32, storage_policy=memory), witness],
        evaluator=silent_evaluator(),
    )
    with contained(0, "test"):
        for experience in benchmark().train_stream:
            strategy.train(experience)
    assert witness.iterations == 9
    assert set(witness.seen.values()) == {1}
    assert len(witness.seen) == 36


def test_plain_data_sets_are_added_as_before():
    one, two = (TensorDataset(torch.arange(count)) for count in (2, 3))
    both = one + two
    assert type(both) is ConcatDataset
    assert [int(item[0]) for item in both] == [0, 1, 0, 1, 2]


def test_a_fixed_number_of_classes_is_given_where_avalanche_compares_it():
    with pytest.raises(TypeError):
        BalancedExemplarsBuffer.__init__(object.__new__(FilledClassBalancedBuffer), 12, adaptive_size=False)
    adaptive, fixed = FilledClassBalancedBuffer(12), FilledClassBalancedBuffer(12, total_num_classes=6)
    assert (adaptive.adaptive_size, fixed.adaptive_size) == (True, False)
    for memory, kept in ((adaptive, 6), (fixed, 2)):
        memory.update_from_dataset(benchmark(Images()).train_stream[0].dataset)
        assert Counter(memory.buffer.targets) == {1: kept, 4: kept}
    assert buffer_of().adaptive_size
