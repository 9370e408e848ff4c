"""Dataset distillation: what is optimised is what training by the exported recipe does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.errors import UserError
from dd_core.images import normalise
from dd_core.methods import method
from dd_core.methods.dataset_distillation.distiller import DatasetDistillationDistiller
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import fit, training_data

CPU = torch.device("cpu")


def _unrolling(*, ipc: int = 2, **options) -> DatasetDistillationDistiller:
    defaults = {"steps": 8, "blocks": 2, "epochs": 2, "batch_real": 20, "recipe": {"network": "convnet-2-w8"}}
    config = method("dataset-distillation", **{**defaults, **options})
    return config.build(Context(blobs(), Size(ipc=ipc), Streams(5), CPU))


def _outer_loss(unrolling: DatasetDistillationDistiller, draw: int) -> float:
    """Export, train by the recipe from the same initialisation, and look at the same real images."""
    ds = unrolling.export()
    data = training_data(ds, ds.manifest.recipe)
    streams = Streams(5).child("network", draw)
    model = fit(data, "convnet-2-w8", ds.manifest.recipe, streams=streams, device=CPU)
    source = unrolling.source
    chosen = torch.randperm(len(source), generator=Streams(5).generator("real", draw))[:20]
    logits = model(normalise(source.images[chosen], unrolling.form.mean, unrolling.form.std))
    return F.cross_entropy(logits, source.labels[chosen]).item()


@pytest.mark.parametrize(("initialisation", "formation"), [("default", 1), ("xavier", 1), ("default", 3)])
def test_the_loss_is_that_of_training_by_the_exported_recipe(initialisation: str, formation: int):
    recipe = {"network": "convnet-2-w8", "initialisation": initialisation}
    unrolling = _unrolling(recipe=recipe, formation=formation)
    assert unrolling.export().decoded_count == 6 * formation**2
    for index in range(3):
        expected = _outer_loss(unrolling, index)
        assert unrolling.step(index)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gradient", ["full", "adjoint"])
def test_real_images_beyond_the_budget_are_taken_in_parts_to_the_same_end(gradient: str):
    whole, parts = (_unrolling(gradient=gradient, batch_bytes=budget) for budget in (1 << 30, 28_000))
    assert (whole.real_at_once, parts.real_at_once) == (20, 3)
    for index in range(2):
        loss = whole.step(index)["loss"]
        assert parts.step(index)["loss"] == pytest.approx(loss, rel=1e-6)
        for one, other in ((whole.pixels, parts.pixels), (whole.raw_rates, parts.raw_rates)):
            assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)
            with torch.no_grad():
                other.copy_(one)


def test_images_and_rates_both_move_and_rates_stay_positive():
    unrolling = _unrolling()
    pixels, rates = unrolling.pixels.detach().clone(), unrolling.raw_rates.detach().clone()
    for index in range(3):
        unrolling.step(index)
    assert (unrolling.pixels != pixels).all()
    assert (unrolling.raw_rates != rates).all()
    steps = unrolling.export().manifest.recipe.steps
    assert [(one.epoch, one.step) for one in steps] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert min(one.learning_rate for one in steps) > 0


def test_the_first_rate_is_the_one_asked_for():
    steps = _unrolling(lr_inner=0.07).export().manifest.recipe.steps
    assert [one.learning_rate for one in steps] == pytest.approx([0.07] * 4)


@pytest.mark.parametrize("gradient", ["full", "adjoint", "auto"])
def test_several_networks_are_averaged_whatever_the_gradient_mode(gradient: str):
    alone = [_unrolling(gradient=gradient) for _ in range(2)]
    for index, one in enumerate(alone):
        one.step(index)
    both = _unrolling(gradient=gradient, networks=2)
    both.step(0)  # its networks are draws 0 and 1
    expected = (alone[0].pixels.grad + alone[1].pixels.grad) / 2
    assert torch.allclose(both.pixels.grad, expected, rtol=1e-4, atol=1e-8)


def test_adams_rate_is_halved_every_so_often():
    unrolling = _unrolling(decay_every=2, lr_img=0.4)
    rates = []
    for index in range(5):
        unrolling.step(index)
        rates.append(unrolling.optimiser.param_groups[0]["lr"])
    assert rates == [0.4, 0.4, 0.2, 0.2, 0.1]


def test_adams_rate_is_halved_after_each_quarter_unless_said():
    unrolling = _unrolling(steps=8, lr_img=0.4)
    rates = []
    for index in range(8):
        unrolling.step(index)
        rates.append(unrolling.optimiser.param_groups[0]["lr"])
    assert rates == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]


def test_images_and_rates_are_moved_by_adam_as_the_authors_set_it():
    """Kingma and Ba 2015, algorithm 1, with betas (0.5, 0.999)."""
    unrolling = _unrolling(decay_every=100, lr_img=0.1)
    leaves = (unrolling.pixels, unrolling.raw_rates)
    values = [leaf.detach().double() for leaf in leaves]
    first, second = ([torch.zeros_like(value) for value in values] for _ in range(2))
    for index in range(4):
        unrolling.step(index)
        for place, leaf in enumerate(leaves):
            gradient = leaf.grad.double()
            first[place] = 0.5 * first[place] + 0.5 * gradient
            second[place] = 0.999 * second[place] + 0.001 * gradient**2
            m, v = first[place] / (1 - 0.5 ** (index + 1)), second[place] / (1 - 0.999 ** (index + 1))
            values[place] = values[place] - 0.1 * m / (v.sqrt() + 1e-8)
            assert torch.allclose(leaf.detach().double(), values[place], atol=1e-4)


def test_raw_rates_can_have_an_adam_rate_of_their_own():
    unrolling = _unrolling(decay_every=2, lr_img=0.4, lr_rates=0.01)
    pixels, rates = unrolling.pixels.detach().clone(), unrolling.raw_rates.detach().clone()
    unrolling.step(0)  # Adam's first step is its rate
    assert (unrolling.pixels - pixels).abs().max().item() == pytest.approx(0.4, rel=1e-3)
    assert (unrolling.raw_rates - rates).abs().max().item() == pytest.approx(0.01, rel=1e-3)
    unrolling.step(2)
    assert [group["lr"] for group in unrolling.optimiser.param_groups] == [0.2, 0.005]


def test_the_loss_falls():
    unrolling = _unrolling(steps=40, lr_img=0.05)
    losses = [unrolling.step(index)["loss"] for index in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="3 images of class 0 do not fall into 2 equal blocks"):
        _unrolling(ipc=3)
    weights = {"distribution": "default", "count": 1}
    with pytest.raises(UserError, match="for fixed or pre-trained weights set `start`"):
        _unrolling(recipe={"network": "convnet-2-w8", "initialisation": "pretrained", "weights": weights})
    with pytest.raises(UserError, match="needs a window from 1 to 4 steps, not 5"):
        _unrolling(gradient="truncated", window=5)
    with pytest.raises(UserError, match="'convnet-1-batchnorm' has a BatchNorm2d"):
        _unrolling(recipe={"network": "convnet-1-batchnorm"})
    with pytest.raises(UserError, match="'torchvision:mobilenet_v2' has a "):
        _unrolling(recipe={"network": "torchvision:mobilenet_v2"})
    ds = _unrolling().export()
    recipe = ds.manifest.recipe.model_copy(update={"initialisation": "pretrained"})
    fixed = replace(ds, manifest=ds.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(UserError, match="start from the weights 'pretrained', and none are given"):
        fit(training_data(fixed, recipe), "convnet-2-w8", recipe, streams=Streams(0), device=CPU)


def test_a_gradient_is_cut_to_the_norm_and_a_smaller_one_is_left_alone():
    free, cut, loose = _unrolling(), _unrolling(clip=1e-3), _unrolling(clip=1e3)
    for one in (free, cut, loose):
        one.step(0)
    for plain, short, same in zip(*[(one.pixels.grad, one.raw_rates.grad) for one in (free, cut, loose)], strict=True):
        assert short.norm().item() == pytest.approx(1e-3, rel=1e-4)
        assert torch.allclose(short / short.norm(), plain / plain.norm(), atol=1e-6)
        assert torch.equal(same, plain)
