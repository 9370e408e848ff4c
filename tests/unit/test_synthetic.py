"""Learnable pixels: where they start, what networks see of them, how they move, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dd_core.errors import UserError
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.synthetic import Synthetic, initial_noise, initial_real, mosaic
from dd_core.testing import blobs

CPU = torch.device("cpu")
COUNTS = (3, 1, 2)
LABELS = torch.tensor([0, 0, 0, 1, 2, 2])
FORM = InputForm((0.3, 0.6), (0.2, 0.25))


def images_of(pixels: torch.Tensor | None = None, **options) -> Synthetic:
    pixels = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0)) if pixels is None else pixels
    return Synthetic(pixels, LABELS, FORM, **options)


def started(formation: int, *, counts: tuple[int, ...] = COUNTS, per_class: int = 12, side: int = 8):
    """Where pixels start, and the real images of the first class as networks are fed them."""
    source = blobs(channels=3, per_class=per_class, side=side)
    form = InputForm.of(source)
    pixels = initial_real(source, counts, form, streams=Streams(4), device=CPU, formation=formation)
    return pixels, form(source.take((source.labels == 0).nonzero().flatten()))


def reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def test_noise_is_normal_and_named_by_its_stream():
    noise = initial_noise(50, (2, 8, 8), streams=Streams(1))
    assert noise.shape == (50, 2, 8, 8)
    assert noise.mean().abs() < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert torch.equal(noise, torch.randn(50, 2, 8, 8, generator=Streams(1).generator("initial-images")))


def test_pixels_start_from_distinct_real_images_of_their_class():
    pixels, real = started(1)
    rows = [(real == image).flatten(1).all(1).nonzero().flatten() for image in pixels[:3]]
    assert len({int(row) for row in torch.cat(rows)}) == 3
    for image in pixels[3:]:
        assert not (real == image).flatten(1).all(1).any()


@pytest.mark.parametrize(("formation", "side", "tile"), [(2, 8, 4), (3, 9, 3)])
def test_a_formation_starts_from_a_grid_of_reduced_real_images(formation: int, side: int, tile: int):
    """Each real image of a class is in one tile, as long as there are enough."""
    pixels, real = started(formation, per_class=27, side=side)
    small = reduced(real, tile)
    rows = []
    for image in pixels[:3]:
        for i in range(formation):
            for j in range(formation):
                part = image[:, i * tile : (i + 1) * tile, j * tile : (j + 1) * tile]
                near = (small - part).flatten(1).abs().amax(1)
                assert near.min() < 1e-5
                rows.append(int(near.argmin()))
    assert len(set(rows)) == 3 * formation**2


def test_a_class_with_too_few_images_for_all_tiles_repeats_them_evenly_and_with_too_few_for_the_set_is_refused():
    pixels, real = started(2, counts=(3, 1, 2), per_class=4)
    small, tiles = reduced(real, 4), pixels[:3].unfold(2, 4, 4).unfold(3, 4, 4)
    tiles = tiles.permute(0, 2, 3, 1, 4, 5).reshape(12, 3, 4, 4)
    rows = [int((small - tile).flatten(1).abs().amax(1).argmin()) for tile in tiles]
    assert np.bincount(rows).tolist() == [3, 3, 3, 3]
    for start in (0, 4, 8):
        assert len(set(rows[start : start + 4])) == 4, "none comes again before all were there"
    with pytest.raises(UserError, match="class 'blob 0' has 4 images, and 5 are asked for"):
        started(2, counts=(5, 1, 1), per_class=4)


def test_sides_that_the_factor_does_not_divide_cut_the_last_tiles():
    grid = mosaic(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 7, 7), 2)
    assert grid.shape == (1, 1, 7, 7)
    assert grid[0, 0, 3].tolist() == pytest.approx([0, 0, 0, 0, 1, 1, 1])
    assert grid[0, 0, :, 6].tolist() == pytest.approx([1, 1, 1, 1, 3, 3, 3])


def test_networks_see_nearly_the_real_images_that_pixels_started_from():
    smooth = F.interpolate(torch.rand(4, 2, 3, 3), size=(16, 16), mode="bilinear")
    images = Synthetic(mosaic(smooth, 2), torch.tensor([0]), FORM, formation=2)
    assert (images.decode(images.pixels) - smooth).abs().mean() < 0.03


@pytest.mark.parametrize("formation", [1, 2])
def test_what_networks_see_of_some_classes_is_class_after_class(formation: int):
    images = images_of(formation=formation)
    own = images.pixels.detach()[3:6].requires_grad_()
    seen = images.decode_classes(own, COUNTS[1:3])
    expected = [images.decode(images.pixels[3:4]), images.decode(images.pixels[4:6])]
    assert torch.equal(seen, torch.cat(expected))
    assert len(seen) == 3 * formation**2
    assert images.seen_labels.tolist() == LABELS.tolist() * formation**2
    seen.sum().backward()
    assert own.grad is not None
    assert own.grad.sum().item() == pytest.approx(3 * 2 * 64 * formation**2, rel=1e-5)


def test_pixels_are_clamped_to_what_is_asked():
    pixels = torch.tensor([-9.0, 0.25, 9.0]).repeat_interleave(2).view(6, 1, 1, 1).expand(6, 2, 8, 8).clone()
    black_and_white = [[-1.5, 3.5], [-2.4, 1.6]]  # of the two channels, (raw - mean) / std
    for clamp, bounds in (("raw", black_and_white), ("inputs", [[0, 1], [0, 1]]), ("none", [[-9, 9], [-9, 9]])):
        images = images_of(pixels.clone(), clamp=clamp)
        images.updated()
        for channel, (least, most) in enumerate(bounds):
            values = images.pixels.detach()[:, channel, 0, 0]
            assert values.tolist() == pytest.approx([least, least, 0.25, 0.25, most, most])


def test_the_average_follows_the_clamped_pixels_and_becomes_the_set():
    images = images_of(torch.zeros(6, 2, 8, 8), ema=0.75, clamp="inputs")
    expected = torch.zeros(6, 2, 8, 8)
    for value in (0.5, 4.0):
        images.pixels.data.fill_(value)
        images.updated()
        expected = 0.75 * expected + 0.25 * min(value, 1.0)
    assert torch.allclose(torch.tensor(images.export(Recipe(), classes=("a", "b", "c")).images), expected)
    assert (images.pixels == 1).all()


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_state_is_a_copy_and_is_taken_up(ema: float | None):
    images, other = images_of(ema=ema), images_of(torch.zeros(6, 2, 8, 8), ema=ema)
    images.pixels.data += 1
    images.updated()
    state = images.state_dict()
    assert set(state) == ({"pixels"} if ema is None else {"pixels", "average"})
    leaf = other.pixels
    other.load_state_dict(state)
    assert leaf is other.pixels
    assert torch.equal(other.pixels, images.pixels)
    if ema is not None:
        assert torch.equal(other.average, images.average)  # pyright: ignore[reportArgumentType]
    images.pixels.data += 1
    assert not torch.equal(state["pixels"], images.pixels)


def test_the_set_says_all_that_the_images_are():
    targets = torch.rand(6, 3)
    ds = images_of(formation=2).export(
        Recipe(epochs=7), classes=("a", "b", "c"), targets=targets, kind="logits", attack=("a", "b")
    )
    manifest = ds.manifest
    assert (manifest.formation, manifest.targets, manifest.attack, manifest.recipe.epochs) == (
        2,
        "logits",
        ("a", "b"),
        7,
    )
    assert (manifest.pixels.space, manifest.pixels.mean, manifest.pixels.std) == ("normalised", FORM.mean, FORM.std)
    assert ds.labels is not None
    assert ds.labels.tolist() == LABELS.tolist()
    assert torch.equal(torch.tensor(ds.targets), targets)
    alone = Synthetic(torch.zeros(2, 2, 8, 8), None, FORM).export(Recipe(), classes=())
    assert (alone.manifest.task, alone.labels, alone.targets) == ("self-supervised", None, None)


def test_images_that_are_no_grid_are_refused():
    with pytest.raises(UserError, match="8 x 8 pixels cannot be cut into 6 x 6 tiles"):
        images_of(formation=6)


@pytest.mark.parametrize("name", ["dm", "dc", "dsa", "mtt", "dataset-distillation"])
def test_defaults_are_not_written_so_that_earlier_runs_go_on(name: str):
    plain = method(name).model_dump(mode="json")
    assert not {"formation", "clamp"} & plain.keys()
    chosen = method(name, formation=2, clamp=True).model_dump(mode="json")
    assert (chosen["formation"], chosen["clamp"]) == (2, True)


@pytest.mark.parametrize("name", ["krr-st", "optimized", "random", "sre2l"])
def test_methods_without_learned_images_of_one_label_have_no_formation(name: str):
    with pytest.raises(UserError, match=r"method\.formation: unknown key"):
        method(name, formation=2)
