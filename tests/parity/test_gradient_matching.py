"""Gradient matching against algorithm 1 of DC written plainly, in double precision, and within its budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dd_core import augment, networks, streams, training
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.methods.gradient_matching import GradientMatchingDistiller, loops
from dd_core.methods.gradient_matching.distances import distance, weights_of
from dd_core.methods.gradient_matching.planning import plan
from dd_core.runner import distill
from dd_core.streams import Streams
from dd_core.system.footprint import peak_bytes
from dd_core.testing import CPU as CPU_RUN
from dd_core.testing import blobs

CPU = torch.device("cpu")
NETWORK = "convnet-2-w8"


Double = Callable[..., None]


@pytest.fixture
def double() -> Iterator[Double]:
    """Let distillers go on in double precision, as whatever is made from then on."""

    def turn(*distillers: GradientMatchingDistiller) -> None:
        torch.set_default_dtype(torch.float64)
        for distiller in distillers:
            distiller.pixels.data = distiller.pixels.data.double()
            real = distiller._real  # pyright: ignore[reportPrivateUsage]
            distiller._real = lambda rows, real=real: real(rows).double()  # pyright: ignore[reportPrivateUsage]

    yield turn
    torch.set_default_dtype(torch.float32)


def distiller_of(
    name: str = "dsa",
    *,
    size: Size | None = None,
    per_class: int = 12,
    seed: int = 3,
    network: str = NETWORK,
    **options: Any,
) -> GradientMatchingDistiller:
    config = method(name, **{"steps": 3, "batch_real": 7, **options, "recipe": {"network": network}})
    source = blobs(channels=3, per_class=per_class)
    return config.build(Context(source, size or Size(counts=(3, 1, 2)), Streams(seed), CPU))  # pyright: ignore[reportReturnType]


def plain_iteration(distiller: GradientMatchingDistiller, index: int) -> tuple[torch.Tensor, list[float]]:
    """Algorithm 1 of DC for one network, one class at a time: the pixels after it, and the loss of each update."""
    config, source, counts = distiller.config, distiller.source, distiller.counts
    own_streams = distiller.streams.child("iteration", index)
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (distiller.form.mean, distiller.form.std))
    grey, real = (0.5 - mean) / std, distiller.form(source.take(torch.arange(len(source)))).double()
    assert source.labels is not None
    network = training.initialised(config.recipe, source.image_shape, 3, streams=own_streams)
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    pixels, velocity, losses = distiller.pixels.detach().clone(), torch.zeros_like(distiller.pixels), list[float]()

    def decoded(images: torch.Tensor) -> torch.Tensor:
        """Tiles enlarged by torch, one after the other; 8 pixels a side are completed with grey to 9 in tiles of 3."""
        factor = config.formation
        side = -(-8 // factor)
        whole = grey.double().view(1, 3, 1, 1).repeat(len(images), 1, factor * side, factor * side)
        whole = torch.cat([images, whole[:, :, 8:, :8]], dim=2)
        whole = torch.cat(
            [whole, grey.double().view(1, 3, 1, 1).expand(len(images), 3, len(whole[0, 0]), factor * side - 8)], 3
        )
        parts = [part for line in whole.split(side, 2) for part in line.split(side, 3)]
        return torch.cat([F.interpolate(part, size=(8, 8), mode="bilinear") for part in parts])

    def transformed(images: torch.Tensor, label: int, draws: Streams) -> torch.Tensor:
        return augment.dsa(images, distiller.strategy, generator=draws.generator("augmentation", label), siamese=True)

    def gradient(images: torch.Tensor, label: int, *, again: bool = False) -> tuple[torch.Tensor, ...]:
        loss = F.cross_entropy(network(images), torch.full((len(images),), label))
        return torch.autograd.grad(loss, weights, create_graph=again)

    for update in range(distiller.outer):
        if update:  # the network learns: plain SGD on the synthetic images, each under a transform of its own
            learning = own_streams.child("learning", update)
            inputs, labels = decoded(pixels), torch.tensor([0, 0, 0, 1, 2, 2]).repeat(config.formation**2)
            for epoch in range(distiller.inner):
                transforms = learning.generator("augmentation", epoch)
                order = torch.randperm(len(inputs), generator=learning.generator("order", epoch))
                for rows in order.split(config.batch_net):
                    shown = augment.dsa(inputs[rows], distiller.strategy, generator=transforms)
                    loss = F.cross_entropy(network(shown), labels[rows])
                    steps = torch.autograd.grad(loss, list(network.parameters()))
                    with torch.no_grad():
                        for weight, step in zip(network.parameters(), steps, strict=True):
                            weight -= config.lr_net * step
        draws, leaf, total = own_streams.child("update", update), pixels.clone().requires_grad_(), torch.zeros(())
        first = 0
        for label, count in enumerate(counts):
            members = (source.labels == label).nonzero().flatten()
            order = torch.randperm(len(members), generator=draws.generator("real", label))
            theirs = gradient(transformed(real[members[order[:7]]], label, draws), label)
            ours = gradient(transformed(decoded(leaf[first : first + count]), label, draws), label, again=True)
            for own, other in zip(ours, theirs, strict=True):
                for row, goal in zip(own, other, strict=True):  # an output unit's weights
                    cosine = (row * goal).sum() / (row.norm() * goal.norm() + 1e-6)
                    total = total + 1 - cosine
            first += count
        velocity = config.momentum * velocity + torch.autograd.grad(total, leaf)[0]
        pixels = pixels - config.lr_img * velocity
        losses.append(total.item())
    return pixels, losses


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dc", {"outer": 3, "inner": 2}),
        ("dsa", {"outer": 3, "inner": 2, "batch_net": 4}),
        ("dsa", {"outer": 2, "inner": 1, "formation": 2}),
        ("dsa", {"outer": 2, "inner": 1, "formation": 3, "initial": "noise"}),
        ("dsa", {"outer": 2, "inner": 1, "formation": 2, "batch_bytes": 1}),
        ("dc", {"outer": 2, "inner": 0}),
    ],
)
def test_a_whole_outer_iteration_is_algorithm_1(double: Double, name: str, options: dict[str, Any]):
    distiller = distiller_of(name, **options)
    double(distiller)
    before = distiller.pixels.detach().clone()
    pixels, losses = plain_iteration(distiller, 0)
    report = distiller.step(0)
    assert report["loss"] == pytest.approx(sum(losses) / len(losses) / 3, rel=1e-9)
    assert (distiller.pixels - before).abs().max() > 1e-3
    assert torch.allclose(distiller.pixels, pixels, rtol=1e-6, atol=1e-8)


def test_parts_of_a_class_have_the_gradient_of_the_whole(double: Double):
    """Of several parts, the last smaller, the distance is differentiated by the weights' gradient first."""
    options: dict[str, Any] = {"outer": 2, "inner": 1, "size": Size(ipc=5), "formation": 2}
    whole = distiller_of(batch_bytes=1 << 40, **options)
    costs = plan(whole.config, whole.source, Size(ipc=5), CPU).costs
    parts = distiller_of(batch_bytes=3 * costs.synthetic, **options)
    double(whole, parts)
    assert (whole.at_once, parts.at_once) == ((7, 20), (6, 3))
    assert whole.step(0)["loss"] == pytest.approx(parts.step(0)["loss"], rel=1e-10)
    assert torch.allclose(whole.pixels, parts.pixels, rtol=1e-8, atol=1e-11)


def test_batch_norms_are_frozen_at_real_images_of_every_class(double: Double):
    """Sixteen of each class, their mean and variance alone; then an image's gradient is its own, in parts too."""
    network = f"{NETWORK}-batchnorm"
    whole, parts = (
        distiller_of(network=network, per_class=40, batch_bytes=budget, outer=2, inner=1, size=Size(ipc=3))
        for budget in (1 << 40, 1)
    )
    double(whole, parts)
    assert whole.step(0)["loss"] == pytest.approx(parts.step(0)["loss"], rel=1e-10)
    assert torch.allclose(whole.pixels, parts.pixels, rtol=1e-8, atol=1e-11)
    model = networks.for_source(network, whole.source, seed=1)
    draws = Streams(5)
    whole._freeze_norms(model, draws)  # pyright: ignore[reportPrivateUsage]
    assert whole.source.labels is not None
    rows = []
    for label in range(3):
        members = (whole.source.labels == label).nonzero().flatten()
        rows.append(members[torch.randperm(40, generator=draws.generator("statistics", label))[:16]])
    seen = whole.form(whole.source.take(torch.cat(rows))).double()
    norm = next(iter(networks.batch_norms(model).values()))
    convolved = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))(seen)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, convolved.mean((0, 2, 3)))
    assert torch.allclose(norm.running_var, convolved.transpose(0, 1).flatten(1).var(1))
    assert (norm.training, norm.momentum) == (False, 0.1)


@pytest.mark.parametrize(
    ("ipc", "expected"),
    [
        *((1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10))),
        *((2, (2, 50)), (5, (5, 50)), (19, (19, 50)), (29, (29, 25)), (49, (49, 15)), (51, (50, 10)), (500, (50, 10))),
    ],
)
def test_the_loops_are_the_published_ones_and_a_rule_in_between(ipc: int, expected: tuple[int, int]):
    assert loops(ipc) == expected
    assert method("dc").loops_for(Size(ipc=ipc), 3) == expected  # pyright: ignore[reportAttributeAccessIssue]
    assert method("dc", outer=7, inner=0).loops_for(Size(ipc=ipc), 3) == (7, 0)  # pyright: ignore[reportAttributeAccessIssue]


def test_distances_are_sums_over_weights_and_rows():
    one = [torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[[[2.0]]]])]
    other = [torch.tensor([[4.0, 3.0], [1.0, 0.0]]), torch.tensor([[[[-1.0]]]])]
    assert distance(one, other, "cosine").item() == pytest.approx((1 - 24 / 25) + 1 + 2, abs=1e-5)
    assert distance(one, other, "l1").item() == 1 + 1 + 1 + 1 + 3
    assert distance(one, other, "mse").item() == 1 + 1 + 1 + 1 + 9


def test_convolutions_alone_are_matched_where_asked(double: Double):
    distiller = distiller_of("dc", matched="convolutions", distance="mse", outer=1)
    double(distiller)
    streams = distiller.streams.child("iteration", 0)
    network = training.initialised(distiller.config.recipe, distiller.source.image_shape, 3, streams=streams)
    weights = [module.weight for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert distiller.source.labels is not None
    expected, pixels = 0.0, distiller.pixels.detach().split([3, 1, 2])
    for label in range(3):
        members = (distiller.source.labels == label).nonzero().flatten()
        order = torch.randperm(12, generator=streams.child("update", 0).generator("real", label))
        real = distiller.form(distiller.source.take(members[order[:7]])).double()
        ours, theirs = (
            torch.autograd.grad(F.cross_entropy(network(images), torch.full((len(images),), label)), weights)
            for images in (pixels[label], real)
        )
        expected += sum((a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True))
    assert distiller.step(0)["loss"] == pytest.approx(expected / 3, rel=1e-10)


def test_a_network_may_learn_from_real_images(double: Double):
    """Each epoch from other ones, as IDC has it, by plain SGD."""
    distiller = distiller_of("dc", learns="real", real_images=10, batch_net=4, inner=2)
    double(distiller)
    network, streams = networks.for_source(NETWORK, distiller.source, seed=1), Streams(9)
    plain = networks.for_source(NETWORK, distiller.source, seed=1)
    distiller._teach(network, streams)  # pyright: ignore[reportPrivateUsage]
    assert distiller.source.labels is not None
    for epoch in range(2):
        rows = torch.randperm(36, generator=streams.generator("real", epoch))[:10]
        inputs, labels = distiller.form(distiller.source.take(rows)).double(), distiller.source.labels[rows]
        for batch in torch.randperm(10, generator=streams.child("epoch", epoch).generator("order", 0)).split(4):
            loss = F.cross_entropy(plain(inputs[batch]), labels[batch])
            for weight, step in zip(
                plain.parameters(), torch.autograd.grad(loss, list(plain.parameters())), strict=True
            ):
                weight.data -= 0.01 * step
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9)


def test_pixels_stay_between_black_and_white_where_asked():
    free, clamped = (distiller_of(lr_img=100.0, clamp=clamp, outer=2, inner=0) for clamp in (False, True))
    for distiller in (free, clamped):
        distiller.step(0)
    assert free.export().raw().max() > 1.5
    raw = clamped.export().raw()
    assert -1e-6 < raw.min() < raw.max() < 1 + 1e-6


def test_a_step_takes_no_more_than_its_budget_for_any_number_of_images():
    budget, taken = 1 << 20, []
    for count in (5, 60, 240):
        distiller = distiller_of(
            per_class=count, batch_real=count, size=Size(ipc=count), batch_bytes=budget, batch_net=8, outer=1
        )
        peak = peak_bytes(lambda distiller=distiller: distiller.step(0))
        taken.append(peak - 2 * distiller.pixels.nbytes)  # their gradient and their momentum
        footprint = distiller.config.footprint(distiller.source, Size(ipc=count), CPU)
        assert peak < footprint.bytes < 2 * peak
        assert footprint.settings == (("batch_bytes",) if count > 5 else ("number of images per class",))
    assert 0.5 * budget < min(taken[1:])
    assert max(taken) < budget


def test_a_network_without_convolutions_is_refused_where_these_are_matched(monkeypatch: pytest.MonkeyPatch):
    perceptron = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    monkeypatch.setattr(networks, "for_source", lambda *_, **__: perceptron)
    with pytest.raises(UserError, match="has no convolutions whose gradients could be matched"):
        method("dc", matched="convolutions").check(blobs(), Size(ipc=1))
    method("dc").check(blobs(), Size(ipc=1))


def test_what_cannot_be_is_refused_before_anything_is_made():
    with pytest.raises(UserError, match="class 'blob 0' has 12 images, and 13 are asked for"):
        method("dsa").check(blobs(), Size(ipc=13))
    method("dc").check(blobs(), Size(ipc=13))
    with pytest.raises(UserError, match="take a smaller factor"):
        distill(method("dsa", formation=6), blobs(), Size(ipc=1), options=CPU_RUN)
    with pytest.raises(UserError, match=r"recipe\.initialisation: give 'default' or 'xavier', not 'pretrained'"):
        method("dsa", recipe={"initialisation": "pretrained", "weights": {"distribution": "xavier", "count": 1}})
    config = method("dsa", batch_net=3, recipe={"network": "torchvision:mobilenet_v2"})
    with pytest.raises(
        UserError, match="cannot normalise one image alone, and 4 images in mini-batches of 3 leave one"
    ):
        distill(config, blobs(channels=3), Size(counts=(1, 1, 2)), options=CPU_RUN)


def test_matching_brings_gradients_of_new_networks_together():
    """On networks that the method has not seen, and without augmentation, the distance falls."""
    distiller = distiller_of("dc", batch_real=12, size=Size(ipc=1))

    def apart() -> float:
        total = 0.0
        for seed in range(5):
            network = networks.for_source(NETWORK, distiller.source, seed=1000 + seed)
            weights = weights_of(network, "layers")
            assert distiller.source.labels is not None
            for label in range(3):
                real = distiller.form(distiller.source.take((distiller.source.labels == label).nonzero().flatten()))
                ours, theirs = (
                    torch.autograd.grad(F.cross_entropy(network(images), torch.full((len(images),), label)), weights)
                    for images in (distiller.pixels.detach()[label][None], real)
                )
                total += distance(ours, theirs, "cosine").item()
        return total

    before = apart()
    for index in range(40):
        distiller.step(index)
    assert apart() < 0.75 * before


def test_a_network_with_dropout_gives_the_same_images_again(monkeypatch: pytest.MonkeyPatch):
    """Whatever torch's global generator was at; and dropout is not the same at every update."""

    def dropping(*_: Any, seed: int, **__: Any) -> torch.nn.Module:
        with streams.seeded(seed, "a network"):
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 3))

    monkeypatch.setattr(networks, "build", dropping)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        distiller = distiller_of(outer=2, inner=2)
        losses.append([distiller.step(index)["loss"] for index in range(2)])
    assert losses[0] == losses[1]
    network, draws = dropping(seed=0), Streams(0)
    one, other, again = (
        distiller._real_gradient(network, list(network.parameters())[:1], 0, draws.child("update", update))[0]  # pyright: ignore[reportPrivateUsage]
        for update in (0, 1, 0)
    )
    assert torch.equal(one, again)
    assert not torch.equal((one == 0).all(0), (other == 0).all(0))
