"""`DistilledBuffer` on small Avalanche benchmarks: what it may see, what it hands out, how large it is."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from dd_apps.continual import DistilledBuffer
from dd_apps.continual.adapter import contained, contents, filled
from dd_core.distilled import Size
from dd_core.distiller import FinishedDistiller, SelectionConfig
from dd_core.errors import UserError
from dd_core.images import indices_by_class

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark, split_online_stream
    from avalanche.benchmarks.scenarios.deprecated.generic_benchmark_creation import (
        LazyStreamDefinition,
        create_lazy_generic_benchmark,
    )
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset, as_classification_dataset
    from avalanche.benchmarks.utils.data_loader import ReplayDataLoader

MEAN, STD = 0.25, 0.5
TO_INPUT = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
NORMALISE = transforms.Normalize((MEAN,), (STD,))
TINY_DM = {"name": "dm", "steps": 2, "recipe": {"network": "convnet-2-w4"}}


class Images(Dataset):
    """uint8 (N, 8, 8) images as a user's data set has them; it remembers who was looked at."""

    def __init__(self, pixels: np.ndarray, labels: list[int], form: str = "pil") -> None:
        self.pixels, self.targets, self.form = pixels, labels, form
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int):
        self.seen.add(index)
        if self.form == "pil":
            return Image.fromarray(self.pixels[index]), self.targets[index]
        image = torch.from_numpy(self.pixels[index])[None]
        return (image / 255 if self.form == "float" else image), self.targets[index]


def pixels(count: int = 24, seed: int = 0) -> np.ndarray:
    """Images whose brightness says their class (index % 6) and whose noise says which one they are."""
    noise = np.random.default_rng(seed).integers(0, 20, (count, 8, 8))
    return (noise + 30 * (np.arange(count) % 6)[:, None, None] + 20).astype(np.uint8)


def images(form: str = "pil", count: int = 24, seed: int = 0) -> Images:
    return Images(pixels(count, seed), [index % 6 for index in range(count)], form)


def benchmark(train: Images, transform=TO_INPUT, **options):
    options = {"fixed_class_order": [4, 1, 0, 5, 3, 2]} | options
    return nc_benchmark(
        train, images(train.form), 3, task_labels=False, train_transform=transform, eval_transform=transform, **options
    )


def buffer_of(*experiences, max_size: int = 6, images_per_class: int = 1, **options) -> DistilledBuffer:
    options = {"method": "average"} | options
    buffer = DistilledBuffer(max_size, images_per_class=images_per_class, **options)
    for experience in experiences:
        buffer.post_adapt(None, experience)
    return buffer


# --- the right pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "transform"),
    [("pil", TO_INPUT), ("float", NORMALISE), ("uint8", transforms.Lambda(lambda x: x / 255 - 0.5))],
)
@pytest.mark.parametrize("group", ["train", "eval"])
def test_a_replayed_image_goes_through_the_experiences_transforms_exactly_once(form, transform, group):
    train = images(form)
    experience = benchmark(train, transform).train_stream[0]
    data = buffer_of(experience).buffer.with_transforms(group)
    for image, label, _ in data:
        mean = pixels()[np.arange(24) % 6 == label].mean(0)
        stored = np.rint(mean).astype(np.uint8)
        raw = Images(stored[None], [label], form)[0][0]
        assert torch.equal(image, transform(raw))
    assert {type(value) for value in data[0]} == {type(value) for value in experience.dataset[0]}


def test_train_and_eval_transforms_are_kept_apart():
    options = {
        "train_transform": TO_INPUT,
        "eval_transform": transforms.ToTensor(),
        "fixed_class_order": list(range(6)),
    }
    stream = nc_benchmark(images(), images(), 3, task_labels=False, **options).train_stream
    data = buffer_of(stream[0]).buffer
    for (trained, *_), (evaluated, *_) in zip(data.train(), data.eval(), strict=True):
        assert torch.allclose(trained, (evaluated - MEAN) / STD)


def test_normalised_tensors_under_the_transforms_are_refused():
    train = images("float")
    train.pixels = train.pixels.astype(np.float32) * -1
    with pytest.raises(UserError, match="put ToTensor and Normalize into its train_transform"):
        buffer_of(benchmark(train, None).train_stream[0])


def test_images_of_several_sizes_are_refused():
    class Uneven(Images):
        def __getitem__(self, index: int):
            image, label = super().__getitem__(index)
            return image.resize((8 + index // 12, 8)), label

    resize = transforms.Compose([transforms.Resize((8, 8)), TO_INPUT])
    with pytest.raises(UserError, match=r"not alike \(1x8x8, 1x8x9\)"):
        buffer_of(benchmark(Uneven(pixels(), images().targets), resize).train_stream[0])


def test_images_that_are_transformed_in_two_ways_are_refused():
    first = benchmark(images(), TO_INPUT).train_stream[0].dataset
    second = benchmark(images(), transforms.ToTensor()).train_stream[0].dataset
    with pytest.raises(UserError, match="different transforms"):
        buffer_of().update_from_dataset(first.concat(second))


def test_remapped_class_ids_are_kept():
    options = {"fixed_class_order": [4, 1, 0, 5, 3, 2], "class_ids_from_zero_from_first_exp": True}
    stream = benchmark(images(), **options).train_stream
    buffer = buffer_of(*stream)
    assert list(buffer.buffer_groups) == [0, 1, 2, 3, 4, 5]
    for shown, original in enumerate([4, 1, 0, 5, 3, 2]):
        stored = buffer.buffer_groups[shown].images[0, 0].numpy()
        assert np.array_equal(stored, np.rint(pixels()[np.arange(24) % 6 == original].mean(0)))


# --- what it may see ---------------------------------------------------------------------------------------------


def test_only_images_of_the_current_experience_are_looked_at():
    train = images()
    stream = benchmark(train).train_stream
    buffer = buffer_of()
    for experience, classes in zip(stream, [{1, 4}, {0, 5}, {2, 3}], strict=True):
        train.seen.clear()
        buffer.post_adapt(None, experience)
        assert train.seen == {index for index in range(24) if index % 6 in classes}


def test_other_experiences_images_change_nothing_and_its_own_do():
    theirs, ours = images(), images()
    theirs.pixels[np.arange(24) % 6 == 0] = 255  # class 0 comes in experience 1
    ours.pixels[np.arange(24) % 6 == 4] += 9  # class 4 comes in experience 0
    made = [
        contents(buffer_of(benchmark(train).train_stream[0], method=TINY_DM))[0] for train in (images(), theirs, ours)
    ]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_class_is_distilled_alike_whichever_class_came_before():
    first = benchmark(images()).train_stream
    other = benchmark(images(), fixed_class_order=[0, 5, 4, 1, 3, 2]).train_stream
    one, two = buffer_of(*first, method=TINY_DM), buffer_of(*other, method=TINY_DM)
    for label in (4, 1):
        assert torch.equal(one.buffer_groups[label].images, two.buffer_groups[label].images)


def test_the_seed_decides():
    experience = benchmark(images()).train_stream[0]
    made = [contents(buffer_of(experience, method=TINY_DM, seed=seed))[0] for seed in (0, 0, 1)]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_distilling_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    buffer_of(benchmark(images()).train_stream[0], method=TINY_DM)
    assert torch.equal(torch.rand(3), expected)


# --- what it holds -----------------------------------------------------------------------------------------------


def test_groups_are_keyed_by_class_and_the_items_fit_a_replay_loader():
    stream = benchmark(images()).train_stream
    buffer = buffer_of(*stream[:2], images_per_class=2, max_size=12)
    assert set(buffer.buffer_groups) == {4, 1, 0, 5}
    assert [set(data.targets) for data in buffer.buffer_datasets] == [{1}, {4}, {0}, {5}]
    assert Counter(buffer.buffer.targets) == {4: 2, 1: 2, 0: 2, 5: 2}
    batch = next(iter(ReplayDataLoader(stream[2].dataset, buffer.buffer, batch_size=8, batch_size_mem=4)))
    assert batch[0].shape == (12, 1, 8, 8)
    assert batch[1].dtype == torch.int64
    assert set(batch[2].tolist()) == {0}
    assert set(batch[1][8:].tolist()) <= {4, 1, 0, 5}


def test_an_empty_buffer_says_so():
    assert len(buffer_of().buffer) == 0
    assert buffer_of().nbytes == 0


def test_bytes_are_one_a_value_and_repetition_is_free():
    stream = benchmark(images()).train_stream
    assert buffer_of(*stream).nbytes == 6 * 64
    assert buffer_of(*stream, fill=32).nbytes == 6 * 64


def test_the_joined_data_set_is_cached_until_something_changes():
    stream = benchmark(images()).train_stream
    buffer = buffer_of(stream[0])
    before = buffer.buffer
    assert buffer.buffer is before
    buffer.post_adapt(None, stream[1])
    after = buffer.buffer
    assert len(after) == 4
    buffer.resize(None, 5)
    assert buffer.buffer is not after


def test_resize_keeps_the_first_images_of_every_class():
    stream = benchmark(images()).train_stream
    buffer = buffer_of(*stream[:2], images_per_class=3, max_size=18, method="random")
    before = {label: group.images.clone() for label, group in buffer.buffer_groups.items()}
    buffer.resize(None, 9)
    assert buffer.max_size == 9
    for label, group in buffer.buffer_groups.items():
        assert torch.equal(group.images, before[label][:2])
        assert len(group.buffer) == 2
    assert buffer.nbytes == 8 * 64


def test_resize_refuses_to_leave_a_class_without_an_image():
    buffer = buffer_of(*benchmark(images()).train_stream[:2])
    with pytest.raises(UserError, match="a memory of 3 images has no room for 4 classes; make max_size 4"):
        buffer.resize(None, 3)
    assert (buffer.max_size, len(buffer.buffer)) == (6, 4)


def test_more_classes_than_there_is_room_for_share_it():
    stream = benchmark(images()).train_stream
    buffer = buffer_of(*stream[:2], images_per_class=3, max_size=7)
    assert Counter(buffer.buffer.targets) == {4: 1, 1: 1, 0: 1, 5: 1}
    small = buffer_of(images_per_class=1, max_size=5)
    for experience in stream[:2]:
        small.update_from_dataset(experience.dataset)
    with pytest.raises(UserError, match="no room for 6 classes"):
        small.post_adapt(None, stream[2])
    assert len(small.buffer) == 4


def uneven(counts: dict[int, int]) -> Images:
    """`counts[label]` images of each class, of the brightness that `pixels` gives that class."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    noise = np.random.default_rng(0).integers(0, 20, (len(labels), 8, 8))
    return Images((noise + 30 * np.array(labels)[:, None, None] + 20).astype(np.uint8), labels)


@pytest.mark.parametrize("method", ["random", "average", "herding", "k-means", TINY_DM])
def test_a_class_with_fewer_images_than_its_share_keeps_as_many_as_it_has(method, tmp_path):
    stream = benchmark(uneven({4: 2, 1: 7, 0: 1, 5: 1, 3: 6, 2: 6})).train_stream
    buffer = buffer_of(*stream, method=method, images_per_class=4, max_size=24, folder=tmp_path, fill=16)
    assert {label: len(group.images) for label, group in buffer.buffer_groups.items()} == {
        1: 4,
        4: 2,
        0: 1,
        5: 1,
        2: 4,
        3: 4,
    }
    for label, group in buffer.buffer_groups.items():
        means = group.images.float().mean((1, 2, 3))
        assert ((means > 20 + 30 * label) & (means < 40 + 30 * label)).all() or method == TINY_DM
    assert Counter(buffer.buffer.targets) == {1: 4, 4: 2, 0: 1, 5: 1, 2: 4, 3: 4}
    assert buffer.nbytes == 16 * 64
    sizes = [made.size for made in buffer.provenances]
    assert sizes == [Size(counts=(4, 2)), Size(ipc=1), Size(ipc=4)]
    again = buffer_of(*stream, method=method, images_per_class=4, max_size=24, folder=tmp_path)
    assert np.array_equal(contents(buffer)[0], contents(again)[0])


def test_a_rare_class_leaves_its_room_unused_and_the_others_share_theirs_equally():
    stream = benchmark(uneven({4: 1, 1: 7, 0: 7, 5: 7, 3: 6, 2: 6})).train_stream
    buffer = buffer_of(*stream, method="random", images_per_class=4, max_size=15)
    assert Counter(buffer.buffer.targets) == {4: 1, 1: 2, 0: 2, 5: 2, 3: 2, 2: 2}
    buffer.resize(None, 6)
    assert set(Counter(buffer.buffer.targets).values()) == {1}


def test_a_method_that_cannot_make_unequal_counts_says_so_before_anything_is_made(tmp_path):
    blocks = {"name": "dataset-distillation", "blocks": 2, "steps": 1, "recipe": {"network": "convnet-1-w4-nonorm"}}
    stream = benchmark(uneven({4: 3, 1: 7, 0: 7, 5: 7, 3: 6, 2: 6})).train_stream
    with pytest.raises(UserError, match="3 images of class 1 do not fall into 2 equal blocks"):
        buffer_of(stream[0], method=blocks, images_per_class=4, max_size=24, folder=tmp_path)
    assert list(tmp_path.glob("*.safetensors")) == []


# --- a budget too small for the whole stream ---------------------------------------------------------------------

TOO_SMALL = "^a memory of 5 images has no room for 6 classes; make max_size 6$"


def test_a_memory_too_small_for_the_rest_of_the_stream_is_refused_at_the_first_experience():
    train = images()
    stream = benchmark(train).train_stream
    small = buffer_of(max_size=5)
    with pytest.raises(UserError, match=TOO_SMALL):
        small.post_adapt(None, stream[0].train())  # as a strategy holds it: its stream is hidden
    assert train.seen == set()
    assert len(small.buffer) == 0
    buffer_of(*stream, max_size=6)


def test_only_what_comes_from_the_first_experience_on_is_counted():
    stream = benchmark(images()).train_stream
    assert len(buffer_of(*stream[1:], max_size=4).buffer_groups) == 4
    assert len(buffer_of(*stream[:2], max_size=4).buffer_groups) == 4
    with pytest.raises(UserError, match="no room for 4 classes"):
        buffer_of(stream[1], max_size=3)


def test_every_stream_that_can_be_counted_is_and_no_other_is_used_up():
    data = {name: as_classification_dataset(images("uint8")) for name in ("train", "test")}
    eager = class_incremental_benchmark(data, num_experiences=3, seed=0)
    # a slice of an eager stream cannot be told from the whole: its first experience is not refused
    assert len(buffer_of(*eager.train_stream[:2], max_size=4).buffer_groups) == 4
    for counted in (eager, eager.train_stream, list(eager.train_stream), benchmark(images())):
        with pytest.raises(UserError, match=TOO_SMALL):
            buffer_of(max_size=5).check_benchmark(counted)
        buffer_of(max_size=6).check_benchmark(counted)
    online = split_online_stream(eager.train_stream, experience_size=8)
    buffer_of(max_size=5).check_benchmark(online)
    made = online.exps_iter._already_generated
    assert made == []
    buffer_of(next(iter(online)), max_size=5)
    assert len(made) == 1


def test_a_benchmark_that_makes_its_data_sets_lazily_is_not_made_by_counting():
    made = []

    def halves():
        for classes in ((0, 1, 2), (3, 4, 5)):
            made.append(classes)
            yield _make_taskaware_classification_dataset(uneven(dict.fromkeys(classes, 2)))

    definition = LazyStreamDefinition(halves(), 2, [0, 0])
    lazy = create_lazy_generic_benchmark(definition, LazyStreamDefinition(halves(), 2, [0, 0]))
    buffer_of(max_size=3).check_benchmark(lazy)
    assert made == []
    buffer_of(lazy.train_stream[0], max_size=3)
    assert made == [(0, 1, 2)]


def test_the_same_experience_again_changes_nothing_and_a_class_that_comes_back_is_refused():
    stream = benchmark(images()).train_stream
    buffer = buffer_of(stream[0])
    before = buffer.buffer
    buffer.post_adapt(None, stream[0])
    assert buffer.buffer is before
    with pytest.raises(UserError, match="class 1 comes back in a later experience"):
        buffer.post_adapt(None, benchmark(images(seed=1)).train_stream[0])


def test_distilled_sets_are_kept_in_a_folder_and_found_again(tmp_path):
    experience = benchmark(images()).train_stream[0]
    first = buffer_of(experience, method=TINY_DM, folder=tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    written = [file.stat().st_mtime_ns for file in files]
    second = buffer_of(experience, method=TINY_DM, folder=tmp_path)
    assert len(files) == 1
    assert [file.stat().st_mtime_ns for file in files] == written
    assert np.array_equal(contents(first)[0], contents(second)[0])
    with pytest.raises(UserError, match="seed"):
        buffer_of(experience, method=TINY_DM, folder=tmp_path, seed=1)


def test_data_without_task_labels_give_items_without_task_labels():
    train, test = (as_classification_dataset(images()) for _ in range(2))
    stream = class_incremental_benchmark({"train": train, "test": test}, num_experiences=3, seed=0).train_stream
    experience = stream[0]
    buffer = buffer_of(type("Experience", (), {"dataset": experience.dataset}))
    assert len(buffer.buffer[0]) == len(experience.dataset[0]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_class": 0}, "images_per_class must be from 1 to max_size"),
        ({"images_per_class": 7}, "images_per_class must be from 1 to max_size"),
        ({"fill": 0}, "fill must be at least 1"),
        ({"method": "dn"}, "did you mean 'dm'"),
        ({"method": {"name": "dm", "stps": 1}}, "method.stps: unknown key; did you mean 'steps'"),
    ],
)
def test_a_buffer_that_cannot_work_is_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        buffer_of(**options)


class Fixed(SelectionConfig):
    """Class averages that claim to be for one network, which its config does not say."""

    name = "fixed"

    def select(self, context):
        source = context.source
        return torch.stack([source.take(members).float().mean(0) / 255 for members in indices_by_class(source)])

    def build(self, context):
        made = super().build(context)
        return FinishedDistiller(replace(made.export(), manifest=particular(made.export().manifest)))


def particular(value):
    """A manifest or config whose recipe starts from particular weights, without a description of them."""
    recipe = value.recipe.model_copy(update={"initialisation": "sha256:" + "0" * 64})
    return value.model_copy(update={"recipe": recipe})


def test_a_set_for_particular_weights_is_refused():
    refusal = "a set of fixed for networks that start from particular weights; a replay buffer trains any network"
    buffer = buffer_of(method=Fixed())
    with pytest.raises(UserError, match=f"^this is {refusal}$"):
        buffer.post_adapt(None, benchmark(images()).train_stream[0])
    assert len(buffer.buffer) == 0
    with pytest.raises(UserError, match=f"^method: makes {refusal}$"):
        buffer_of(method=particular(Fixed()))


# --- the memory's share of a mini-batch --------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [4, 6, 32])
def test_filled_every_mini_batch_has_its_whole_memory_part_and_no_image_is_preferred(fill):
    stream = benchmark(images(count=240)).train_stream
    buffer = buffer_of(*stream[:2], fill=fill)
    loader = ReplayDataLoader(
        stream[2].dataset, buffer.buffer, batch_size=8, batch_size_mem=fill, oversample_small_tasks=True, shuffle=True
    )
    batches = list(loader)
    assert [len(labels) for _, labels, _ in batches] == [8 + fill] * 10
    assert len(set(Counter(buffer.buffer.targets).values())) == 1
    assert buffer.max_size == 6


def test_stored_a_mini_batch_has_no_more_than_the_stored_images():
    stream = benchmark(images(count=240)).train_stream
    buffer = buffer_of(*stream[:2])
    loader = ReplayDataLoader(
        stream[2].dataset, buffer.buffer, batch_size=8, batch_size_mem=32, oversample_small_tasks=True, shuffle=True
    )
    assert [len(labels) for _, labels, _ in loader] == [8 + 4] * 10


def test_nothing_can_be_filled_with_nothing():
    assert len(filled(buffer_of().buffer, 32)) == 0


# --- Avalanche's side effects ------------------------------------------------------------------------------------


def test_warning_filters_and_generators_are_put_back():
    filters, state = list(warnings.filters), torch.random.get_rng_state()
    numbers = np.random.get_state()[1].copy()
    with contained(3, "test"):
        buffer = buffer_of()
        buffer.update(type("Strategy", (), {"experience": benchmark(images()).train_stream[0]})())
        first = torch.rand(1), np.random.rand()
    assert warnings.filters == filters
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)
    with contained(3, "test"):
        assert (torch.rand(1), np.random.rand()) == first
