"""Choosing and averaging real images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dd_core import networks, selection
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import LabelledImages, indices_by_class
from dd_core.methods import method
from dd_core.methods.trajectory_matching.opinions import right_indices
from dd_core.runner import distill
from dd_core.streams import Streams, generator
from dd_core.testing import CPU, blobs


def test_random_indices_are_distinct_class_major_and_of_their_class():
    source = blobs(classes=3)
    chosen = selection.random_indices(source, (2, 0, 5), streams=Streams(0), stream="x")
    assert source.labels[chosen].tolist() == [0, 0, 2, 2, 2, 2, 2]
    assert len(set(chosen.tolist())) == 7


def test_random_indices_depend_on_seed_and_stream():
    source = blobs(per_class=50)
    draws = {
        tuple(selection.random_indices(source, (9, 9, 9), streams=Streams(seed), stream=stream).tolist())
        for seed in (0, 1)
        for stream in ("a", "b")
    }
    assert len(draws) == 4


def test_herding_follows_the_class_mean_as_written_in_the_paper():
    features = torch.randn(30, 4, generator=generator(0, "features"))
    picks = selection.herd(features, 6).tolist()
    mean, chosen = features.mean(0), []
    for k in range(1, 7):
        left = [i for i in range(30) if i not in chosen]
        total = sum((features[j] for j in chosen), torch.zeros(4))
        chosen.append(min(left, key=lambda i: (mean - (features[i] + total) / k).norm().item()))
    assert picks == chosen


def test_herding_picks_no_image_twice():
    """Without that, 0 would be the best second pick too: the mean of all is 1/3."""
    assert selection.herd(torch.tensor([[0.0], [10.0], [-9.0]]), 3).tolist() == [0, 1, 2]
    same = selection.herd(torch.ones(4, 2), 4).tolist()
    assert sorted(same) == [0, 1, 2, 3]


def test_herding_keeps_the_mean_closer_than_random_picks():
    features = torch.randn(200, 8, generator=generator(1, "features"))
    herded = features[selection.herd(features, 10)].mean(0)
    random = torch.stack(
        [features[torch.randperm(200, generator=generator(2, "r", i))[:10]].mean(0) for i in range(20)]
    )
    mean = features.mean(0)
    assert (herded - mean).norm() < (random - mean).norm(dim=1).min()


def test_averages_are_exact():
    images = torch.tensor([[0, 255], [255, 255], [3, 6]], dtype=torch.uint8).view(3, 1, 1, 2)
    source = LabelledImages(images, torch.zeros(3, dtype=torch.int64), ("a",), "test")
    means = selection.averages(source, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), 2)
    assert torch.allclose(means.view(2, 2), torch.tensor([[0.5, 1.0], [3 / 255, 6 / 255]]))


def test_k_means_finds_the_centres():
    source = blobs(classes=2, per_class=20)
    centres = selection.k_means(source.images, 2, seed=0)
    expected = torch.stack([source.images[source.labels == c].float().mean(0) / 255 for c in (0, 1)])
    distance = (centres[:, None] - expected[None]).flatten(2).norm(dim=2)
    assert distance.min(1).values.max() < 1e-5


def grey(values: list[int], labels: list[int]) -> LabelledImages:
    """Images of one pixel."""
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return LabelledImages(pixels, torch.tensor(labels), ("a", "b"), "grey")


def pixels_of(name: str, source: LabelledImages, ipc: int, *, seed: int = 0, **options: Any) -> list[list[float]]:
    """The pixels of each class, in units of 1/255, that a method selects of images of one pixel."""
    ds = distill(method(name, **options), source, Size(ipc=ipc), seed=seed, options=CPU)
    values = ds.raw() * 255
    return [[round(float(value), 3) for value in part] for part in values.reshape(len(source.classes), ipc)]


def test_k_means_and_herding_and_averages_by_values():
    source = grey([0, 200, 4, 10, 202, 108, 12, 100, 104, 14], [0, 0, 0, 1, 0, 1, 1, 1, 1, 1])
    assert [sorted(values) for values in pixels_of("k-means", source, 2)] == [[2.0, 201.0], [12.0, 104.0]]
    # of class a the mean is 101.5: 4 is nearest to it, and with 200 nearer still; of class b it is 58: 100, then 14
    assert pixels_of("herding", source, 2) == [[4.0, 200.0], [100.0, 14.0]]
    assert pixels_of("average", source, 1) == [[101.5], [58.0]]


@pytest.mark.parametrize("name", ["convnet-2-w16", "convnet-1-batchnorm"])
def test_herding_of_a_networks_features_is_herding_of_them(name: str):
    source, config = blobs(), method("herding", features="random-network", recipe={"network": name})
    ds = distill(config, source, Size(ipc=3), seed=4, options=CPU)
    network = networks.for_source(name, source, seed=4).eval()
    mean, std = source.channel_stats()
    for label in range(3):
        images = source.images[source.labels == label]
        with torch.no_grad():
            features = network.features((images.float() / 255 - mean[0]) / std[0])
        picks, left = [], list(range(12))
        for k in range(1, 4):
            with_each = [sum((features[j] for j in [*picks, i]), torch.zeros(())) / k for i in left]
            distances = [(features.mean(0) - one).norm().item() for one in with_each]
            picks.append(left.pop(distances.index(min(distances))))
        assert np.array_equal(ds.images[3 * label : 3 * label + 3], images[picks])


@pytest.mark.parametrize("name", ["random", "average", "k-means"])
def test_classes_of_the_same_images_are_drawn_independently(name: str):
    """One permutation for all classes would choose, or group, alike in each."""
    values = torch.randint(0, 256, (20,), generator=generator(0, "values")).to(torch.uint8)
    pixels, labels = values.repeat(8).view(-1, 1, 1, 1), torch.arange(8).repeat_interleave(20)
    source = LabelledImages(pixels, labels, tuple("abcdefgh"), "eight")
    drawn = pixels_of(name, source, 4)
    assert len({tuple(values) for values in drawn}) > 4


def test_the_images_that_experts_get_right_are_drawn_independently():
    source = blobs(per_class=40)
    members = indices_by_class(source)
    chosen = right_indices(source, (5, 5, 5), lambda expert: torch.ones(120) > 0, 1, streams=Streams(0)).split(5)
    places = {tuple((rows == row).nonzero().item() for row in part) for rows, part in zip(members, chosen, strict=True)}
    assert len(places) == 3


def test_a_small_class_is_named():
    with pytest.raises(UserError, match="class 'blob 1' has 12 images, and 13 are asked for"):
        selection.members_of(blobs(), (1, 13, 1))
