"""Views: what is drawn, and that a view shows what torchvision's own cropping and pasting by hand show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as reference

from dd_core import streams
from dd_core.augment import views
from dd_core.augment.view_config import Views
from dd_core.augment.views import Records


def generator(seed: int = 0) -> torch.Generator:
    return streams.generator(seed, "views")


def images(count: int = 6, size: tuple[int, int] = (12, 16), channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, *size, generator=generator(7))


def drawn(count: int, size: tuple[int, int] = (12, 16), seed: int = 0, **fields: object) -> Records:
    return views.draw(Views.model_validate(fields), count=count, image_size=size, generator=generator(seed))


def test_a_view_is_torchvisions_crop_of_the_box_resized_and_mirrored():
    x, records = images(), drawn(6, flip=True)
    shown = views.crops(x, records.boxes, records.flips)
    assert 0 < int(records.flips.sum()) < 6, "both kinds are in the batch"
    for image, box, flipped, view in zip(x, records.boxes.tolist(), records.flips, shown, strict=True):
        expected = reference.resized_crop(image, *box, [12, 16], InterpolationMode.BILINEAR, antialias=False)
        expected = reference.hflip(expected) if flipped else expected
        torch.testing.assert_close(view, expected, rtol=0, atol=2e-5)


def test_a_padded_view_is_the_image_shifted_over_black():
    x, black = images(), torch.tensor([-1.0, -2.0, 0.5])
    records = drawn(6, crop=None, padding=3, flip=False)
    assert {*records.boxes[:, :2].flatten().tolist()} > {-3, 3}
    shown = views.crops(x, records.boxes, records.flips, black=black)
    for image, (top, left, *_), view in zip(x, records.boxes.tolist(), shown, strict=True):
        ground = black.view(3, 1, 1)
        padded = torch.nn.functional.pad(image - ground, (3, 3, 3, 3)) + ground
        torch.testing.assert_close(view, padded[:, 3 + top : 15 + top, 3 + left : 19 + left], rtol=0, atol=2e-5)


def test_boxes_are_within_the_image_with_area_and_form_in_range():
    boxes = drawn(4000, size=(60, 40), crop=(0.25, 0.5), ratio=(0.5, 2.0)).boxes.double()
    top, left, height, width = boxes.unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= 60
    assert (left + width).max() <= 40
    torch.manual_seed(0)
    image = torch.zeros(1, 60, 40)
    expected = torch.tensor([RandomResizedCrop.get_params(image, [0.25, 0.5], [0.5, 2.0]) for _ in range(4000)])
    for column in range(4):
        assert boxes[:, column].mean() == pytest.approx(float(expected[:, column].double().mean()), abs=0.6)
        assert boxes[:, column].std() == pytest.approx(float(expected[:, column].double().std()), abs=0.5)
    area = height * width / 2400
    assert 0.24 < area.min() < 0.27
    assert 0.48 < area.max() < 0.52


def test_where_no_box_fits_it_is_the_largest_one_in_the_centre():
    sizes = torch.tensor([[10, 100], [100, 10], [50, 50]])
    boxes = views.draw_boxes(sizes, scale=(0.9, 1.0), ratio=(1.0, 1.0), generator=generator())
    assert boxes[:2].tolist() == [[0, 45, 10, 10], [45, 0, 10, 10]]
    assert boxes[2, 2] == boxes[2, 3] >= 47


def test_each_image_draws_for_itself():
    boxes = drawn(3, seed=1).boxes
    assert len({tuple(box) for box in boxes.tolist()}) == 3
    assert torch.equal(boxes, drawn(3, seed=1).boxes)
    assert not torch.equal(boxes, drawn(3, seed=2).boxes)


def test_a_cutmix_view_has_a_box_of_its_partner():
    x, records = images(8, (16, 16)), drawn(8, (16, 16), mix="cutmix")
    mixed = views.mix(x, x[records.partners], records)
    assert sorted(records.partners.tolist()) == list(range(8))
    for row in range(8):
        top, left, height, width = records.holes[row].tolist()
        expected = x[row].clone()
        partner = x[records.partners[row]]
        expected[:, top : top + height, left : left + width] = partner[:, top : top + height, left : left + width]
        assert torch.equal(mixed[row], expected)
        assert float(records.shares[row]) == pytest.approx(1 - height * width / 256)


def test_a_mixup_view_is_the_weighted_mean():
    x, records = images(), drawn(6, mix="mixup", mix_alpha=0.8)
    mixed = views.mix(x, x[records.partners], records)
    share = records.shares.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed, share * x + (1 - share) * x[records.partners])
    assert not records.holes.any()


def test_shares_are_of_the_beta_distribution():
    shares = drawn(20_000, mix="mixup", mix_alpha=0.8).shares.double().numpy()
    assert np.mean(shares) == pytest.approx(0.5, abs=0.01)
    assert np.var(shares) == pytest.approx(0.25 / (2 * 0.8 + 1), abs=0.003)


def test_cutmix_boxes_are_as_large_as_those_of_the_paper():
    holes = drawn(20_000, (64, 64), mix="cutmix").holes.numpy()
    numbers = np.random.default_rng(0)
    sides = (64 * np.sqrt(1 - numbers.random(20_000))).astype(int)
    centres = (64 * numbers.random((2, 20_000))).astype(int)
    expected = np.minimum(centres + sides // 2, 64) - np.maximum(centres - sides // 2, 0)
    assert holes[:, 2].mean() == pytest.approx(expected[0].mean(), abs=0.4)
    assert holes[:, 3].std() == pytest.approx(expected[1].std(), abs=0.4)
    assert holes[:, 2].max() == pytest.approx(expected.max(), abs=2)


def test_without_a_mix_a_view_is_the_image_itself():
    x, records = images(), drawn(6)
    assert torch.equal(views.mix(x, x.flip(0), records), x)
    assert records.partners.tolist() == list(range(6))


def test_rows_of_records_are_a_batch():
    x, records = images(), drawn(6, mix="cutmix", flip=True)
    rows = torch.tensor([4, 1])
    part = records.of(rows)
    whole = views.mix(shown := views.crops(x, records.boxes, records.flips), shown[records.partners], records)
    partners = records.of(part.partners)
    other = views.crops(x[part.partners], partners.boxes, partners.flips)
    assert torch.equal(views.mix(views.crops(x[rows], part.boxes, part.flips), other, part), whole[rows])


def test_views_are_differentiable_in_the_images():
    x = images(2, (6, 6)).double().requires_grad_()
    records = drawn(2, (6, 6), flip=True)
    assert torch.autograd.gradcheck(lambda image: views.crops(image, records.boxes, records.flips), (x,))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    drawn(4, mix="mixup")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize(("name", "mirrored"), [("digits", False), ("mnist", False), ("cifar10", True)])
def test_digits_are_not_mirrored_unless_it_is_said(name: str, *, mirrored: bool):
    assert Views().for_source(name).flip is mirrored
    assert Views(flip=True).for_source(name).flip is True
    assert bool(drawn(50, flip=Views().for_source(name).flip).flips.any()) is mirrored


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": (0.5, 0.1)}, "is no range"),
        ({"ratio": (2.0, 1.0)}, "is no range"),
        ({"padding": 4}, "padding 4 excludes crop"),
        ({"crop": (0.0, 1.0)}, "greater than 0"),
    ],
)
def test_what_makes_no_view_is_refused(fields: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        Views.model_validate(fields)
