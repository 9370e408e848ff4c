"""LARS against a plain loop over numbers, and that its state is all that it needs to go on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dd_core.artefacts import Progress
from dd_core.errors import UserError
from dd_core.streams import generator
from dd_core.training.feature_teacher_config import Objective, solo_learn
from dd_core.training.lars import LARS
from dd_core.training.settings import Settings

RATES = (0.3, 0.3, 0.1, 0.0)


def parameters() -> list[nn.Parameter]:
    shapes = [(4, 3), (4,), (2, 4, 3, 3), (), (3, 2)]
    drawn = [torch.randn(shape, generator=generator(0, "weights"), dtype=torch.float64) for shape in shapes]
    drawn[4] = drawn[4] * 0  # weights that are all zero
    return [nn.Parameter(values) for values in drawn]


def gradients(step: int) -> list[torch.Tensor | None]:
    drawn: list[torch.Tensor | None] = [
        torch.randn(weights.shape, generator=generator(step, "gradients"), dtype=torch.float64)
        for weights in parameters()
    ]
    if step == 1:
        drawn[0] = torch.zeros(4, 3, dtype=torch.float64)
    if step == 2:
        drawn[2] = None
    return drawn


def stepped(optimiser: LARS, weights: list[nn.Parameter], step: int) -> None:
    for parameter, gradient in zip(weights, gradients(step), strict=True):
        parameter.grad = gradient
    for group in optimiser.param_groups:
        group["lr"] = RATES[step]
    optimiser.step()


def by_hand(*, momentum: float, decay: float, eta: float, clip: bool) -> list[list[float]]:
    values = [weights.detach().flatten().tolist() for weights in parameters()]
    velocities = [[0.0] * len(each) for each in values]
    for step, rate in enumerate(RATES):
        for number, gradient in enumerate(gradients(step)):
            if gradient is None:
                continue
            w, g, axes = values[number], gradient.flatten().tolist(), gradient.ndim
            size, slope = math.sqrt(sum(x * x for x in w)), math.sqrt(sum(x * x for x in g))
            if axes > 1 and size > 0 and slope > 0:
                trust = eta * size / (slope + decay * size + 1e-8)
                if clip:
                    trust = 1.0 if rate == 0 else min(trust / rate, 1.0)
                g = [trust * (slant + decay * weight) for slant, weight in zip(g, w, strict=True)]
            velocities[number] = [momentum * v + slant for v, slant in zip(velocities[number], g, strict=True)]
            values[number] = [weight - rate * v for weight, v in zip(w, velocities[number], strict=True)]
    return values


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.02, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_a_loop_over_numbers(momentum: float, decay: float, eta: float, clip: bool):
    weights = parameters()
    optimiser = LARS(weights, rate=0.3, momentum=momentum, weight_decay=decay, eta=eta, clip=clip)
    for step in range(len(RATES)):
        stepped(optimiser, weights, step)
    for parameter, expected in zip(weights, by_hand(momentum=momentum, decay=decay, eta=eta, clip=clip), strict=True):
        torch.testing.assert_close(parameter.detach().flatten().tolist(), expected, rtol=1e-10, atol=1e-12)


def test_the_defaults_are_solo_learns_for_cifar():
    defaults = LARS(parameters(), rate=0.3).defaults
    assert {name: defaults[name] for name in ("lr", "momentum", "weight_decay", "eta", "clip")} == {
        "lr": 0.3,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "eta": 0.02,
        "clip": True,
    }


def test_a_state_that_is_taken_up_goes_on_to_the_same_bits():
    weights = parameters()
    whole = LARS(weights, rate=0.3, weight_decay=1e-4)
    stepped(whole, weights, 0)
    state, kept = copy.deepcopy(whole.state_dict()), copy.deepcopy(weights)
    resumed = LARS(kept, rate=7.0)
    resumed.load_state_dict(state)
    for step in (1, 2):
        stepped(whole, weights, step)
        stepped(resumed, kept, step)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, weights, strict=True))


def test_groups_have_settings_of_their_own_and_a_closure_is_called_with_gradients():
    first, second = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimiser = LARS(
        [{"params": [first]}, {"params": [second], "weight_decay": 0.5, "eta": 0.1}], rate=0.1, momentum=0.0
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (first + second).sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 8.0
    assert first[0, 0].item() == pytest.approx(1 - 0.1 * 0.2)  # trust 0.02 * 2 / 2 over the rate
    assert second[0, 0].item() == pytest.approx(1 - 0.1 * (0.1 * 2 / (2 + 0.5 * 2) / 0.1) * 1.5)


@pytest.mark.parametrize(
    ("name", "number"), [("rate", -0.1), ("momentum", 1.0), ("weight_decay", -1.0), ("eta", 0.0), ("rate", math.nan)]
)
def test_numbers_out_of_range_are_refused(name: str, number: float):
    settings: dict[str, Any] = {"rate": 0.1, name: number}
    with pytest.raises(UserError, match=f"LARS: {name} is out of range: {number:g}"):
        LARS(parameters(), **settings)


# --- who uses it --------------------------------------------------------------------------------------------------


def test_settings_make_it_with_their_rate_momentum_and_decay():
    settings = Settings(
        learning_rate=0.3, epochs=4, batch_size=2, optimiser="lars", momentum=0.8, weight_decay=0.01, warmup=2
    )
    optimiser = settings.optimiser_of(parameters(), rate=settings.rate(0))
    assert isinstance(optimiser, LARS)
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (pytest.approx(0.1), 0.8, 0.01)


def test_its_state_survives_the_disk(tmp_path: Path):
    weights = parameters()
    optimiser = LARS(weights, rate=0.3)
    stepped(optimiser, weights, 0)
    Progress(tmp_path / "state").save({"optimiser": optimiser.state_dict()})
    state = Progress(tmp_path / "state").load()
    assert state is not None
    resumed = LARS(parameters(), rate=1.0)
    resumed.load_state_dict(state["optimiser"])
    assert resumed.param_groups[0]["lr"] == 0.3
    for ours, theirs in zip(resumed.state.values(), optimiser.state.values(), strict=True):
        assert torch.equal(ours["velocity"], theirs["velocity"])


def test_the_presets_are_those_of_solo_learns_files():
    crop = (0.08, 1.0)
    common = {"network": "torchvision:resnet18", "epochs": 1000, "batch_size": 256, "optimiser": "lars"}
    common |= {"momentum": 0.9, "warmup": 10, "temperature": 0.2, "tau": 0.99, "loss_scale": 0.1}
    own: dict[Objective, dict[str, Any]] = {
        "barlow-twins": {
            "learning_rate": 0.3,
            "weight_decay": 1e-4,
            "projector": (2048, 2048),
            "off_diagonal": 0.0051,
            "distortions": {"crop": crop, "jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2}
            | {"hue": 0.1, "grey": 0.2, "solarise": (0.0, 0.2), "flip": None},
        },
        "simclr": {
            "learning_rate": 0.4,
            "weight_decay": 1e-4,
            "projector": (2048, 256),
            "distortions": {"crop": crop, "jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8}
            | {"hue": 0.2, "grey": 0.2, "solarise": (0.0, 0.0), "flip": None},
        },
        "byol": {"learning_rate": 1.0, "weight_decay": 1e-5, "projector": (4096, 256)},
    }
    for objective, values in own.items():
        settings = solo_learn(objective).model_dump()
        assert settings["objective"] == objective
        assert {name: settings[name] for name in common} == common
        assert {name: settings[name] for name in values} == values
    assert solo_learn("byol").distortions == solo_learn("barlow-twins").distortions
