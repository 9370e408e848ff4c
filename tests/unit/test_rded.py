"""RDED: which crops are kept, and where they come to lie in an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dd_core import artefacts
from dd_core.artefacts import Artefact, Resources
from dd_core.augment import views
from dd_core.distilled import IMAGENET, Size
from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams, generator
from dd_core.testing import blobs
from dd_core.training.mosaic_config import MosaicConfig
from dd_core.training.mosaics import MosaicSpec, mosaics_in, tiled
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec, network_of

TEACHER = TeacherConfig(network="convnet-1-w8-batchnorm", epochs=2, batch_size=12)
SOURCE = blobs()


def spec(counts: tuple[int, ...] = (2, 1, 2), **mosaic: object) -> MosaicSpec:
    settings = MosaicConfig.model_validate({"images": 10, "crops": 3, **mosaic})
    return MosaicSpec(teacher=TeacherSpec.of(SOURCE, TEACHER), mosaic=settings, counts=counts, seed=4)


def made(of: MosaicSpec, cache: Path) -> Artefact:
    return artefacts.get(of, resources=Resources.of([SOURCE], device="cpu"), cache=cache)


def test_a_mosaic_has_the_crops_with_the_least_loss_one_of_an_image(tmp_path: Path):
    teacher = network_of(made(spec(), tmp_path) and artefacts.get(spec().teacher, cache=tmp_path))
    form, label = InputForm.of(SOURCE), 2
    streams = Streams(4).child("mosaics", label)
    members = (SOURCE.labels == label).nonzero().flatten()
    chosen = members[torch.randperm(12, generator=streams.generator("images"))[:10]]
    boxes = views.draw_boxes(
        torch.tensor([[8, 8]]).expand(30, 2), scale=(0.08, 1.0), ratio=(1.0, 1.0), generator=streams.generator("crops")
    )
    best: list[tuple[float, torch.Tensor]] = []
    for position, row in enumerate(chosen.tolist()):
        candidates: list[tuple[float, torch.Tensor]] = []
        for top, left, height, width in boxes[3 * position : 3 * position + 3].tolist():
            part = SOURCE.images[row : row + 1, :, top : top + height, left : left + width].float()
            crop = F.interpolate(part, size=(8, 8), mode="bilinear").round().to(torch.uint8)
            candidates.append((F.cross_entropy(teacher(form(crop)), torch.tensor([label])).item(), crop))
        best.append(min(candidates, key=lambda pair: pair[0]))
    best.sort(key=lambda pair: pair[0])
    tensors, facts = made(spec(), tmp_path).part(label)
    expected = tiled(torch.cat([crop for _, crop in best[:8]]), 2)
    assert abs(tensors["images"].astype(int) - expected.numpy().astype(int)).max() <= 1
    assert facts["loss"] == pytest.approx(sum(loss for loss, _ in best[:8]) / 8, rel=1e-4)


def test_crops_lie_row_by_row_made_smaller_as_pillow_does_it():
    crops = torch.randint(0, 256, (8, 1, 8, 8), generator=generator(0, "crops"), dtype=torch.uint8)
    images = tiled(crops, 2)
    assert images.shape == (2, 1, 8, 8)
    for position in range(8):
        image, (row, column) = divmod(position, 4)[0], divmod(position % 4, 2)
        tile = images[image, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].numpy().astype(int)
        small = Image.fromarray(crops[position, 0].numpy()).resize((4, 4), Image.Resampling.BILINEAR)
        assert abs(tile - np.asarray(small).astype(int)).max() <= 1


def test_a_side_that_the_factor_does_not_divide_repeats_its_last_row():
    images = tiled(torch.arange(9 * 49, dtype=torch.uint8).view(9, 1, 7, 7), 3)
    assert images.shape == (1, 1, 7, 7)
    assert torch.equal(images[..., 6, :], images[..., 5, :])
    assert torch.equal(images[..., 6], images[..., 5])


def test_one_crop_is_an_image_as_it_is():
    crops = torch.randint(0, 256, (3, 3, 5, 5), generator=generator(1, "crops"), dtype=torch.uint8)
    assert torch.equal(tiled(crops, 1), crops)


def test_classes_come_in_order_with_as_many_mosaics_as_asked(tmp_path: Path):
    artefact = made(spec(), tmp_path)
    assert [len(tensors["images"]) for tensors, _ in artefact] == [2, 1, 2]
    images = mosaics_in(artefact)
    assert torch.equal(images[2], torch.from_numpy(artefact.part(1)[0]["images"][0].copy()))


def test_a_set_is_normalised_as_the_teacher_is():
    source = blobs(channels=3)
    config = method(
        "rded",
        teacher={"network": "convnet-1-w8-batchnorm", "epochs": 1, "statistics": "imagenet"},
        mosaic={"images": 12},
        recipe={"network": "convnet-1-w4"},
    )
    pixels = distill(config, source, Size(ipc=2), options=RunOptions(device="cpu")).manifest.pixels
    assert (pixels.mean, pixels.std) == IMAGENET


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "default cache"))


@pytest.mark.parametrize(
    ("mosaic", "ipc", "message"),
    [
        (
            {},
            4,
            r"'blob 0' has 12 images, and 16 are asked for; ask for fewer, as a mosaic has crops of 4",
        ),
        (
            {"images": 8},
            3,
            r"mosaic.images: crops of 8 images .* 3 mosaics have 12 crops; set .* at least 12",
        ),
        ({"factor": 9, "images": 100}, 1, r"as a mosaic has crops of 81 different images"),
    ],
)
def test_too_few_images_are_refused_before_a_teacher_is_trained(mosaic: dict[str, int], ipc: int, message: str):
    config = method("rded", mosaic=mosaic, recipe={"network": "convnet-1-w4"})
    with pytest.raises(UserError, match=message):
        distill(config, SOURCE, Size(ipc=ipc), options=RunOptions(device="cpu"))


def test_more_crops_than_pixels_are_refused():
    many = blobs(per_class=100)
    config = method("rded", mosaic={"factor": 9}, recipe={"network": "convnet-1-w4"})
    with pytest.raises(UserError, match="9 crops do not fit along each side of 8x8 pixels"):
        distill(config, many, Size(ipc=1), options=RunOptions(device="cpu"))
    with pytest.raises(UserError, match=r"crop: from 0.5 to 0.2 of the area is no range"):
        MosaicConfig(crop=(0.5, 0.2))
