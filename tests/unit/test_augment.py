"""DSA: strategies, what is drawn and from which numbers, and what must not matter (device, batch size)."""

from __future__ import annotations

import math

import pytest
import torch

from dd_core import augment, streams
from dd_core.augment import names as augment_names
from dd_core.errors import UserError

EVERYTHING = "color_crop_cutout_flip_scale_rotate"


def draw(strategy: str, *, rows: int, seed: int = 0, size: tuple[int, int] = (32, 32)) -> augment.Parameters:
    generator = streams.generator(seed, "draw")
    return augment.draw_parameters(strategy, rows=rows, image_size=size, generator=generator)


def test_strategies_are_read_in_order():
    assert augment_names.parse_strategy(EVERYTHING) == augment_names.KINDS
    assert augment_names.parse_strategy("color_crop_cutout_scale_rotate") == tuple(
        kind for kind in augment_names.KINDS if kind != "flip"
    )
    assert augment_names.parse_strategy("none") == ()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("color_crup", "'crup'; did you mean 'crop'?"),
        ("colour", "did you mean 'color'?"),
        ("none_crop", "'none'"),
        ("", "''"),
    ],
)
def test_an_unknown_kind_is_refused_in_one_line(strategy: str, message: str):
    with pytest.raises(UserError) as caught:
        augment_names.parse_strategy(strategy)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "mnist", "kmnist", "usps", "svhn"])
def test_digits_and_letters_are_not_mirrored(name: str):
    assert augment_names.resolve_strategy("auto", name) == "color_crop_cutout_scale_rotate"
    assert augment_names.resolve_strategy("flip", name) == "flip", "unless it is said"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "fashion-mnist", "folder:digits", ""])
def test_other_images_are(name: str):
    assert augment_names.resolve_strategy("auto", name) == EVERYTHING


def test_none_changes_nothing():
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(augment.dsa(x, "none", generator=streams.generator(0, "draw")), x)


def test_every_kind_changes_the_images():
    x = torch.randn(8, 3, 8, 8)
    for kind in augment_names.KINDS:
        assert not torch.equal(augment.dsa(x, kind, generator=streams.generator(1, "draw")), x), kind


def test_siamese_gives_batches_of_any_size_the_same_transform():
    x = torch.randn(5, 3, 12, 12)
    kinds = set()
    for seed in range(40):
        kinds.add(draw(EVERYTHING, rows=1, seed=seed).kind)
        many, few = (
            augment.dsa(part, EVERYTHING, generator=streams.generator(seed, "draw"), siamese=True)
            for part in (x, x[2:4])
        )
        torch.testing.assert_close(many[2:4], few, rtol=0, atol=1e-6)
    assert kinds == set(augment_names.KINDS)


def test_without_siamese_equal_images_part_ways_by_one_kind():
    x = torch.randn(1, 3, 12, 12).expand(6, -1, -1, -1)
    for kind in augment_names.KINDS:
        changed = augment.dsa(x, kind, generator=streams.generator(0, "draw"))
        assert len({tuple(image.flatten().tolist()) for image in changed}) > 1, kind
    assert {draw(EVERYTHING, rows=n, seed=7).kind for n in (1, 2, 50)} == {draw(EVERYTHING, rows=9, seed=7).kind}


def test_equal_generators_give_equal_images_and_leave_the_global_one_alone():
    x, before = torch.randn(4, 3, 8, 8), torch.get_rng_state()
    first, second = (augment.dsa(x, EVERYTHING, generator=streams.generator(2, "draw")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_kinds_are_drawn_equally_often():
    generator = streams.generator(0, "draw")
    drawn = [
        augment.draw_parameters(EVERYTHING, rows=1, image_size=(8, 8), generator=generator).kind for _ in range(3000)
    ]
    for kind in augment_names.KINDS:  # 500 expected, standard deviation 20
        assert 400 < drawn.count(kind) < 600, kind


@pytest.mark.parametrize(
    ("kind", "column", "low", "high"),
    [
        ("color", 0, -0.5, 0.5),
        ("color", 1, 0.0, 2.0),
        ("color", 2, 0.5, 1.5),
        ("scale", 0, 1 / 1.2, 1.2),
        ("scale", 1, 1 / 1.2, 1.2),
        ("rotate", 0, -math.pi / 12, math.pi / 12),
    ],
)
def test_continuous_draws_are_uniform_in_the_papers_range(kind: str, column: int, low: float, high: float):
    values = draw(kind, rows=20000).values[:, column].double()
    unit = (values - low) / (high - low)
    assert unit.min() > -1e-6
    assert unit.max() < 1 + 1e-6
    quarters = torch.histc(unit, bins=4, min=0, max=1) / 20000
    assert torch.allclose(quarters, torch.full((4,), 0.25, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize(
    ("kind", "size", "rows", "columns"),
    [
        ("crop", (32, 8), range(-4, 5), range(-1, 2)),  # an eighth of the side
        ("crop", (28, 28), range(-4, 5), range(-4, 5)),  # 3.5 pixels, rounded up
        ("cutout", (32, 8), range(33), range(9)),  # an even hole: its middle may lie on the far border
        ("cutout", (9, 9), range(9), range(9)),  # an odd one
    ],
)
def test_whole_pixel_draws_take_every_place_equally_often(
    kind: str, size: tuple[int, int], rows: range, columns: range
):
    values = draw(kind, rows=20000, size=size).values
    for column, expected in enumerate((rows, columns)):
        places, counts = values[:, column].unique(return_counts=True)
        assert places.tolist() == list(expected)
        assert counts.min() > 0.7 * 20000 / len(expected)
        assert counts.max() < 1.3 * 20000 / len(expected)


def test_flip_mirrors_half_of_the_images():
    assert set(draw("flip", rows=20000).values.unique().tolist()) == {0.0, 1.0}
    assert abs(float(draw("flip", rows=20000).values.mean()) - 0.5) < 0.02


def test_grey_images_have_no_saturation():
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(augment.saturation(x, torch.tensor([0.0, 1.0, 2.0])), x)


@pytest.mark.parametrize("kind", augment_names.KINDS)
@pytest.mark.parametrize("siamese", [True, False])
def test_nothing_is_read_back_from_the_images_device(*, kind: str, siamese: bool):
    """A meta tensor holds no values, so that any look at them (a host sync on a GPU) raises."""
    x = torch.empty(4, 3, 8, 8, device="meta")
    out = augment.dsa(x, kind, generator=streams.generator(0, "draw"), siamese=siamese)
    assert out.shape == x.shape
    assert out.device.type == "meta"


@pytest.mark.parametrize("kind", augment_names.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_images_dtype_is_kept(kind: str, dtype: torch.dtype):
    x = torch.zeros(2, 3, 8, 8, dtype=dtype)
    assert augment.dsa(x, kind, generator=streams.generator(0, "draw")).dtype == dtype
