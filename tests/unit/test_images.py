"""LabelledImages, splits, channel statistics and normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from dd_core.errors import UserError
from dd_core.images import (
    LabelledImages,
    Source,
    channel_stats,
    indices_by_class,
    normalise,
    require_labels,
    split_indices,
)


def some_images(count: int = 24, *, channels: int = 3, classes: int = 3, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, 4, 5), dtype=torch.uint8, generator=generator)
    names = tuple(f"class {index}" for index in range(classes))
    return LabelledImages(images, torch.arange(count) % classes, names, "test")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the run-time type checks of these tests, which users do not have either."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_it_is_a_source() -> None:
    assert isinstance(some_images(), Source)
    assert some_images().image_shape == (3, 4, 5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.tensor([0, 1]), r"uint8 \(N, C, H, W\), not torch.float32 \(2, 1, 3, 3\)"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]), r"not torch.uint8 \(2, 3, 3\)"),
        (torch.zeros(0, 1, 3, 3, dtype=torch.uint8), torch.tensor([]), r"not torch.uint8 \(0, 1, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0]), r"labels must be int64 \(2,\)"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0.0, 1.0]), r"labels must be int64"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 2]), "run from 0 to 2, but there are 2"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([-1, 1]), "run from -1 to 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelledImages(images, labels, ("a", "b"), "test")


def test_take_batches_and_subset_agree() -> None:
    source = some_images(10)
    assert torch.equal(torch.cat(list(source.batches(4))), source.images)
    assert [len(batch) for batch in source.batches(4)] == [4, 4, 2]
    wanted = torch.tensor([7, 0, 7])
    assert torch.equal(source.take(wanted), source.images[wanted])
    part = source.subset(wanted)
    assert torch.equal(part.images, source.images[wanted])
    assert require_labels(part).tolist() == [1, 0, 1]
    assert part.classes == source.classes


def test_the_fingerprint_sees_pixels_labels_classes_and_shape() -> None:
    source = some_images()
    same = LabelledImages(source.images.clone(), source.labels, source.classes, "another name")
    assert source.fingerprint() == same.fingerprint()
    images, labels = source.images.clone(), require_labels(source).clone()
    images[3, 2, 1, 0] ^= 1
    labels[5] = 0
    others = [
        LabelledImages(images, source.labels, source.classes, "test"),
        LabelledImages(source.images, labels, source.classes, "test"),
        LabelledImages(source.images, None, source.classes, "test"),
        LabelledImages(source.images, source.labels, ("x", *source.classes[1:]), "test"),
        LabelledImages(source.images.view(24, 3, 5, 4), source.labels, source.classes, "test"),
        source.subset(torch.arange(24).flip(0)),
    ]
    assert len({source.fingerprint(), *(other.fingerprint() for other in others)}) == 7


def test_the_fingerprint_of_a_view_is_that_of_its_copy() -> None:
    source = some_images()
    view = LabelledImages(source.images.transpose(2, 3), source.labels, source.classes, "test")
    copy = LabelledImages(view.images.contiguous(), source.labels, source.classes, "test")
    assert view.fingerprint() == copy.fingerprint() != source.fingerprint()


def test_a_split_is_stratified_complete_and_repeatable() -> None:
    source = some_images(30)
    rest, held = split_indices(source, 0.2, seed=1)
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(30))
    labels = require_labels(source)
    assert torch.bincount(labels[held]).tolist() == [2, 2, 2]
    assert held.tolist() == sorted(held.tolist())
    assert rest.tolist() == sorted(rest.tolist())
    assert torch.equal(split_indices(source, 0.2, seed=1)[1], held)
    assert not torch.equal(split_indices(source, 0.2, seed=2)[1], held)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.29, 3), (0.31, 3), (0.99, 9), (0.01, 1)])
def test_a_split_takes_the_nearest_number_of_each_class(fraction: float, held_out: int) -> None:
    source = some_images(30)
    rest, held = split_indices(source, fraction, seed=0)
    labels = require_labels(source)
    assert torch.bincount(labels[held]).tolist() == [held_out] * 3
    assert torch.bincount(labels[rest]).tolist() == [10 - held_out] * 3


def test_a_split_draws_every_class_anew() -> None:
    """One permutation for all classes would hold out the images at the same places of each."""
    source = some_images(120)
    held = set(split_indices(source, 0.25, seed=0)[1].tolist())
    places = {
        tuple(place for place, row in enumerate(rows.tolist()) if row in held) for rows in indices_by_class(source)
    }
    assert len(places) == 3


def test_split_returns_the_rest_first() -> None:
    rest, held = some_images(30).split(0.2, seed=0)
    assert (len(rest), len(held)) == (24, 6)


def test_a_split_leaves_an_image_of_each_class_on_both_sides() -> None:
    source = some_images(6)
    for fraction in (0.01, 0.99):
        rest, held = split_indices(source, fraction, seed=0)
        labels = require_labels(source)
        assert sorted(labels[held].tolist()) == sorted(labels[rest].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=f"between 0 and 1, not {fraction}"):
        split_indices(some_images(), fraction, seed=0)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match="class 'class 2' has one image"):
        split_indices(some_images(5), 0.5, seed=0)


def test_of_classes_relabels_in_the_order_given() -> None:
    source = some_images(9)
    part = source.of_classes([2, 0])
    assert part.classes == ("class 2", "class 0")
    assert require_labels(part).tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(part.images, source.images[torch.tensor([0, 2, 3, 5, 6, 8])])


def test_indices_by_class_keep_the_order_and_want_every_class() -> None:
    source = some_images(7)
    assert [members.tolist() for members in indices_by_class(source)] == [[0, 3, 6], [1, 4], [2, 5]]
    empty = LabelledImages(source.images, source.labels, (*source.classes, "nobody"), "test")
    with pytest.raises(UserError, match="class 'nobody' has no images"):
        indices_by_class(empty)


def test_a_source_without_labels_says_so() -> None:
    source = LabelledImages(some_images().images, None, (), "unlabelled")
    with pytest.raises(UserError, match="unlabelled has no labels"):
        indices_by_class(source)
    assert source.subset(torch.tensor([1])).labels is None


def test_channel_stats_are_those_of_the_pixels() -> None:
    source = some_images(5000, channels=2)  # more than one batch
    mean, std = channel_stats(source)
    pixels = source.images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-9)


def test_a_constant_channel_normalises_to_zero() -> None:
    images = torch.full((3, 1, 2, 2), 77, dtype=torch.uint8)
    source = LabelledImages(images, torch.tensor([0, 0, 1]), ("a", "b"), "test")
    mean, std = source.channel_stats()
    assert std == (1.0,)
    assert normalise(images, mean, std).abs().max() < 1e-6


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    source = some_images(200)
    normalised = normalise(source.images, *source.channel_stats()).double()
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-6
    assert (normalised.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    by_hand = (source.images[3, 1, 2, 0].item() / 255 - source.channel_stats()[0][1]) / source.channel_stats()[1][1]
    assert normalised[3, 1, 2, 0].item() == pytest.approx(by_hand, abs=1e-5)
