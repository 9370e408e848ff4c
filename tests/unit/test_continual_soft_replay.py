"""`SoftLabelReplay` against the same training written plainly: which images a step sees, and what its loss is."""

from __future__ import annotations

import warnings
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from tiny_streams import PIXELS, Images, SoftAverage, benchmark, to_input
from torch import Tensor, nn

from dd_apps.continual import DistilledBuffer, SoftLabelReplay
from dd_apps.continual.adapter import contained, silent_evaluator
from dd_core.errors import UserError
from dd_core.streams import Streams

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import class_incremental_benchmark
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.core import SupervisedPlugin
    from avalanche.training.supervised import Naive

BATCH, MEMORY, RATE = 4, 5, 0.5
SOFT = {"name": "random", "recipe": {"temperature": 2.0, "loss": "kl-t2"}}


def network() -> nn.Module:
    """Batch norms in it show whether current and memory images went through it as one mini-batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


class Penalty(SupervisedPlugin):
    """What another plugin adds to the loss: the squared norm of the last bias."""

    def before_backward(self, strategy, **kwargs) -> None:
        strategy.loss = strategy.loss + strategy.model[-1].bias.square().sum()


class Witness(SupervisedPlugin):
    """Notes the labels that metrics would see."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[list[int]] = []

    def after_training_iteration(self, strategy, **kwargs) -> None:
        self.labels.append(strategy.mb_y.tolist())
        assert len(strategy.mb_output) == len(strategy.mb_x) == len(strategy.mb_y)


def memory_of(labels: str = "hard", **options) -> DistilledBuffer:
    return DistilledBuffer(12, **({"images_per_class": 2, "method": "random", "labels": labels} | options))


def trained(memory: DistilledBuffer, *plugins, weight: float = 1.0, stream=None) -> nn.Module:
    model = network()
    replay = SoftLabelReplay(memory, batch_size_mem=MEMORY, weight=weight, seed=3)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        plugins=[*plugins[:1], replay, *plugins[1:]],
        evaluator=silent_evaluator(),
    )
    with contained(0, "test"):
        for experience in (stream or benchmark().train_stream)[:3]:
            strategy.train(experience, shuffle=False)
    return model


def drawn(count: int, experience: int):
    """The rows of each memory mini-batch: parts of an endless sequence of random orders."""
    streams = Streams(3).child("experience", experience)
    rows: list[int] = []
    turn = 0
    while True:
        while len(rows) < MEMORY:
            rows += torch.randperm(count, generator=streams.generator("order", turn)).tolist()
            turn += 1
        yield rows[:MEMORY]
        rows = rows[MEMORY:]


def plainly(memory: DistilledBuffer, loss, *, weight: float = 1.0, penalty: float = 0.0, wide=None) -> nn.Module:
    """The same training; `memory` is the one that the other training filled, whose sets do not change."""
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    images, labels, soft = stored(memory)
    for number, experience in enumerate(benchmark().train_stream):
        order = drawn(4 * number, number) if number else None
        for begin in range(0, len(experience.dataset), BATCH):
            items = [experience.dataset[index] for index in range(begin, min(begin + BATCH, len(experience.dataset)))]
            x, y = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
            optimiser.zero_grad()
            if order is None:
                total = F.cross_entropy(model(x), y)
            else:
                rows = next(order)
                z = model(torch.cat([x, images[rows]]))
                of_memory = loss(z[len(x) :], soft[rows] if soft is not None else labels[rows])
                current = F.cross_entropy(z[: len(x)], y)
                total = (len(x) * current + MEMORY * weight * of_memory) / (len(x) + MEMORY)
            total = total + penalty * model[-1].bias.square().sum()
            total.backward()
            optimiser.step()
    return model


def stored(memory: DistilledBuffer) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, labels and soft labels over six outputs, in the order in which classes arrived."""
    images = torch.cat([torch.tensor(ds.images) for ds in memory.sets])
    names = [[int(name) for name in ds.classes] for ds in memory.sets]
    labels = torch.cat([torch.tensor(ids)[torch.tensor(ds.labels)] for ids, ds in zip(names, memory.sets, strict=True)])
    if memory.sets[0].targets is None:
        return to_input(images), labels, None
    soft = torch.zeros(len(images), 6)
    begin = 0
    for ids, ds in zip(names, memory.sets, strict=True):
        soft[begin : begin + len(ds), ids] = torch.tensor(ds.targets).float()
        begin += len(ds)
    return to_input(images), labels, soft


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def kl_t2(z: Tensor, p: Tensor) -> Tensor:
    return 4 * (p * (p.clamp(min=1e-30).log() - (z / 2).log_softmax(1))).sum(1).mean()


def test_with_hard_labels_a_step_is_the_mean_over_current_and_memory_images():
    memory = memory_of()
    model = trained(memory)
    assert same(model, plainly(memory, F.cross_entropy))
    assert not same(model, plainly(memory, lambda z, y: 0 * z.sum()))


def test_a_networks_labels_are_learned_by_the_recipes_loss_at_its_temperature():
    memory = memory_of("network", method=SOFT)
    model = trained(memory, weight=2.0)
    assert [ds.targets.shape[1] for ds in memory.sets] == [2, 4, 6]
    assert same(model, plainly(memory, kl_t2, weight=2.0))
    assert not same(model, plainly(memory, kl_t2))


def test_a_methods_own_labels_are_learned_and_unknown_classes_have_probability_0():
    for kind, method in (("probabilities", SoftAverage(sure=0.6)), ("logits", SoftAverage(sure=0.6, kind="logits"))):
        memory = memory_of("stored", method=method)
        model = trained(memory)
        assert memory.sets[0].manifest.targets == kind
        probable = memory_of("stored", method=SoftAverage(sure=0.6))
        for experience in benchmark().train_stream:
            probable.post_adapt(None, experience)
        assert same(model, plainly(probable, lambda z, p: -(p * z.log_softmax(1)).sum(1).mean()))


def test_logits_are_learned_as_they_are_where_the_recipe_says_so():
    memory = memory_of("logits", method={"name": "random", "recipe": {"loss": "mse"}})
    model = trained(memory)
    assert same(model, plainly(memory, lambda z, t: (z - t).square().mean()))


def test_what_other_plugins_add_to_the_loss_stays_as_it_is_before_and_after():
    memory = memory_of()
    assert same(trained(memory, Penalty(), Penalty()), plainly(memory, F.cross_entropy, penalty=2.0))


def test_what_is_measured_is_of_current_images():
    memory, witness = memory_of(), Witness()
    trained(memory, Witness(), witness)
    assert [len(labels) for labels in witness.labels] == [BATCH] * 9
    assert witness.labels[3:6] == [[0] * 4, [0, 0, 5, 5], [5] * 4]


def test_all_images_come_before_any_comes_again():
    rows = [row for part in islice(drawn(4, 1), 4) for row in part]
    assert all(sorted(rows[begin : begin + 4]) == [0, 1, 2, 3] for begin in range(0, 20, 4))


def test_the_memorys_draws_leave_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    plugin = SoftLabelReplay(memory_of(), batch_size_mem=2)
    for experience in benchmark().train_stream[:1]:
        plugin.storage_policy.post_adapt(None, experience)
    plugin.before_training_exp(type("Strategy", (), {"clock": type("Clock", (), {"train_exp_counter": 1})}))
    plugin._memory.draw()
    assert torch.equal(torch.rand(1), expected)


def test_data_without_task_labels_are_replayed_too():
    groups = {"train": (to_input, None), "eval": (to_input, None)}
    data = {name: as_classification_dataset(Images(), transform_groups=groups) for name in ("train", "test")}
    stream = class_incremental_benchmark(data, num_experiences=3, class_order=list(range(6))).train_stream
    memory = memory_of("network")
    trained(memory, stream=stream)
    assert [ds.classes for ds in memory.sets] == [("0", "1"), ("0", "1", "2", "3"), ("0", "1", "2", "3", "4", "5")]


@pytest.mark.parametrize("options", [{"batch_size_mem": 0}, {"batch_size_mem": 2, "weight": 0.0}])
def test_numbers_that_cannot_be_are_refused(options):
    with pytest.raises(
        UserError, match=r"SoftLabelReplay needs batch_size_mem of at least 1 and weight above 0, not \w"
    ):
        SoftLabelReplay(memory_of(), **options)


def test_a_loss_that_cannot_learn_the_labels_is_refused_before_the_second_experience_begins():
    memory = memory_of("network", method={"name": "random", "recipe": {"loss": "mse"}})
    with pytest.raises(
        UserError, match="loss 'mse' compares outputs with logits or features, and the set has probabil"
    ):
        trained(memory)
    assert len(memory.sets) == 1
