"""Memories whose images are stored small and decoded into several (IDC): what is counted, and what is seen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_streams import PIXELS, Images, benchmark, linear, strategy_of, to_input

from dd_apps.continual import DistilledBuffer, HybridBuffer
from dd_apps.continual.memory.holding import decoded
from dd_core.errors import UserError

TILED = {"name": "dm", "steps": 2, "formation": 2, "recipe": {"network": "convnet-1-w4"}}


def memory_of(kind, *experiences, strategy=None, **options):
    buffer = kind(36, **({"images_per_class": 2, "method": TILED} | options))
    for experience in experiences:
        buffer.post_adapt(strategy, experience)
    return buffer


def test_four_images_are_replayed_for_the_bytes_of_one():
    stream = benchmark().train_stream
    buffer = memory_of(DistilledBuffer, *stream, max_bytes=6 * 2 * PIXELS)
    assert buffer.nbytes == 6 * 2 * PIXELS
    assert [len(ds) for ds in buffer.sets] == [4, 4, 4]
    assert Counter(buffer.buffer.targets) == dict.fromkeys(range(6), 8)
    for label, group in buffer.buffer_groups.items():
        ds = next(ds for ds in buffer.sets if str(label) in ds.classes)
        tiles = ds.decoded()
        wanted = tiles.raw()[tiles.labels == tiles.classes.index(str(label))]
        assert np.abs(group.images.numpy() / 255 - wanted).max() <= 0.5 / 255 + 1e-6
        shown = torch.stack([item[0] for item in group.buffer])
        assert torch.allclose(shown, to_input(group.images))


def test_a_memory_shrinks_by_stored_images():
    buffer = memory_of(DistilledBuffer, benchmark().train_stream[0])
    buffer.resize(None, 2)
    assert buffer.nbytes == 2 * PIXELS
    assert Counter(buffer.buffer.targets) == {1: 4, 4: 4}
    assert decoded(buffer.sets[0]).rows.tolist() == [0, 1] * 4


def test_a_stored_image_has_one_label_for_all_its_tiles_the_mean_of_the_networks():
    network = linear()
    buffer = memory_of(DistilledBuffer, benchmark().train_stream[0], labels="network", strategy=strategy_of(network))
    ds = buffer.sets[0]
    part = decoded(ds)
    with torch.no_grad():
        probable = network.eval()(to_input(part.images))[:, [1, 4]].softmax(1)
    wanted = torch.stack([probable[part.rows == row].mean(0) for row in range(4)])
    assert np.allclose(ds.targets, wanted.numpy(), atol=1e-3)
    assert buffer.nbytes == 4 * (PIXELS + 2 * 2)
    assert buffer.buffer_groups[4].soft.shape == (8, 2)


def test_real_exemplars_stay_whole_beside_distilled_tiles():
    buffer = memory_of(HybridBuffer, benchmark().train_stream[0])
    assert [ds.manifest.formation for ds in buffer.sets] == [2, 1]
    assert Counter(buffer.buffer.targets) == {1: 4 + 1, 4: 4 + 1}
    assert buffer.nbytes == 4 * PIXELS
    real = buffer.sets[1].images
    assert all((Images().pixels.numpy() == image).all((1, 2, 3)).any() for image in real)
    with pytest.raises(UserError, match=r"set 1 and set 2 differ in their formation \(2, and 1\)"):
        buffer.joined()
