"""Colours and distorted views, image by image, against torchvision's own operations."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from dd_core.augment import colour, distortions, views
from dd_core.augment.view_config import Distortions
from dd_core.streams import generator


def images(channels: int = 3, count: int = 12) -> torch.Tensor:
    drawn = torch.rand(count, channels, 6, 7, generator=generator(0, "colours"))
    drawn[0], drawn[1], drawn[2] = 0.0, 1.0, 0.5  # black, white, grey
    if channels == 3:
        drawn[3, 0] = drawn[3, 1]  # ties between channels
        drawn[4, 1] = drawn[4, 2]
    return drawn


OPERATIONS = {
    "brightness": (colour.brightened, reference.adjust_brightness, (0.0, 2.0)),
    "contrast": (colour.contrasted, reference.adjust_contrast, (0.0, 2.0)),
    "saturation": (colour.saturated, reference.adjust_saturation, (0.0, 2.0)),
    "hue": (colour.hued, reference.adjust_hue, (-0.5, 0.5)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_colours_are_torchvisions_with_a_factor_for_each_image(name: str, channels: int):
    ours, theirs, (low, high) = OPERATIONS[name]
    batch = images(channels)
    factors = torch.linspace(low, high, len(batch))
    result = ours(batch, factors)
    for image, factor, made in zip(batch, factors.tolist(), result, strict=True):
        assert torch.allclose(made, theirs(image, factor), atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_solarised_are_torchvisions(channels: int):
    batch = images(channels)
    for image, grey, solarised in zip(batch, colour.grey(batch), colour.solarised(batch), strict=True):
        if channels == 3:
            assert torch.allclose(grey.expand(3, -1, -1), reference.rgb_to_grayscale(image, 3), atol=1e-6)
        else:
            assert torch.allclose(grey, image)
        assert torch.equal(solarised, reference.solarize(image, 0.5))


ALWAYS = Distortions(flip=True, jitter=1.0, grey=0.5, solarise=(0.5, 0.5))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_its_operations_one_after_the_other(channels: int):
    batch = (images(channels) * 255).round().to(torch.uint8)
    records = distortions.draw(ALWAYS, second=False, count=12, image_size=(6, 7), generator=generator(1, "views"))
    names = list(OPERATIONS)
    made = distortions.distorted(batch, records)
    shown = views.crops(batch.float() / 255, records.boxes, records.flips)
    for row, image in enumerate(shown):
        for number in records.order[row].tolist():
            image = OPERATIONS[names[number]][1](image, records.factors[row, number].item())
        if records.greyed[row] and channels == 3:
            image = reference.rgb_to_grayscale(image, 3)
        if records.solarised[row]:
            image = reference.solarize(image, 0.5)
        assert torch.allclose(made[row], image, atol=3e-6), row


def test_views_are_drawn_as_often_as_the_settings_say():
    settings = Distortions().for_source("cifar10")
    first, second = (
        distortions.draw(settings, second=number, count=20_000, image_size=(32, 32), generator=generator(2, "v"))
        for number in (False, True)
    )
    assert first.solarised.sum() == 0
    for part, expected in ((first.jittered, 0.8), (first.greyed, 0.2), (second.solarised, 0.2), (first.flips, 0.5)):
        assert part.double().mean().item() == pytest.approx(expected, abs=0.015)
    low, high = first.factors.amin(0), first.factors.amax(0)
    assert torch.allclose(low, torch.tensor([0.6, 0.6, 0.8, -0.1]), atol=1e-3)
    assert torch.allclose(high, torch.tensor([1.4, 1.4, 1.2, 0.1]), atol=1e-3)
    assert torch.equal(first.order.sort(1).values, torch.arange(4).expand(20_000, 4))
    assert torch.bincount(first.order[:, 0]).double().div(20_000).sub(0.25).abs().max() < 0.02
    areas = first.boxes[:, 2] * first.boxes[:, 3] / 1024
    assert areas.min() < 0.25
    assert areas.max() > 0.95
    assert areas.double().mean().item() == pytest.approx(0.55, abs=0.02), "large boxes that do not fit are drawn again"


def test_rows_of_records_are_any_batch_and_digits_are_not_mirrored():
    batch = (images() * 255).round().to(torch.uint8)
    records = distortions.draw(ALWAYS, second=True, count=12, image_size=(6, 7), generator=generator(1, "views"))
    rows = torch.tensor([7, 2, 2, 11])
    assert torch.allclose(
        distortions.distorted(batch[rows], records.of(rows)), distortions.distorted(batch, records)[rows], atol=1e-6
    )
    assert Distortions().for_source("mnist").flip is False
    calm = distortions.draw(
        Distortions().for_source("mnist"), second=False, count=99, image_size=(6, 7), generator=generator(1, "views")
    )
    assert not calm.flips.any()
