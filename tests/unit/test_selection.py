"""Choosing and averaging real images."""

from __future__ import annotations

import pytest
import torch

from dd_core import selection
from dd_core.errors import UserError
from dd_core.images import LabelledImages
from dd_core.streams import Streams, generator
from dd_core.testing import blobs


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


def test_k_means_finds_the_centres_and_does_not_depend_on_threads():
    source = blobs(classes=2, per_class=20)
    centres = selection.k_means(source.images, 2, seed=0)
    expected = torch.stack([source.images[source.labels == c].float().mean(0) / 255 for c in (0, 1)])
    distance = (centres[:, None] - expected[None]).flatten(2).norm(dim=2)
    assert distance.min(1).values.max() < 1e-5
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    again = selection.k_means(source.images, 2, seed=0)
    torch.set_num_threads(before)
    assert torch.equal(centres, again)


def test_a_small_class_is_named():
    with pytest.raises(UserError, match="class 'blob 1' has 12 images, and 13 are asked for"):
        selection.members_of(blobs(), (1, 13, 1))
