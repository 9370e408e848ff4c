"""Every DSA transform against its formula, written pixel by pixel, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dd_core import augment, streams
from dd_core.augment import names as augment_names


def images(*, n: int = 5, channels: int = 3, height: int = 9, width: int = 9) -> Tensor:
    shape = (n, channels, height, width)
    return torch.randn(shape, generator=streams.generator(0, "images"), dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_brightness_adds_its_amount():
    x, amount = images(), numbers(-0.5, -0.1, 0.0, 0.2, 0.5)
    plain = torch.stack([image + float(b) for image, b in zip(x, amount, strict=True)])
    torch.testing.assert_close(augment.brightness(x, amount), plain)


def test_saturation_stretches_each_pixel_about_its_grey():
    x, factor = images(), numbers(0.0, 0.5, 1.0, 1.5, 2.0)
    plain = torch.empty_like(x)
    for n in range(5):
        for i in range(9):
            for j in range(9):
                grey = sum(x[n, c, i, j] for c in range(3)) / 3
                for c in range(3):
                    plain[n, c, i, j] = (x[n, c, i, j] - grey) * factor[n] + grey
    torch.testing.assert_close(augment.saturation(x, factor), plain)


def test_contrast_stretches_each_image_about_its_mean():
    x, factor = images(), numbers(0.5, 0.8, 1.0, 1.2, 1.5)
    plain = torch.stack([(x[n] - x[n].sum() / 243) * factor[n] + x[n].sum() / 243 for n in range(5)])
    torch.testing.assert_close(augment.contrast(x, factor), plain)


def test_color_is_brightness_saturation_and_contrast():
    x, drawn = images(), augment.Parameters("color", numbers(0.3, 0.5, 1.4).view(1, 3))
    bright = x + 0.3
    grey = bright.mean(1, keepdim=True)
    coloured = (bright - grey) * 0.5 + grey
    mean = coloured.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(augment.apply(x, drawn), (coloured - mean) * 1.4 + mean)


def test_crop_shifts_and_fills_with_zero():
    x, shift = images(width=7), torch.tensor([[0, 0], [1, -1], [-1, 1], [2, 3], [-9, 0]])
    plain = torch.zeros_like(x)
    for n in range(5):
        for i in range(9):
            for j in range(7):
                row, column = i + int(shift[n, 0]), j + int(shift[n, 1])
                if 0 <= row < 9 and 0 <= column < 7:
                    plain[n, :, i, j] = x[n, :, row, column]
    assert torch.equal(augment.crop(x, shift), plain)


def test_cutout_blanks_half_of_each_side_clamped_at_the_border():
    x, centre = images(height=8, width=9), torch.tensor([[0, 0], [8, 8], [4, 4], [3, 0], [7, 5]])
    plain = x.clone()
    for n in range(5):
        for a in range(4):  # int(8 / 2 + 0.5) rows
            for b in range(5):  # int(9 / 2 + 0.5) columns
                row = min(max(int(centre[n, 0]) + a - 2, 0), 7)
                column = min(max(int(centre[n, 1]) + b - 2, 0), 8)
                plain[n, :, row, column] = 0
    assert torch.equal(augment.cutout(x, centre), plain)


def test_flip_mirrors_the_chosen_images():
    x, flipped = images(), torch.tensor([True, False, True, True, False])
    plain = x.clone()
    for n in (0, 2, 3):
        for j in range(9):
            plain[n, :, :, j] = x[n, :, :, 8 - j]
    assert torch.equal(augment.flip(x, flipped), plain)


def sampled_plainly(x: Tensor, matrices: list[list[list[float]]], *, align_corners: bool) -> Tensor:
    """Bilinear sampling, 0 outside, at matrix @ (x, y), where both coordinates run from -1 to 1."""
    out, (height, width) = torch.zeros_like(x), x.shape[2:]

    def to_unit(index: float, side: int) -> float:
        return 2 * index / (side - 1) - 1 if align_corners else (2 * index + 1) / side - 1

    def to_pixel(unit: float, side: int) -> float:
        return (unit + 1) / 2 * (side - 1) if align_corners else ((unit + 1) * side - 1) / 2

    for n, ((a, b), (c, d)) in enumerate(matrices):
        for i in range(height):
            for j in range(width):
                right, down = to_unit(j, width), to_unit(i, height)
                column = to_pixel(a * right + b * down, width)
                row = to_pixel(c * right + d * down, height)
                for near_row in (math.floor(row), math.floor(row) + 1):
                    for near_column in (math.floor(column), math.floor(column) + 1):
                        if 0 <= near_row < height and 0 <= near_column < width:
                            weight = (1 - abs(row - near_row)) * (1 - abs(column - near_column))
                            out[n, :, i, j] += weight * x[n, :, near_row, near_column]
    return out


@pytest.mark.parametrize("align_corners", [True, False])
def test_scale_samples_at_scaled_coordinates(*, align_corners: bool):
    x = images(n=3, width=7)
    factor = numbers(1 / 1.2, 1.1, 1.2, 0.9, 0.95, 1.2).view(3, 2)
    matrices = [[[float(fx), 0.0], [0.0, float(fy)]] for fy, fx in factor]
    plain = sampled_plainly(x, matrices, align_corners=align_corners)
    torch.testing.assert_close(augment.scale(x, factor, align_corners=align_corners), plain)


@pytest.mark.parametrize("align_corners", [True, False])
def test_rotate_samples_at_turned_coordinates(*, align_corners: bool):
    x, angle = images(n=3, width=7), numbers(-0.26, 0.1, 0.26)
    cosines = [(math.cos(a), math.sin(a)) for a in angle.tolist()]
    plain = sampled_plainly(x, [[[c, -s], [s, c]] for c, s in cosines], align_corners=align_corners)
    torch.testing.assert_close(augment.rotate(x, angle, align_corners=align_corners), plain)


@pytest.mark.parametrize("align_corners", [True, False])
def test_a_drawn_rotation_places_pixels_as_asked(*, align_corners: bool):
    """Of an oblong image: a square one is turned alike either way, and scaling is the same for all."""
    x = images(n=2, width=7)
    drawn = augment.draw_parameters("rotate", rows=2, image_size=(9, 7), generator=streams.generator(3, "draw"))
    plain = augment.rotate(x, drawn.values[:, 0].double(), align_corners=align_corners)
    found = augment.dsa(x, "rotate", generator=streams.generator(3, "draw"), align_corners=align_corners)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("kind", augment_names.KINDS)
@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_reach_the_images(kind: str, rows: int):
    x = images(n=2, height=5, width=5).requires_grad_()
    drawn = augment.draw_parameters(kind, rows=rows, image_size=(5, 5), generator=streams.generator(3, "draw"))
    assert torch.autograd.gradcheck(lambda y: augment.apply(y, drawn), x)
    assert torch.autograd.grad(augment.apply(x, drawn).sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("kind", augment_names.KINDS)
def test_second_derivatives_exist(kind: str):
    x = images(n=2, height=5, width=5).requires_grad_()
    drawn = augment.draw_parameters(kind, rows=2, image_size=(5, 5), generator=streams.generator(3, "draw"))
    assert torch.autograd.gradgradcheck(lambda y: augment.apply(y, drawn).pow(3), x)


@pytest.mark.parametrize("kind", augment_names.KINDS)
def test_a_batch_is_its_images_one_by_one(kind: str):
    x = images(n=4)
    drawn = augment.draw_parameters(kind, rows=4, image_size=(9, 9), generator=streams.generator(5, "draw"))
    alone = [augment.apply(x[n : n + 1], augment.Parameters(kind, drawn.values[n : n + 1])) for n in range(4)]
    torch.testing.assert_close(augment.apply(x, drawn), torch.cat(alone))
