"""Memories that real exemplars and distilled images share: how many of each, and which."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_streams import PIXELS, Images, SoftAverage, benchmark, linear, strategy_of, to_input

from dd_apps.continual import HybridBuffer
from dd_core import networks
from dd_core.errors import UserError
from dd_core.selection import herd


def hybrid(*experiences, max_size: int = 36, strategy=None, **options) -> HybridBuffer:
    options = {"method": "average", "images_per_class": 4} | options
    buffer = HybridBuffer(max_size, **options)
    for experience in experiences:
        buffer.post_adapt(strategy, experience)
    return buffer


def conditional(phi: np.ndarray, given: np.ndarray, count: int) -> list[int]:
    """The formula of the module, written out: p_k = argmin || mu - (sum given + sum picks + phi(x)) / (m + k) ||."""
    mu, picks = phi.mean(0), []
    for k in range(1, count + 1):
        total = given.sum(0) + phi[picks].sum(0)
        distances = [
            np.inf if index in picks else np.linalg.norm(mu - (total + x) / (len(given) + k))
            for index, x in enumerate(phi)
        ]
        picks.append(int(np.argmin(distances)))
    return picks


def numbers(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3))


def test_herding_goes_on_from_what_is_given():
    phi, given = numbers(20, 0), numbers(4, 1) + 1
    wanted = conditional(phi, given, 6)
    assert herd(torch.tensor(phi), 6, given=torch.tensor(given)).tolist() == wanted
    assert herd(torch.tensor(phi), 6).tolist() != wanted
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    assert herd(torch.tensor(phi), 6, given=nothing).tolist() == herd(torch.tensor(phi), 6).tolist()


@pytest.mark.parametrize(
    ("share", "count", "real"), [(0.5, 4, 2), (0.5, 3, 1), (0.25, 3, 0), (0.9, 4, 3), (0.7, 10, 7), (0.29, 100, 29)]
)
def test_the_share_of_real_images_is_rounded_down(share: float, count: int, real: int):
    data = Images(each=count, classes=6)
    buffer = hybrid(
        benchmark(data).train_stream[0], max_size=6 * count, images_per_class=count, real_share=share, method="random"
    )
    sizes = [len(ds) for ds in buffer.sets]
    assert sizes == ([2 * (count - real), 2 * real] if real else [2 * count])
    assert buffer.nbytes == 2 * count * PIXELS
    assert Counter(buffer.buffer.targets) == {1: count, 4: count}


def test_exemplars_are_real_images_chosen_given_the_distilled_ones():
    buffer = hybrid(benchmark().train_stream[0], real_share=0.75, method="random")
    distilled, real = buffer.sets
    alone = []
    for label in (1, 4):
        pixels = Images().of(label).flatten(1).numpy() / 255
        of_class = {name: ds.images[ds.labels == ds.classes.index(str(label))] for name, ds in
                    (("distilled", distilled), ("real", real))}  # fmt: skip
        given = of_class["distilled"].reshape(-1, PIXELS) / 255
        assert len(given) == 1
        wanted = conditional(pixels, given, 3)
        alone.append(wanted == conditional(pixels, given[:0], 3))
        assert np.array_equal(of_class["real"], Images().of(label).numpy()[wanted])
        shown = buffer.buffer_groups[label].images.numpy()
        assert np.array_equal(shown, np.concatenate([of_class["distilled"], of_class["real"]]))
    assert not all(alone)
    assert real.manifest.pixels == distilled.manifest.pixels
    assert len(buffer.joined()) == 8


def test_features_of_the_strategys_network_decide_where_they_are_asked_for():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(PIXELS, 3, bias=False), torch.nn.Linear(3, 6))
    with torch.no_grad():
        network[1].weight.copy_(torch.linspace(-1, 1, 3 * PIXELS).sin().view(3, PIXELS))
    buffer = hybrid(benchmark().train_stream[0], real_share=0.75, features="network", strategy=strategy_of(network))
    distilled, real = buffer.sets
    for label in (1, 4):
        with torch.no_grad():
            phi = networks.embed(network, to_input(Images().of(label)))
            given = networks.embed(network, to_input(torch.tensor(distilled.images[distilled.labels == (label == 4)])))
        wanted = conditional(phi.numpy(), given.numpy(), 3)
        assert np.array_equal(real.images[real.labels == (label == 4)], Images().of(label).numpy()[wanted])
    pixels = hybrid(benchmark().train_stream[0], real_share=0.75)
    assert not np.array_equal(real.images, pixels.sets[1].images)
    assert buffer.asks_network
    assert not pixels.asks_network
    with pytest.raises(UserError, match="this memory needs the strategy's network"):
        hybrid(benchmark().train_stream[0], features="network")


def test_a_shrinking_memory_keeps_the_share_and_the_first_of_each_kind():
    stream = benchmark().train_stream
    buffer = hybrid(stream[0], max_size=8, method="random")
    distilled, real = (ds.images.copy() for ds in buffer.sets)  # class-major: two of each of both
    buffer.post_adapt(None, stream[1])
    assert [len(ds) for ds in buffer.sets] == [2, 2, 2, 2]
    assert np.array_equal(buffer.sets[0].images, distilled[[0, 2]])
    assert np.array_equal(buffer.sets[1].images, real[[0, 2]])
    buffer.resize(None, 4)
    assert [len(ds) for ds in buffer.sets] == [2, 2]  # one image of a class is distilled
    assert buffer.nbytes == 4 * PIXELS
    assert Counter(buffer.buffer.targets) == {1: 1, 4: 1, 0: 1, 5: 1}


def test_the_share_decides_what_a_shrinking_memory_keeps():
    buffer = hybrid(benchmark(Images(each=8)).train_stream[0], max_size=16, images_per_class=8, real_share=0.75)
    assert [len(ds) for ds in buffer.sets] == [4, 12]
    buffer.resize(None, 8)
    assert [len(ds) for ds in buffer.sets] == [2, 6]
    buffer.resize(None, 6)
    assert [len(ds) for ds in buffer.sets] == [2, 4]


def test_bytes_are_shared_like_images():
    buffer = hybrid(*benchmark().train_stream, images_per_class=None, max_bytes=6 * 5 * PIXELS + 1, real_share=0.4)
    assert buffer.nbytes == 6 * 5 * PIXELS
    assert [len(ds) for ds in buffer.sets] == [6, 4] * 3


def test_exemplars_are_sure_of_their_class_beside_a_methods_soft_labels():
    buffer = hybrid(benchmark().train_stream[0], method=SoftAverage(), labels="stored")
    assert buffer.sets[0].targets.tolist() == [[0.75, 0.25]] * 2 + [[0.25, 0.75]] * 2
    assert buffer.sets[1].targets.tolist() == [[1, 0]] * 2 + [[0, 1]] * 2
    assert buffer.buffer_groups[4].soft.tolist() == [[0.25, 0.75]] * 2 + [[0, 1]] * 2
    with pytest.raises(UserError, match="the distilled images have logits, and a real exemplar has none"):
        hybrid(benchmark().train_stream[0], method=SoftAverage(kind="logits"), labels="stored")


def test_the_network_labels_exemplars_too():
    network = linear()
    buffer = hybrid(benchmark().train_stream[0], labels="network", strategy=strategy_of(network))
    with torch.no_grad():
        wanted = network.eval()(to_input(torch.tensor(buffer.sets[1].images)))[:, [1, 4]].softmax(1)
    assert np.allclose(buffer.sets[1].targets, wanted.numpy(), atol=1e-3)


def test_the_distilled_part_alone_is_distilled_and_written(tmp_path):
    buffer = hybrid(benchmark().train_stream[0], folder=tmp_path)
    assert [made.size.ipc for made in buffer.provenances] == [2]
    again = hybrid(benchmark().train_stream[0], folder=tmp_path)
    assert [ds.digest() for ds in again.sets] == [ds.digest() for ds in buffer.sets]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_share": 0}, "real_share must be above 0 and below 1, not 0; a memory of distilled images alone"),
        ({"real_share": 1.0}, "real_share must be above 0 and below 1, not 1.0"),
        ({"features": "logits"}, "unknown kind of features 'logits'"),
        ({"images_per_class": 99}, "images_per_class must be from 1 to max_size"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options, message: str):
    with pytest.raises(UserError, match=message):
        hybrid(**options)
