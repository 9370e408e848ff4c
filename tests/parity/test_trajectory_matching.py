"""Matching training trajectories: the loss is the paper's, and everything that is drawn is drawn again alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_core import artefacts, augment, networks
from dd_core.artefacts import Artefact, Resources
from dd_core.distilled import Size
from dd_core.errors import Diverged, UserError
from dd_core.experts import trajectory
from dd_core.methods import method
from dd_core.methods.trajectory_matching import Matching
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import train

CPU = torch.device("cpu")
NETWORK = "convnet-2-w8"
BLOBS = blobs(per_class=20)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_APPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def matching(*, ipc: int = 2, **options: Any) -> tuple[Matching, Artefact]:
    defaults = {
        "steps": 6,
        "syn_steps": 3,
        "experts": 3,
        "training": {"batch_size": 20, "learning_rate": 0.05, "augmentation": "crop"},
        "recipe": {"network": NETWORK},
        "augmentation": "color_crop",
        "gradient": "full",
    }
    config = method("mtt", **{**defaults, **options})
    (spec,) = config.needs(BLOBS)
    experts = artefacts.get(spec, resources=Resources.of([BLOBS], device="cpu"))
    needed = {spec.digest(): experts}
    return config.build(source=BLOBS, size=Size(ipc=ipc), artefacts=needed, streams=Streams(5), device=CPU), experts


def distance(distiller: Matching, experts: Artefact, index: int) -> float:
    """The loss of equation 2, written out with modules and SGD by hand."""
    config, streams = distiller.config, Streams(5)
    turn, place = divmod(index, len(experts))
    expert = int(torch.randperm(len(experts), generator=streams.generator("experts", turn))[place])
    rows = trajectory(experts, expert)
    choices = config.last_epoch - config.first_epoch
    t = int(torch.randint(choices, (), generator=streams.generator("epoch", index)))
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=0)
    nn.utils.vector_to_parameters(rows[t].clone(), model.parameters())
    optimiser = torch.optim.SGD(model.parameters(), lr=distiller.rate.item())
    generator, batches = streams.generator("batches", index), []
    while len(batches) < config.syn_steps:
        batches += torch.randperm(6, generator=generator).split(config.batch_syn or 6)
    for i, batch in enumerate(batches[: config.syn_steps]):
        drawn = streams.generator("augmentation", index * config.syn_steps + i)
        images = augment.dsa(distiller.pixels.detach()[batch], config.augmentation, generator=drawn)
        optimiser.zero_grad()
        F.cross_entropy(model(images), distiller.labels[batch]).backward()
        optimiser.step()
    end, target = nn.utils.parameters_to_vector(model.parameters()).detach(), rows[t + config.expert_epochs]
    return ((end - target).square().sum() / (rows[t] - target).square().sum()).item()


@pytest.mark.parametrize("options", [{}, {"batch_syn": 4}, {"last_epoch": 4, "expert_epochs": 1, "syn_steps": 5}])
def test_the_loss_is_the_normalised_distance_of_the_paper(options: dict[str, Any]):
    distiller, experts = matching(lr_img=1.0, lr_lr=1e-4, **options)
    for index in range(5):
        expected = distance(distiller, experts, index)
        assert distiller.step(index)["loss"] == pytest.approx(expected, rel=1e-4)


def test_only_the_epochs_that_are_matched_are_kept():
    _, experts = matching(first_epoch=1, last_epoch=4, expert_epochs=2)
    assert len(trajectory(experts, 0)) == 5  # epochs 1 to 5: starts 1, 2, 3 and targets 3, 4, 5
    with pytest.raises(UserError, match=r"method: students start from no epoch|students start from no epoch"):
        method("mtt", first_epoch=2, last_epoch=2)
    with pytest.raises(UserError, match=r"need experts of 5 epochs; training.epochs is 4"):
        method("mtt", last_epoch=4, expert_epochs=2, training={"epochs": 4})
    with pytest.raises(UserError, match=r"training\.first and training\.last follow from first_epoch"):
        method("mtt", training={"first": 1})
    weights = {"distribution": "default", "count": 1}
    with pytest.raises(UserError, match=r"recipe\.initialisation: 'default' or 'xavier'"):
        method("mtt", recipe={"initialisation": "pretrained", "weights": weights})
    with pytest.raises(UserError, match="needs a window from 1 to 20 steps, not None"):
        method("mtt", gradient="truncated")


def test_experts_start_as_the_recipe_says_that_networks_do():
    recipe = {"network": NETWORK, "initialisation": "xavier"}
    _, experts = matching(recipe=recipe)
    _, drawn = matching()
    streams = Streams(0).child("expert", 0)
    model = networks.build(NETWORK, in_channels=1, classes=3, image_size=(8, 8), seed=streams.seed)
    networks.initialise_xavier(model, generator=streams.generator("xavier"))
    assert torch.equal(trajectory(experts, 0)[0], nn.utils.parameters_to_vector(model.parameters()))
    assert not torch.equal(trajectory(experts, 0)[0], trajectory(drawn, 0)[0])


def test_every_expert_is_used_equally_often(monkeypatch: pytest.MonkeyPatch):
    distiller, _ = matching()
    import dd_core.experts as module

    used: list[int] = []

    def counted(experts: Artefact, index: int) -> torch.Tensor:
        used.append(index)
        return real(experts, index)

    real = module.trajectory
    monkeypatch.setattr(module, "trajectory", counted)
    for index in range(6):
        distiller.step(index)
    assert sorted(used) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("gradient", "lowest"), [("adjoint", 1 - 1e-6), ("tesla", 0.2)])
def test_other_gradients_are_the_exact_one_or_near_it(gradient: str, lowest: float):
    exact, other = matching(syn_steps=8)[0], matching(syn_steps=8, gradient=gradient)[0]
    for one in (exact, other):
        one.step(0)
    cosine = torch.cosine_similarity(exact.pixels.grad.flatten(), other.pixels.grad.flatten(), dim=0).item()
    assert cosine >= lowest
    assert (cosine > 1 - 1e-6) == (gradient == "adjoint")


def test_the_distance_falls_and_the_rate_is_learned_and_exported():
    distiller, _ = matching(steps=60, syn_steps=6, lr_img=30.0, lr_lr=1e-3, last_epoch=1, augmentation="none")
    losses = [distiller.step(index)["loss"] for index in range(60)]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert distiller.rate.item() != pytest.approx(0.01)
    assert distiller.export().manifest.recipe.learning_rate == pytest.approx(distiller.rate.item())


def test_the_pixels_of_the_set_are_averaged_over_the_iterations_where_asked():
    plain, averaged = (matching(ema=ema, lr_img=30.0)[0] for ema in (None, 0.9))
    expected = averaged.pixels.detach().clone()
    for index in range(4):
        plain.step(index)
        averaged.step(index)
        expected = 0.9 * expected + 0.1 * averaged.pixels.detach()
    assert torch.equal(plain.pixels, averaged.pixels)
    assert torch.equal(torch.tensor(plain.export().images), plain.pixels.detach())
    assert torch.allclose(torch.tensor(averaged.export().images), expected, atol=1e-6)


def test_ftd_has_flat_experts_and_tesla_its_gradient():
    assert method("ftd").training.sharpness is not None
    assert method("mtt").training.sharpness is None
    assert method("ftd").needs(BLOBS)[0].digest() != method("mtt").needs(BLOBS)[0].digest()
    assert method("tesla").needs(BLOBS) == method("mtt").needs(BLOBS)
    assert (method("tesla").gradient, method("mtt").gradient) == ("tesla", "auto")


def test_a_rate_that_is_no_longer_positive_stops_the_run():
    distiller, _ = matching(lr_img=1e-6, lr_lr=1.0)
    with pytest.raises(Diverged, match="the student's learning rate became -"):
        [distiller.step(index) for index in range(6)]


def test_a_class_that_is_too_small_is_refused_before_experts_are_trained(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="has 20 images, and 21 are asked for"):
        distill(method("mtt"), BLOBS, Size(ipc=21))
    with pytest.raises(UserError, match=r"'convnet-1-batchnorm' has a BatchNorm2d.*; mtt needs a network without"):
        distill(method("mtt", recipe={"network": "convnet-1-batchnorm"}), BLOBS, Size(ipc=1))
    assert artefacts.listing() == []


def test_a_set_is_trained_on_at_its_own_rate():
    config = method(
        "mtt", steps=2, syn_steps=2, experts=1, recipe={"network": NETWORK, "epochs": 2}, lr_student=0.02, lr_lr=0.0
    )
    ds = distill(config, BLOBS, Size(ipc=1), options=RunOptions(device="cpu"))
    assert ds.manifest.recipe.learning_rate == pytest.approx(0.02)
    train(ds, device="cpu")
