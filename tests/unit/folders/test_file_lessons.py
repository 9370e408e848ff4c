"""A teacher of a folder that streams: crops of the files' own pixels, decoded ahead, a few mini-batches at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from image_trees import load, picture, put
from PIL import Image

from dd_core import networks
from dd_core.artefacts import Progress, Resources
from dd_core.augment import views
from dd_core.augment.view_config import Views
from dd_core.datasets.streaming import LoadedFolder, StreamedFolder
from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.training import Loop, RealLessons, Settings
from dd_core.training.mosaic_config import MosaicConfig
from dd_core.training.mosaics import MosaicSpec
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec
from dd_core.training.viewing import NativeLessons, viewed, viewed_in_files

CPU, FORM = torch.device("cpu"), InputForm((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
CROPS = Views(crop=(0.1, 0.6), flip=True)
SIZES = [(40, 30), (17, 50), (33, 33), (64, 21), (20, 20), (31, 64), (28, 28)]  # width and height of the photographs
TEACHER = TeacherConfig(network="convnet-1-w4-batchnorm", epochs=2, batch_size=4, views=CROPS)


@pytest.fixture
def photographs(root: Path) -> StreamedFolder:
    """14 of them in two classes, brought to 8 x 8."""
    for index, name in enumerate(("cat", "dog")):
        for number, size in enumerate(SIZES):
            put(root / "train" / name / f"{number}.png", picture(10 * index + number, size=size))
        put(root / "test" / name / "0.png", picture(index))
    source = load(root, memory_limit=0, image_size=8)
    assert isinstance(source, StreamedFolder)
    return source


def with_decoders(source: StreamedFolder, count: int) -> StreamedFolder:
    return replace(source, workers=Workers(count=count + 1))


def records(source: StreamedFolder, settings: Views, *, epoch: int) -> views.Records:
    sizes = torch.tensor([size[::-1] for size in SIZES] * 2)
    generator = Streams(3).generator("views", epoch)
    return views.draw(settings, count=14, image_size=(8, 8), generator=generator, native_sizes=sizes)


def by_hand(source: StreamedFolder, row: int, drawn: views.Records) -> torch.Tensor:
    """A view as Pillow cuts it out of the whole file."""
    top, left, height, width = drawn.boxes[row].tolist()
    whole = Image.open(source.folder / ("cat" if row < 7 else "dog") / f"{row % 7}.png")
    shown = whole.crop((left, top, left + width, top + height)).resize((8, 8), Image.Resampling.BILINEAR)
    shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawn.flips[row] else shown
    pixels = (np.asarray(shown) / 255 - np.array(FORM.mean)) / np.array(FORM.std)
    return torch.from_numpy(pixels).permute(2, 0, 1).float()


def test_crops_are_of_the_files_own_pixels(photographs: StreamedFolder) -> None:
    lessons, rows = viewed_in_files(RealLessons(photographs, FORM), CROPS, Streams(3)), torch.tensor([9, 0, 3, 3])
    for epoch in (0, 2):
        shown, labels = lessons.batch(rows, epoch=epoch, index=1)
        drawn = records(photographs, CROPS, epoch=epoch)
        expected = torch.stack([by_hand(photographs, row, drawn) for row in rows.tolist()])
        torch.testing.assert_close(shown, expected, rtol=0, atol=1e-5)
        assert labels.tolist() == [1, 0, 0, 0]


def test_a_crop_may_show_any_part_of_its_photograph(photographs: StreamedFolder) -> None:
    sizes = photographs.native_sizes.long().repeat(200, 1)
    drawn = views.draw(
        Views(crop=(0.1, 0.6)), count=2800, image_size=(8, 8), generator=torch.Generator(), native_sizes=sizes
    )
    ends = drawn.boxes[:, :2] + drawn.boxes[:, 2:]
    assert (ends <= sizes).all()
    assert (ends == sizes).any(0).all(), "some reach the far edges"


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_partners_are_cut_from_their_own_files(photographs: StreamedFolder, mix: str) -> None:
    settings, rows = CROPS.model_copy(update={"mix": mix}), torch.tensor([12, 1, 5])
    shown, targets = viewed_in_files(RealLessons(photographs, FORM), settings, Streams(3)).batch(rows, epoch=1, index=0)
    drawn = records(photographs, settings, epoch=1)
    own, other = (
        torch.stack([by_hand(photographs, row, drawn) for row in group.tolist()])
        for group in (rows, drawn.partners[rows])
    )
    torch.testing.assert_close(shown, views.mix(own, other, drawn.of(rows)), rtol=0, atol=1e-5)
    shares, labels = drawn.shares[rows, None], photographs.labels
    assert labels is not None
    one_hot = F.one_hot(labels, 2).float()
    torch.testing.assert_close(targets, shares * one_hot[rows] + (1 - shares) * one_hot[drawn.partners[rows]])


# --- which sources do it ------------------------------------------------------------------------------------------


def test_a_folder_has_one_teacher_in_memory_and_another_streamed(root: Path, photographs: StreamedFolder) -> None:
    loaded = load(root, image_size=8)
    assert isinstance(loaded, LoadedFolder)
    streamed, stored = TeacherSpec.of(photographs, TEACHER), TeacherSpec.of(loaded, TEACHER)
    assert streamed.source == stored.source
    assert (streamed.native, stored.native) == (True, False)
    assert streamed.digest() != stored.digest()


def test_without_crops_nothing_is_cut_from_files(photographs: StreamedFolder) -> None:
    padded = TEACHER.model_copy(update={"views": Views(crop=None, padding=2)})
    assert not TeacherSpec.of(photographs, padded).native


def test_teachers_of_before_keep_their_digests(root: Path, photographs: StreamedFolder) -> None:
    spec = TeacherSpec.of(load(root, image_size=8), TEACHER)
    assert "native" not in spec.determining()
    mosaics = MosaicSpec(teacher=spec, mosaic=MosaicConfig(), counts=(1, 1))
    assert "native" not in mosaics.determining()["teacher"]
    assert TeacherSpec.model_validate_json(spec.model_dump_json()) == spec
    native = TeacherSpec.of(photographs, TEACHER)
    assert MosaicSpec(teacher=native, mosaic=MosaicConfig(), counts=(1, 1)).determining()["teacher"]["native"]


def test_files_are_not_replaced_by_images_in_memory(root: Path, photographs: StreamedFolder, tmp_path: Path) -> None:
    resources = Resources.of([load(root, image_size=8)], device="cpu")
    with pytest.raises(
        UserError, match=r"at their own size, and .*my images is in memory; load it by .*memory_limit=0"
    ):
        TeacherSpec.of(photographs, TEACHER).make_part(0, resources=resources, progress=Progress(tmp_path / "state"))


@pytest.mark.parametrize(
    "settings",
    [CROPS, CROPS.model_copy(update={"mix": "mixup"}), Views(crop=None, padding=1, mix="cutmix")],
    ids=["crops", "mixed", "padded"],
)
def test_processes_that_decode_change_nothing(photographs: StreamedFolder, settings: Views, tmp_path: Path) -> None:
    config = TEACHER.model_copy(update={"views": settings})
    made: list[dict[str, np.ndarray]] = []
    for count in (0, 2):
        source = with_decoders(photographs, count)
        spec, resources = TeacherSpec.of(source, config), Resources.of([source], device="cpu")
        made.append(spec.make_part(0, resources=resources, progress=Progress(tmp_path / "state"))[0])
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


# --- the loop announces its mini-batches --------------------------------------------------------------------------


class Noted(Sequence[Any]):
    """Mini-batches, and how many of them were looked at."""

    def __init__(self, batches: Sequence[torch.Tensor]) -> None:
        self.batches, self.taken = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        return self.batches[index]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for rows in self.batches:
            self.taken += 1
            yield rows


def children() -> int:
    return sum("loky" not in type(child).__module__.lower() for child in multiprocessing.active_children())


@pytest.mark.parametrize("kind", ["native", "stored"])
def test_few_mini_batches_are_held(photographs: StreamedFolder, kind: str) -> None:
    real = RealLessons(photographs, FORM, decoders=2)
    lessons = viewed_in_files(real, CROPS, Streams(3)) if kind == "native" else viewed(real, CROPS, Streams(3))
    batches, before = Noted([torch.tensor([index % 14]) for index in range(30)]), children()
    with lessons.ahead(batches, epoch=0):
        for index, rows in enumerate(batches.batches):
            lessons.batch(rows, epoch=0, index=index)
            assert index < batches.taken <= index + 1 + 2 * 2
            assert children() - before == min(2, os.cpu_count() or 1) or batches.taken == 30
    assert children() == before


def test_a_teacher_takes_all_workers_but_itself(photographs: StreamedFolder) -> None:
    source = replace(photographs, workers=Workers(count=2))
    spec, before, rows = TeacherSpec.of(source, TEACHER), children(), torch.tensor([3])
    lessons = spec.loop(spec.fresh(), source, FORM, device=CPU).lessons
    assert isinstance(lessons, NativeLessons)
    with lessons.ahead([rows, rows], epoch=0):
        lessons.batch(rows, epoch=0, index=0)
        assert children() == before + 1
    assert replace(photographs, workers=Workers(count=9, engine="dask")).decoders == 0


def looped(source: StreamedFolder, *, decoders: int) -> Loop:
    network = networks.build("convnet-1-w4", in_channels=3, classes=2, image_size=(8, 8), seed=0)
    lessons = viewed_in_files(RealLessons(source, FORM, decoders=decoders), CROPS, Streams(3))
    settings = Settings(learning_rate=0.1, epochs=2, batch_size=4)
    return Loop(network, lessons, settings, streams=Streams(3), device=CPU)


def test_a_loop_goes_on_between_two_steps_with_what_is_left(photographs: StreamedFolder) -> None:
    whole, stopped = looped(photographs, decoders=0), looped(photographs, decoders=1)
    whole.run()
    for rows in stopped.mini_batches()[:2]:
        stopped.step(rows)  # unannounced, as whoever calls `step` may do
    resumed = looped(photographs, decoders=1)
    resumed.load_state_dict(stopped.state_dict())
    resumed.run()
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_epoch_that_fails_leaves_no_process(photographs: StreamedFolder) -> None:
    loop, before, step = looped(photographs, decoders=2), children(), Loop.step

    def second(rows: torch.Tensor) -> torch.Tensor:
        if loop.mean_loss == loop.mean_loss:  # a step was taken
            raise KeyboardInterrupt
        return step(loop, rows)

    loop.step = second  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert children() == before
