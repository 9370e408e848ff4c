"""A memory that keeps views of its images with a teacher's logits, against the same written plainly."""

from __future__ import annotations

import warnings
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_streams import PIXELS, SIDE, Images, SoftAverage, benchmark, to_input
from torch import Tensor, nn

from dd_apps.continual import DistilledBuffer, HybridBuffer, SoftLabelReplay
from dd_apps.continual.adapter import contained, silent_evaluator
from dd_apps.continual.memory.banks import StoredViews
from dd_apps.continual.rows import bank_bytes
from dd_core import artefacts, store
from dd_core.errors import UserError
from dd_core.images import LabelledImages
from dd_core.streams import Streams
from dd_core.training.bank import BankSpec
from dd_core.training.teachers import TeacherSpec, form_in, network_of

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.training.supervised import Naive

BATCH, MEMORY, RATE, EPOCHS = 4, 5, 0.5, 3
VIEW_BYTES = 8 + 1 + 2 * 2  # a box, a flip, and the logits of two classes
EACH = PIXELS + EPOCHS * VIEW_BYTES  # bytes of an image
RECIPE = {
    "network": "convnet-1-w8-batchnorm",
    "views": {"crop": [0.2, 1.0], "flip": True, "mix": "none"},
    "temperature": 2.0,
    "loss": "kl-t2",
}
METHOD = {
    "name": "sre2l",
    "teacher": {"epochs": 2, "batch_size": 6, "views": {"crop": "none", "padding": 0}},
    "recover": {"iterations": 2, "jitter": [0, 1]},
    "recipe": RECIPE,
}
PADDED = METHOD | {"recipe": RECIPE | {"views": {"crop": "none", "padding": 2, "flip": True, "mix": "none"}}}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_APPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def negative(image: Tensor) -> Tensor:
    """What images are trained by, and memory images are not."""
    return 1 - image.float() / 255


def shifted(image: Tensor) -> Tensor:
    """Network inputs for evaluation, in which black is -1."""
    return image.float() / 255 * 3 - 1


def stream_of(train=negative, test=shifted):
    return benchmark(train_transform=train, eval_transform=test).train_stream


def memory_of(size: int = 12, **options) -> DistilledBuffer:
    defaults = {"images_per_class": 2, "method": METHOD, "labels": "bank", "bank_epochs": EPOCHS}
    return DistilledBuffer(size, **(defaults | options))


def filled(experiences: int = 3, size: int = 12, **options) -> DistilledBuffer:
    memory = memory_of(size, **options)
    for experience in stream_of()[:experiences]:
        memory.post_adapt(None, experience)
    return memory


def view(image: Tensor, box: list[int], *, flip: bool, black: float) -> Tensor:
    """What a box shows of a (C, H, W) image, on a canvas of black, brought to the image's size."""
    canvas = F.pad(image, (SIDE,) * 4, value=black)
    top, left, height, width = box[0] + SIDE, box[1] + SIDE, *box[2:]
    cut = canvas[None, :, top : top + height, left : left + width]
    shown = F.interpolate(cut, (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    return shown.flip(2) if flip else shown


# --- what is stored ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [METHOD, PADDED], ids=["crops", "shifts"])
def test_views_are_labelled_by_the_teacher_of_the_experiences_own_images(method):
    memory = filled(method=method)
    for held, classes in zip(memory._held, ([1, 4], [0, 5], [2, 3]), strict=True):
        images = torch.cat([Images().of(label) for label in classes])
        source = LabelledImages(images, torch.tensor([0, 1]).repeat_interleave(6), tuple(map(str, classes)), "a")
        config = memory.config.teacher.model_copy(update={"network": RECIPE["network"]})
        spec = TeacherSpec.of(source, config).model_copy(update={"source_name": "avalanche"})
        teacher = artefacts.get(spec)  # without images at hand: it is found, or it is another one
        form, network, stored = form_in(teacher), network_of(teacher), held.views
        (mean,), (std,) = form.mean, form.std
        inputs = (torch.tensor(held.sets[0].images).float() / 255 - mean) / std
        assert stored.logits.shape == (EPOCHS, 4, 2)
        for epoch, row in np.ndindex(EPOCHS, 4):
            box, flip = stored.boxes[epoch, row].tolist(), bool(stored.flips[epoch, row])
            with torch.no_grad():
                wanted = network(view(inputs[row], box, flip=flip, black=-mean / std)[None])[0]
            assert np.allclose(stored.logits[epoch, row], wanted, rtol=2e-3, atol=2e-3)
    stored = memory._held[0].views
    assert len(np.unique(stored.boxes.reshape(-1, 4), axis=0)) > 4, "views differ by epoch and by image"
    assert set(stored.flips.ravel().tolist()) == {False, True}
    assert not np.allclose(stored.logits[0], stored.logits[1], atol=1e-3)


def test_a_bank_is_an_artefact_of_the_very_set_that_is_held():
    memory = filled()
    banks = {
        artefacts.opened(path.parent, BankSpec).spec.set_digest: artefacts.opened(path.parent, BankSpec).spec
        for path in (artefacts.cache_folder() / "artefacts" / "bank").rglob("complete.json")
    }
    specs = [banks[ds.digest()] for ds in memory.sets]
    assert [(spec.epochs, spec.images, spec.classes, spec.mode) for spec in specs] == [(EPOCHS, 4, 2, "eval")] * 3
    assert len({spec.seed for spec in specs}) == 3
    again = filled(seed=1)
    assert [ds.digest() for ds in again.sets] != [ds.digest() for ds in memory.sets]


def test_images_that_may_not_be_mirrored_are_not():
    free = METHOD | {"recipe": RECIPE | {"views": {"crop": [0.2, 1.0], "mix": "none"}}}
    assert not filled(1, method=free, data="digits")._held[0].views.flips.any()
    assert filled(1, method=free)._held[0].views.flips.any()


def test_bytes_are_those_of_pixels_and_of_every_view():
    memory = filled()
    assert memory.nbytes == 12 * EACH == 12 * (PIXELS + bank_bytes(EPOCHS, 2))
    assert memory._held[0].views.nbytes == 4 * EPOCHS * VIEW_BYTES
    assert filled(bank_epochs=np.int64(1)).nbytes == 12 * (PIXELS + VIEW_BYTES)


# --- budgets and shrinking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nbytes", "kept"), [(2 * EACH, 2), (2 * EACH - 1, 1), (3 * EACH - 1, 2), (3 * EACH, 3)])
def test_bytes_of_a_class_hold_images_with_their_views(nbytes: int, kept: int, monkeypatch: pytest.MonkeyPatch):
    counts: list[list[int]] = []
    distilled = DistilledBuffer._distilled

    def noted(self, source, labels, wanted):
        counts.append(list(wanted))
        return distilled(self, source, labels, wanted)

    monkeypatch.setattr(DistilledBuffer, "_distilled", noted)
    memory = filled(2, size=60, images_per_class=None, bytes_per_class=nbytes)
    assert [len(group.images) for group in memory.buffer_groups.values()] == [kept] * 4
    assert counts == [[kept, kept]] * 2, "no more is distilled than is kept"
    assert memory.nbytes == 4 * kept * EACH


def test_views_follow_the_images_that_a_class_keeps():
    before, after = filled(1, max_bytes=8 * EACH), filled(2, max_bytes=8 * EACH - 1)
    assert [group.held.count(label) for label, group in before.buffer_groups.items()] == [2, 2]
    assert [group.held.count(label) for label, group in after.buffer_groups.items()] == [1] * 4
    assert after.nbytes == 4 * EACH
    (first,), (shrunk, _) = before._held, after._held
    rows = [0, 2]  # of the first image of each class
    assert np.array_equal(shrunk.sets[0].images, first.sets[0].images[rows])
    for name, array in vars(shrunk.views).items():
        assert np.array_equal(array, vars(first.views)[name][:, rows])
    assert np.array_equal(before.buffer_groups[4].views.logits, first.views.logits[:, [2, 3]])
    assert np.array_equal(after.buffer_groups[4].views.logits, first.views.logits[:, [2]])


def test_a_budget_without_room_for_an_image_with_its_views_is_refused_before_anything_is_distilled(monkeypatch):
    monkeypatch.setattr(DistilledBuffer, "_distilled", None)
    memory = memory_of(images_per_class=None, bytes_per_class=EACH - 1)
    line = f"a memory of {EACH - 1} bytes a class has no room for an image of {EACH} bytes; make bytes_per_class {EACH}"
    with pytest.raises(UserError, match=line):
        memory.check_benchmark(stream_of())
    with pytest.raises(UserError, match=line):
        memory.post_adapt(None, stream_of()[0])
    memory_of(max_bytes=6 * EACH).check_benchmark(stream_of())
    with pytest.raises(UserError, match=f"has no room for 6 classes, {EACH} bytes an image; make max_bytes {6 * EACH}"):
        memory_of(max_bytes=6 * EACH - 1).check_benchmark(stream_of())


# --- what is learned -----------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


def trained(memory: DistilledBuffer) -> nn.Module:
    model = network()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        plugins=[SoftLabelReplay(memory, batch_size_mem=MEMORY, seed=3)],
        evaluator=silent_evaluator(),
    )
    with contained(0, "test"):
        for experience in stream_of():
            strategy.train(experience, shuffle=False)
    return model


def drawn(rows: int, experience: int):
    """(row, epoch of the bank) of each memory image of each mini-batch: an endless sequence of random orders."""
    streams = Streams(3).child("experience", experience)
    first = int(torch.randint(EPOCHS, (), generator=streams.generator("bank")))
    pairs: list[tuple[int, int]] = []
    for turn in count():
        order = torch.randperm(rows, generator=streams.generator("order", turn)).tolist()
        pairs += [(row, (first + turn) % EPOCHS) for row in order]
        while len(pairs) >= MEMORY:
            yield pairs[:MEMORY]
            pairs = pairs[MEMORY:]


def plainly(memory: DistilledBuffer, seen: set[tuple[int, int]]) -> nn.Module:
    """The same training; `memory` is the one that the other training filled, whose sets do not change."""
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    rows = [
        (held.sets[0].images[row], held.views, row, [int(name) for name in held.sets[0].classes])
        for held in memory._held
        for row in range(4)
    ]
    for number, experience in enumerate(stream_of()):
        order = drawn(4 * number, number) if number else None
        for begin in range(0, len(experience.dataset), BATCH):
            items = [experience.dataset[index] for index in range(begin, begin + BATCH)]
            x, y = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
            inputs, soft = [x], torch.zeros(0, 6)
            for index, epoch in [] if order is None else next(order):
                image, stored, row, ids = rows[index]
                box, flip = stored.boxes[epoch, row].tolist(), bool(stored.flips[epoch, row])
                inputs.append(view(shifted(torch.tensor(image)), box, flip=flip, black=-1.0)[None])
                p = torch.zeros(1, 6)
                p[0, ids] = (torch.tensor(stored.logits[epoch, row]).float() / 2).softmax(0)
                soft = torch.cat([soft, p])
                seen.add((epoch, index))
            optimiser.zero_grad()
            z = model(torch.cat(inputs))
            total = F.cross_entropy(z[:BATCH], y, reduction="sum")
            of_memory = soft * (soft.clamp(min=1e-30).log() - (z[BATCH:] / 2).log_softmax(1))
            ((total + 4 * of_memory.sum()) / len(z)).backward()
            optimiser.step()
    return model


@pytest.mark.parametrize("method", [METHOD, PADDED], ids=["crops", "shifts"])
def test_a_turn_shows_each_image_by_the_view_of_an_epoch_and_learns_what_the_teacher_made_of_it(method):
    memory, seen = memory_of(method=method), set()
    model, plain = trained(memory), plainly(memory, seen)
    for ours, wanted in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    assert {epoch for epoch, _ in seen} == set(range(EPOCHS)), "of the bank"


def test_class_probabilities_are_learned_by_cross_entropy_too():
    memory = memory_of(method=METHOD | {"recipe": RECIPE | {"loss": "cross-entropy"}})
    model, kl = trained(memory), trained(memory_of())
    assert not torch.allclose(model[-1].bias, kl[-1].bias, atol=1e-4)


# --- on disk -------------------------------------------------------------------------------------------------------


def test_a_memory_goes_on_from_its_folder_with_its_views(tmp_path: Path):
    memory = filled(2)
    memory.resize(None, 4)
    memory.save(tmp_path)
    again = memory_of()
    again.restore(tmp_path, stream_of()[:2])
    assert again.nbytes == memory.nbytes == 4 * EACH
    for one, other in zip(again._held, memory._held, strict=True):
        for name, array in vars(one.views).items():
            assert np.array_equal(array, vars(other.views)[name])
    kept = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert kept == ["memory.json", "set", "set", "views", "views"]
    filled(1).save(tmp_path)
    assert len([*tmp_path.iterdir()]) == 3, "only what is held now stays"


def test_views_that_were_exchanged_in_the_folder_are_noticed(tmp_path: Path):
    filled(2).save(tmp_path)
    one, two = sorted(tmp_path.glob("views-*"))
    one.write_bytes(two.read_bytes())
    with pytest.raises(UserError, match="holds other views than those that were saved there"):
        memory_of().restore(tmp_path, stream_of()[:2])
    store.write_state(one, {"boxes": 3}, {})
    with pytest.raises(UserError, match="holds other views than those that were saved there"):
        memory_of().restore(tmp_path, stream_of()[:2])
    with pytest.raises(UserError, match="has a memory with bank_epochs=3, and this one has bank_epochs=2"):
        memory_of(bank_epochs=2).restore(tmp_path, stream_of()[:2])


def test_the_digest_of_views_is_of_every_array():
    views = filled(1)._held[0].views
    names = {views.digest()}
    for name, array in vars(views).items():
        changed = array.copy()
        changed.flat[0] = not changed.flat[0]
        names.add(StoredViews(**(vars(views) | {name: changed})).digest())
    assert len(names) == 4


# --- what is refused -----------------------------------------------------------------------------------------------


def method_with(**recipe) -> dict:
    return METHOD | {"recipe": RECIPE | recipe}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"bank_epochs": None}, "labels='bank' keeps bank_epochs views of each image, at least 1, not None"),
        ({"bank_epochs": 2.5}, "labels='bank' keeps bank_epochs views of each image, at least 1, not 2.5"),
        ({"bank_epochs": 0}, "labels='bank' keeps bank_epochs views of each image, at least 1, not 0"),
        ({"labels": "hard"}, "bank_epochs=3: a memory with labels='hard' keeps no views; labels='bank' does"),
        ({"method": "random"}, "method: random has no teacher to label views, such as sre2l and rded have"),
        ({"method": SoftAverage()}, "method: soft-average has no teacher to label views"),
        ({"shrinking": "distil"}, "shrinking: a bank has no teacher for images that are distilled again"),
        ({"method": "sre2l"}, "method.recipe.views.mix: a memory that shrinks could drop one of two images that 'cut"),
        ({"method": method_with(views=None)}, "method.recipe.views: a bank needs views, and the recipe has none;"),
        ({"method": method_with(teacher="batch-stats")}, "method.recipe.teacher: a memory's bank is labelled in the"),
        ({"method": method_with(loss="mse")}, "method.recipe.loss: 'mse' learns targets as they are, and a bank gives"),
    ],
)
def test_options_without_a_bank_are_refused_at_once(options, line: str):
    with pytest.raises(UserError) as caught:
        memory_of(**options)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_hybrid_memory_has_no_bank():
    with pytest.raises(UserError, match="labels: a bank is of distilled images, and a hybrid memory has real ones too"):
        HybridBuffer(12, images_per_class=2, method=METHOD, labels="bank", bank_epochs=3)


@pytest.mark.parametrize(
    ("method", "transform", "line"),
    [
        (METHOD, None, r"class 1: its transforms for evaluation make torch.uint8 \(1, 4, 4\) of an image; labels="),
        (METHOD, lambda image: F.pad(to_input(image), (2, 2, 2, 2)), r"make torch.float32 \(1, 8, 8\) of an image"),
        (METHOD, lambda image: image.float().numpy(), r"make a ndarray of an image; labels='bank' shows views of"),
        (PADDED, lambda image: to_input(image) + torch.eye(SIDE), "make several colours of black, and recipe.views.pa"),
    ],
)
def test_transforms_for_evaluation_that_views_cannot_be_shown_of_are_refused(method, transform, line, monkeypatch):
    monkeypatch.setattr(DistilledBuffer, "_distilled", None)  # before anything is distilled
    with pytest.raises(UserError, match=line):
        memory_of(method=method).post_adapt(None, stream_of(test=transform)[0])


def test_a_look_at_the_transforms_for_evaluation_moves_no_generator():
    def drawing(image: Tensor) -> Tensor:
        return to_input(image) + torch.rand(1)

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    memory_of().post_adapt(None, stream_of(test=drawing)[0])
    assert torch.equal(torch.rand(1), expected)


def test_crops_are_shown_of_whatever_black_is_made():
    memory = memory_of()
    memory.post_adapt(None, stream_of(test=lambda image: to_input(image) + torch.eye(SIDE))[0])
    assert len(memory.sets) == 1


def test_a_set_with_a_formation_has_no_bank(monkeypatch: pytest.MonkeyPatch):
    distilled = DistilledBuffer._distilled

    def tiled(self, *arguments):
        ds = distilled(self, *arguments)
        return type(ds)(ds.images, ds.labels, ds.manifest.model_copy(update={"formation": 2}))

    monkeypatch.setattr(DistilledBuffer, "_distilled", tiled)
    with pytest.raises(
        UserError, match="sre2l: its set has a formation, and a bank needs images that are stored whole"
    ):
        filled(1)
