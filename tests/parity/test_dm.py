"""Distribution matching against equation 7 written plainly, and its independence between classes."""

from __future__ import annotations

import pytest
import torch

from dd_core import augment, networks
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.errors import UserError
from dd_core.images import normalise
from dd_core.methods import method
from dd_core.methods.dm import planning
from dd_core.methods.dm.distiller import DMDistiller
from dd_core.runner import distill
from dd_core.streams import Streams
from dd_core.system import footprint
from dd_core.system.footprint import peak_bytes
from dd_core.testing import CPU as CPU_RUN
from dd_core.testing import blobs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def _distiller(
    *,
    batch_real: int = 7,
    augmentation: str = "none",
    seed: int = 3,
    network: str = "convnet-2-w16",
    per_class: int = 12,
    **options: int,
):
    config = method(
        "dm", steps=3, batch_real=batch_real, augmentation=augmentation, recipe={"network": network}, **options
    )
    source = blobs(channels=3, per_class=per_class)
    return config.build(Context(source, Size(ipc=2), Streams(seed), CPU))


def _plain_loss(distiller: DMDistiller, pixels: torch.Tensor, index: int) -> torch.Tensor:
    """Equation 7, one class and one image at a time."""
    source, streams = distiller.source, distiller.streams
    network = networks.for_source("convnet-2-w16", source, seed=streams.seed, stream="network", step=index)

    def embed(images: torch.Tensor) -> torch.Tensor:
        generator = streams.generator("augmentation", index)
        return network.features(augment.dsa(images, distiller.strategy, generator=generator, siamese=True))

    assert source.labels is not None
    total = torch.zeros(())
    for label in range(3):
        members = (source.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=streams.generator(f"real-{label}", index))
        real = source.images[members[order[: distiller.config.batch_real]]]
        mean, std = distiller.form.mean, distiller.form.std
        target = sum(embed(normalise(image[None], mean, std))[0] for image in real) / len(real)
        seen = distiller.images.decode(pixels[2 * label : 2 * label + 2])
        assert len(seen) == 2 * distiller.config.formation**2
        own = sum(embed(image[None])[0] for image in seen) / len(seen)
        total = total + (target.detach() - own).pow(2).sum()
    return total


@pytest.mark.parametrize(
    ("augmentation", "formation"), [("none", 1), ("color_crop_cutout_flip_scale_rotate", 1), ("none", 2), ("crop", 3)]
)
def test_loss_and_gradient_are_equation_7(augmentation: str, formation: int):
    distiller = _distiller(augmentation=augmentation, formation=formation)
    for index in range(3):
        pixels = distiller.pixels.detach().clone().requires_grad_()
        expected = _plain_loss(distiller, pixels, index)
        (gradient,) = torch.autograd.grad(expected, pixels)
        logged = distiller.step(index)["loss"]
        assert logged == pytest.approx(expected.item(), rel=1e-4)
        assert torch.allclose(distiller.pixels.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_update_is_sgd_with_momentum():
    distiller = _distiller()
    velocity = torch.zeros_like(distiller.pixels)
    for index in range(3):
        before = distiller.pixels.detach().clone()
        distiller.step(index)
        velocity = 0.5 * velocity + distiller.pixels.grad
        assert torch.allclose(distiller.pixels, before - 1.0 * velocity, atol=1e-6)


def test_classes_are_grouped_without_changing_the_gradient(monkeypatch: pytest.MonkeyPatch):
    whole = _distiller(batch_real=12)
    whole.step(0)
    monkeypatch.setattr(planning, "IMAGES_AT_ONCE", 12)
    grouped = _distiller(batch_real=12)
    assert len(grouped._class_groups()) == 3
    grouped.step(0)
    assert torch.allclose(whole.pixels.grad, grouped.pixels.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("augmentation", ["none", "color_crop_cutout_flip_scale_rotate"])
def test_parts_of_a_class_give_the_loss_and_the_gradient_of_the_whole(augmentation: str):
    """A budget of one synthetic image and a half, which is that of two real ones."""
    whole = _distiller(augmentation=augmentation)
    costs = whole.plan.costs
    parts = _distiller(augmentation=augmentation, batch_bytes=3 * costs.synthetic // 2)
    assert (parts.plan.at_once, whole.plan.largest) == ((2, 1), (7, 2))
    assert _distiller(formation=3).plan.largest == (7, 18)
    for index in range(3):
        assert parts.step(index)["loss"] == pytest.approx(whole.step(index)["loss"], rel=1e-6)
        assert (parts.pixels.grad - whole.pixels.grad).norm() < 1e-5 * whole.pixels.grad.norm()
        with torch.no_grad():
            parts.pixels.copy_(whole.pixels)


def test_a_cpu_embeds_128_real_images_together_and_gets_the_same(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []

    def stepped(most: int) -> DMDistiller:
        monkeypatch.setattr(planning, "most_forward", lambda device, on_gpu: most)
        distiller = _distiller(per_class=60, batch_real=60)
        embed = distiller._embed

        def noted(network, images, index):
            if not torch.is_grad_enabled():
                sizes.append(len(images))
            return embed(network, images, index)

        monkeypatch.setattr(distiller, "_embed", noted)
        distiller.step(0)
        return distiller

    most = footprint.most_forward(CPU)
    whole, parts = stepped(1000), stepped(most)
    assert sizes == [180, 128, 52]
    assert torch.equal(whole.pixels, parts.pixels)
    monkeypatch.setattr(planning, "most_forward", lambda device, on_gpu: footprint.most_forward(GPU, on_gpu=on_gpu))
    assert planning.plan(whole.config, whole.source, Size(ipc=2), CPU).together == 1024


@pytest.mark.parametrize("augmentation", ["none", "color_crop_cutout_flip_scale_rotate"])
def test_a_cpu_embeds_few_classes_together_and_gets_the_same(augmentation: str, monkeypatch: pytest.MonkeyPatch):
    assert planning.GROUPED_ON_CPU == 64
    whole = _distiller(augmentation=augmentation)
    monkeypatch.setattr(planning, "GROUPED_ON_CPU", 5)  # two classes of two images
    grouped = _distiller(augmentation=augmentation)
    formed = _distiller(augmentation=augmentation, formation=2)  # eight images of a class
    assert [len(each._class_groups()) for each in (whole, grouped, formed)] == [1, 2, 3]
    assert grouped.step(0)["loss"] == pytest.approx(whole.step(0)["loss"], rel=1e-6)
    assert torch.equal(whole.pixels, grouped.pixels)
    monkeypatch.undo()
    fitting = _distiller(batch_bytes=14 * whole.plan.costs.real)  # seven real images of each of two classes
    assert fitting._class_groups() == [range(0, 2), range(2, 3)]


@pytest.mark.parametrize("batch_bytes", [1, 1 << 30])
def test_a_network_with_batch_norm_sees_one_whole_class_whatever_the_budget(batch_bytes: int):
    distiller = _distiller(network="convnet-2-w16-batchnorm", batch_bytes=batch_bytes)
    assert distiller._class_groups() == [range(0, 1), range(1, 2), range(2, 3)]
    source, streams = distiller.source, distiller.streams
    pixels = distiller.pixels.detach().clone().requires_grad_()
    network = networks.for_source("convnet-2-w16-batchnorm", source, seed=streams.seed, stream="network", step=0)
    total = torch.zeros(())
    for label in range(3):
        members = (source.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=streams.generator(f"real-{label}", 0))
        real = normalise(source.images[members[order[:7]]], distiller.form.mean, distiller.form.std)
        own = network.features(pixels[2 * label : 2 * label + 2]).mean(0)
        total = total + (network.features(real).mean(0).detach() - own).pow(2).sum()
    (gradient,) = torch.autograd.grad(total, pixels)
    assert distiller.step(0)["loss"] == pytest.approx(total.item(), rel=1e-5)
    assert torch.allclose(distiller.pixels.grad, gradient, rtol=1e-4, atol=1e-7)


def test_a_single_image_of_a_class_is_refused_where_batch_norm_has_one_pixel_of_it():
    config = method("dm", steps=1, recipe={"network": "torchvision:mobilenet_v2"})
    with pytest.raises(UserError, match="has a batch norm that cannot normalise one image of a class alone"):
        distill(config, blobs(channels=3), Size(ipc=1), options=CPU_RUN)


def test_a_step_takes_no_more_than_its_budget_for_any_number_of_images():
    budget = 1 << 20
    taken = []
    for per_class in (20, 80, 320):
        distiller = _distiller(per_class=per_class, batch_real=per_class, batch_bytes=budget, augmentation="auto")
        weights = sum(one.nbytes for one in networks.for_source("convnet-2-w16", distiller.source, seed=0).parameters())
        taken.append(peak_bytes(lambda distiller=distiller: distiller.step(0)) - weights)
    assert 0.5 * budget < min(taken[1:])
    assert max(taken) < 1.2 * budget
    assert distiller.config.footprint(distiller.source, Size(ipc=2), CPU).bytes == pytest.approx(taken[-1], rel=0.3)


def test_synthetic_images_keep_to_the_budget_too():
    config = method("dm", steps=1, batch_real=2, batch_bytes=200_000, recipe={"network": "convnet-2-w16"})
    source = blobs(channels=3, per_class=60)
    distiller = config.build(Context(source, Size(ipc=50), Streams(0), CPU))
    costs = distiller.plan.costs
    # beside a part: the pixels' gradient, parts of it to be added up, and the weights
    assert peak_bytes(lambda: distiller.step(0)) < 200_000 + 6 * distiller.pixels.nbytes < 50 * costs.synthetic


def test_the_default_budget_is_not_written_down_so_that_earlier_runs_go_on():
    assert "batch_bytes" not in method("dm").model_dump(mode="json")
    assert method("dm", batch_bytes=5).model_dump(mode="json")["batch_bytes"] == 5
    assert method("dm").batch_bytes == 13 << 26


def test_matching_brings_the_class_means_together():
    """On held-out networks and without augmentation, the distance falls."""
    distiller = _distiller(batch_real=12)
    source = distiller.source

    def distance(pixels: torch.Tensor) -> float:
        total = 0.0
        for seed in range(5):
            network = networks.for_source("convnet-2-w16", source, seed=1000 + seed)
            real = network.features(normalise(source.images, distiller.form.mean, distiller.form.std))
            own = network.features(pixels).view(3, 2, -1).mean(1)
            for label in range(3):
                total += (real[source.labels == label].mean(0) - own[label]).pow(2).sum().item()
        return total

    before = distance(distiller.pixels.detach())
    for index in range(30):
        distiller.step(index)
    assert distance(distiller.pixels.detach()) < 0.5 * before


def test_a_network_with_dropout_gives_the_same_images_again():
    config = method("dm", steps=2, batch_real=4, recipe={"network": "torchvision:mobilenet_v2"})
    torch.manual_seed(1)
    one, again = (distill(config, blobs(channels=3), Size(ipc=2), options=CPU_RUN).images for _ in range(2))
    assert (one == again).all()


def test_dropout_is_drawn_anew_in_every_step():
    distiller = _distiller(augmentation="none")
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    first, again, later = (distiller._embed(network, torch.ones(1, 1, 8, 8), index) for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert set(first.flatten().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, later)
