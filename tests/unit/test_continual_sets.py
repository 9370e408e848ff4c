"""What a memory stores: a set for each experience, classes as views of its rows, budgets in bytes, soft labels."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_streams import PIXELS, Images, SoftAverage, benchmark, linear, strategy_of, to_input

from dd_apps.continual import DistilledBuffer, HybridBuffer
from dd_apps.continual.memory.budget import Budget
from dd_apps.continual.memory.holding import decoded
from dd_apps.continual.memory.soft_labels import aligned
from dd_core.distilled import Pixels
from dd_core.errors import UserError
from dd_core.recipe import Recipe
from dd_core.store import read_set
from dd_core.system.reporter import Silent


def buffer_of(*experiences, max_size: int = 36, strategy=None, **options) -> DistilledBuffer:
    options = {"method": "random"} | options
    if not {"max_bytes", "bytes_per_class"} & options.keys():
        options.setdefault("images_per_class", 2)
    buffer = DistilledBuffer(max_size, **options)
    for experience in experiences:
        buffer.post_adapt(strategy, experience)
    return buffer


# --- sets and views ----------------------------------------------------------------------------------------------


def test_each_experience_is_a_set_whose_classes_are_named_by_avalanches_ids():
    buffer = buffer_of(*benchmark().train_stream)
    assert [ds.classes for ds in buffer.sets] == [("1", "4"), ("0", "5"), ("2", "3")]
    assert [ds.labels.tolist() for ds in buffer.sets] == [[0, 0, 1, 1]] * 3
    for label, group in buffer.buffer_groups.items():
        ds = next(ds for ds in buffer.sets if str(label) in ds.classes)
        rows = ds.labels == ds.classes.index(str(label))
        assert np.array_equal(group.images.numpy(), ds.images[rows])
        assert 20 + 30 * label <= group.images.min() <= group.images.max() < 40 + 30 * label


def test_a_class_that_shrinks_takes_the_rows_out_of_the_set_and_leaves_the_others():
    buffer = buffer_of(benchmark().train_stream[0], images_per_class=3)
    kept, other = (buffer.buffer_groups[label].images.clone() for label in (4, 1))
    buffer.buffer_groups[4].resize(None, 2)
    assert buffer.sets[0].labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(buffer.buffer_groups[4].images, kept[:2])
    assert torch.equal(buffer.buffer_groups[1].images, other)
    assert len(buffer.buffer_groups[4].buffer) == 2
    assert buffer.nbytes == 5 * PIXELS


def test_networks_see_what_is_stored_whatever_the_sets_normalisation():
    buffer = buffer_of(*benchmark().train_stream)
    for ds in buffer.sets:
        assert ds.manifest.pixels.mean != (0.0,)
        seen = decoded(ds)
        assert np.array_equal(seen.images.numpy(), ds.images)
        assert seen.rows.tolist() == list(range(len(ds)))


def test_all_sets_join_into_one_normalised_by_all_real_images_so_far():
    buffer = buffer_of(*benchmark().train_stream[:2])
    ds = buffer.joined()
    assert ds.classes == ("1", "4", "0", "5")
    assert ds.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(ds.images, np.concatenate([part.images for part in buffer.sets]))
    real = torch.cat([Images().of(label) for label in (0, 1, 4, 5)]).double() / 255
    assert ds.manifest.pixels.mean == pytest.approx([float(real.mean())])
    assert ds.manifest.pixels.std == pytest.approx([float(real.std(unbiased=False))])
    assert ds.nbytes == buffer.nbytes == 8 * PIXELS
    plain = Pixels(space="raw", mean=(0.0,), std=(1.0,))
    assert buffer.joined(pixels=plain, recipe=Recipe(epochs=9)).manifest.recipe.epochs == 9
    with pytest.raises(UserError, match="the memory is empty"):
        buffer_of().joined()


def test_a_file_keeps_what_was_distilled_and_the_memory_what_it_has_room_for(tmp_path):
    buffer = buffer_of(*benchmark().train_stream, max_size=12, images_per_class=3, folder=tmp_path)
    assert [len(ds) for ds in buffer.sets] == [4, 4, 4]
    first = next(path for path in tmp_path.glob("*.safetensors") if path.name.startswith("1-4"))
    assert len(read_set(first)) == 6
    again = buffer_of(*benchmark().train_stream, max_size=12, images_per_class=3, folder=tmp_path)
    assert [ds.digest() for ds in again.sets] == [ds.digest() for ds in buffer.sets]


@pytest.mark.parametrize("kind", [DistilledBuffer, HybridBuffer])
def test_a_memory_that_was_pickled_goes_on_as_the_other(kind):
    stream, strategy = benchmark().train_stream, strategy_of(linear())
    buffer = kind(36, images_per_class=2, labels="network", method="random")
    buffer.post_adapt(strategy, stream[0])
    assert len(buffer.items) == 4  # what was read before, caches too, is pickled
    again = pickle.loads(pickle.dumps(buffer))
    for memory in (buffer, again):
        memory.post_adapt(strategy, stream[1])
    assert [ds.digest() for ds in again.sets] == [ds.digest() for ds in buffer.sets]
    assert again.joined().digest() == buffer.joined().digest()
    assert all(torch.equal(one[0], other[0]) for one, other in zip(buffer.items, again.items, strict=True))


# --- bytes -------------------------------------------------------------------------------------------------------


def test_a_budget_in_bytes_is_shared_by_the_classes_seen_so_far():
    sizes = []
    buffer = buffer_of(max_bytes=13 * PIXELS + 5)
    for experience in benchmark().train_stream:
        buffer.post_adapt(None, experience)
        sizes.append((Counter(buffer.buffer.targets), buffer.nbytes))
    assert sizes == [
        ({1: 6, 4: 6}, 12 * PIXELS),
        ({1: 3, 4: 3, 0: 3, 5: 3}, 12 * PIXELS),
        ({1: 2, 4: 2, 0: 2, 5: 2, 2: 2, 3: 2}, 12 * PIXELS),
    ]


def test_a_budget_of_bytes_a_class_grows_with_the_classes():
    buffer = buffer_of(*benchmark().train_stream, bytes_per_class=3 * PIXELS - 1)
    assert buffer.nbytes == 6 * 2 * PIXELS
    assert set(Counter(buffer.buffer.targets).values()) == {2}


def test_the_tightest_budget_holds():
    assert buffer_of(*benchmark().train_stream, max_bytes=1000 * PIXELS, images_per_class=1).nbytes == 6 * PIXELS
    assert buffer_of(*benchmark().train_stream, max_bytes=1000 * PIXELS, max_size=6).nbytes == 6 * PIXELS


def test_soft_labels_and_learned_rates_take_room():
    strategy = strategy_of(linear())
    buffer = buffer_of(*benchmark().train_stream, strategy=strategy, max_bytes=400, labels="network")
    # float16 labels of 2, 4 and 6 columns: (16 + 4), (16 + 8) and (16 + 12) bytes an image
    assert [ds.targets.shape[1] for ds in buffer.sets] == [2, 4, 6]
    assert buffer.nbytes == 2 * 2 * (20 + 24 + 28) == 288  # a third image of each class would be 432
    learned = SoftAverage(recipe=Recipe(learning_rate=0.5))
    buffer = buffer_of(benchmark().train_stream[0], method=learned, labels="stored")
    assert buffer.nbytes == 4 * (PIXELS + 2 * 4)
    buffer._held[0].rates = 3
    assert buffer.nbytes == 4 * (PIXELS + 2 * 4) + 3 * 4


class LearnedRate(SoftAverage):
    """Says that its learning rate was learned with the images."""

    name = "learned-rate"

    def build(self, context):
        made = super().build(context).export()
        recipe = made.manifest.recipe.model_copy(update={"learning_rate": 0.123})
        manifest = made.manifest.model_copy(update={"recipe": recipe})
        return type(super().build(context))(type(made)(made.images, made.labels, manifest, made.targets))


def test_a_learned_rate_is_counted_and_need_not_fit_beside_every_image():
    each = PIXELS + 2 * 4
    buffer = buffer_of(benchmark().train_stream[0], method=LearnedRate(), labels="stored", bytes_per_class=2 * each + 1)
    assert buffer.nbytes == 2 * each + 4  # two images a class and the rate are 2 bytes too many
    assert len(buffer.items) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_bytes": 6 * PIXELS - 1},
            "a memory of 95 bytes has no room for 6 classes, 16 bytes an image; make max_bytes 96",
        ),
        (
            {"bytes_per_class": PIXELS - 1},
            "a memory of 15 bytes a class has no room for an image of 16 bytes; make bytes_per_class 16",
        ),
    ],
)
def test_a_budget_too_small_for_the_stream_is_refused_at_its_first_experience_and_in_time(options, message: str):
    stream = benchmark().train_stream
    for check in (lambda made: made.post_adapt(None, stream[0]), lambda made: made.check_benchmark(stream)):
        buffer = buffer_of(**options)
        with pytest.raises(UserError) as caught:
            check(buffer)
        assert caught.value.text == message
        assert buffer.sets == ()


def test_a_memory_that_its_labels_overfill_changes_nothing():
    strategy = strategy_of(linear(40))
    buffer = buffer_of(benchmark().train_stream[0], strategy=strategy, max_bytes=200, labels="logits")
    assert buffer.nbytes == 2 * (PIXELS + 40 * 2)  # one image a class, with 40 outputs
    with pytest.raises(
        UserError, match=r"^a memory of 200 bytes has no room for 4 classes, 96 bytes an image; make max_bytes 384$"
    ):
        buffer.post_adapt(strategy, benchmark().train_stream[1])
    assert buffer.nbytes == 192
    assert list(buffer.buffer_groups) == [1, 4]


def test_resizing_counts_bytes_as_well():
    buffer = buffer_of(*benchmark().train_stream[:2], max_bytes=8 * PIXELS)
    buffer.max_bytes = 4 * PIXELS
    buffer.resize(None, 20)
    assert buffer.nbytes == 4 * PIXELS
    assert buffer.max_size == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say how large the memory is: images_per_class, max_bytes or bytes_per_class"),
        ({"max_bytes": 0}, "max_bytes must be at least 1, not 0"),
        ({"bytes_per_class": -1}, "bytes_per_class must be at least 1, not -1"),
        ({"images_per_class": 1, "labels": "soft"}, "unknown kind of labels 'soft'"),
    ],
)
def test_a_memory_that_cannot_be_is_refused_at_once(options, message: str):
    with pytest.raises(UserError, match=message):
        DistilledBuffer(6, **options)


def test_room_is_rounded_down():
    assert Budget(10, images_per_class=4).room(3, 0) == 3
    assert Budget(10, max_bytes=59).room(3, 10) == 1
    assert Budget(10, bytes_per_class=59).room(3, 10) == 3


# --- soft labels ---------------------------------------------------------------------------------------------------

SOFTENED = {"name": "random", "recipe": {"temperature": 2.0}}


def test_the_networks_labels_are_its_probabilities_over_the_classes_seen_so_far():
    network = linear()
    stream = benchmark().train_stream
    buffer = buffer_of(*stream[:2], strategy=strategy_of(network), labels="network", method=SOFTENED)
    assert network.training
    assert [ds.classes for ds in buffer.sets] == [("1", "4"), ("1", "4", "0", "5")]
    assert buffer.sets[1].labels.tolist() == [2, 2, 3, 3]
    for ds, seen in zip(buffer.sets, ([1, 4], [1, 4, 0, 5]), strict=True):
        with torch.no_grad():
            wanted = (network.eval()(to_input(torch.tensor(ds.images)))[:, seen] / 2).softmax(1)
        assert ds.targets.dtype == np.float16
        assert np.allclose(ds.targets, wanted.numpy(), atol=1e-3)
    joined = buffer.joined()
    assert joined.classes == ("1", "4", "0", "5")
    assert (joined.targets[:4, 2:] == 0).all()
    assert joined.targets.sum(1) == pytest.approx(np.ones(8), abs=2e-3)


def test_the_networks_logits_are_all_its_outputs():
    network = linear()
    buffer = buffer_of(*benchmark().train_stream[:2], strategy=strategy_of(network), labels="logits")
    for ds in buffer.sets:
        with torch.no_grad():
            wanted = network.eval()(to_input(torch.tensor(ds.images)))
        assert np.allclose(ds.targets, wanted.numpy(), atol=2e-3)
        assert ds.classes == ("0", "1", "2", "3", "4", "5")
    assert [ds.labels.tolist() for ds in buffer.sets] == [[1, 1, 4, 4], [0, 0, 5, 5]]
    assert buffer.joined().targets.shape == (8, 6)


def test_a_methods_own_soft_labels_are_kept_where_they_are_asked_for():
    stream = benchmark().train_stream
    buffer = buffer_of(*stream[:2], method=SoftAverage(), labels="stored")
    assert buffer.buffer_groups[4].soft.tolist() == [[0.25, 0.75]] * 2
    assert buffer.joined().targets[5].tolist() == [0, 0, 0.75, 0.25]
    with pytest.raises(
        UserError, match="soft-average: its set has soft labels, and this memory has labels='hard'; keep"
    ):
        buffer_of(stream[0], method=SoftAverage())
    with pytest.raises(UserError, match="random: its set has no soft labels to keep; use labels='hard' or 'network'"):
        buffer_of(stream[0], labels="stored")


@pytest.mark.parametrize("labels", ["stored", "network", "logits"])
def test_plugins_that_would_drop_soft_labels_get_no_images(labels: str):
    buffer = DistilledBuffer(6, images_per_class=1, labels=labels)
    with pytest.raises(UserError, match=f"a memory with labels='{labels}' is learned by SoftLabelReplay"):
        len(buffer.buffer)


def test_labels_of_a_network_need_one_with_an_output_for_each_class():
    experience = benchmark().train_stream[0]
    with pytest.raises(
        UserError, match=r"^this memory needs the strategy's network for labels or features, and got no strategy"
    ):
        buffer_of(experience, labels="network")
    with pytest.raises(UserError, match=r"^the memory's class 4 is output 4 of a network that has 3 outputs$"):
        buffer_of(experience, strategy=strategy_of(linear(3)), labels="network")


def test_outputs_are_those_of_the_labels_that_items_carry():
    network = linear()
    options = {"labels": "network", "strategy": strategy_of(network)}
    renamed = benchmark(class_ids_from_zero_from_first_exp=True).train_stream[1]  # classes 0 and 5 are called 2 and 3
    buffer = buffer_of(renamed, **options)
    assert buffer.outputs_of == {2: 2, 3: 3}
    with torch.no_grad():
        wanted = network.eval()(to_input(torch.tensor(buffer.sets[0].images)))[:, [2, 3]].softmax(1)
    assert np.allclose(buffer.sets[0].targets, wanted.numpy(), atol=1e-3)


def test_classes_that_are_one_output_add_their_probabilities_and_get_no_label_of_a_network():
    experience = benchmark().train_stream[0]
    data = experience.dataset.replace_current_transform_group((to_input, lambda label: 0))
    buffer = DistilledBuffer(12, images_per_class=1, method=SoftAverage(), labels="stored")
    buffer.update_from_dataset(data)
    groups = list(buffer.buffer_groups.values())
    soft, known = aligned(groups, buffer.outputs_of, 3, buffer.sets[0].manifest.recipe)
    assert buffer.outputs_of == {1: 0, 4: 0}
    assert soft.tolist() == [[1, 0, 0]] * 2
    assert known.tolist() == [[True, False, False]] * 2
    network = DistilledBuffer(12, images_per_class=1, method="random", labels="network")
    with pytest.raises(
        UserError, match=r"^labels='network' needs an output for each class, .* \(1 is 0, 4 is 0\); use"
    ):
        network.update_from_dataset(data, strategy_of(linear()))


# --- progress ------------------------------------------------------------------------------------------------------


class Listener(Silent):
    """Notes the stages that it hears of."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []

    def stage(self, name: str, *, total: int, first: int = 0):
        self.stages.append((name, total))
        return super().stage(name, total=total, first=first)


def test_a_reporter_hears_of_every_experience_and_of_the_methods_steps():
    listener = Listener()
    tiny = {"name": "dm", "steps": 2, "recipe": {"network": "convnet-1-w4"}}
    buffer_of(*benchmark().train_stream[:2], method=tiny, reporter=listener)
    assert listener.stages == [("memory of classes 1, 4", 1), ("dm", 2), ("memory of classes 0, 5", 1), ("dm", 2)]
