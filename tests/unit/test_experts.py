"""Expert trajectories: what SGD does, which epochs are kept, and that a kill costs nothing but time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_core import artefacts, training
from dd_core.artefacts import Artefact, Resources
from dd_core.errors import Diverged, UserError
from dd_core.images import normalise
from dd_core.methods.trajectory_matching import experts
from dd_core.methods.trajectory_matching.expert import Expert
from dd_core.methods.trajectory_matching.expert_training import Sharpness, Training
from dd_core.methods.trajectory_matching.experts import ExpertsSpec, trajectory
from dd_core.methods.trajectory_matching.gsam import Gradients, flat_gradient
from dd_core.recipe import Recipe
from dd_core.streams import Streams
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Messages
from dd_core.testing import blobs
from dd_core.training import Loop

NETWORK = "convnet-1-w4"
BLOBS = blobs()
HERE = Resources.of([BLOBS], device="cpu")


RANGE = ("first", "last", "final")


def spec(*, count: int = 2, network: str = NETWORK, **how: Any) -> ExpertsSpec:
    which = {key: how.pop(key) for key in RANGE if key in how}
    options = {"epochs": 3, "batch_size": 10, "learning_rate": 0.1, **how}
    return ExpertsSpec(
        source=BLOBS.fingerprint(),
        network=network,
        image_shape=BLOBS.image_shape,
        classes=3,
        count=count,
        training=Training(**options),
        **which,
    )


def made(cache: Path, *, workers: Workers | None = None, **options: Any) -> Artefact:
    return artefacts.get(spec(**options), resources=HERE, cache=cache, workers=workers)


def test_an_expert_is_torchs_sgd_on_shuffled_mini_batches(tmp_path: Path):
    rows = trajectory(made(tmp_path, momentum=0.5, weight_decay=0.01), 1)
    streams = Streams(0).child("expert", 1)
    model = training.initialised(Recipe(network=NETWORK), BLOBS.image_shape, 3, streams=streams)
    assert torch.equal(rows[0], nn.utils.parameters_to_vector(model.parameters()))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    for epoch in range(3):
        for batch in torch.randperm(len(BLOBS), generator=streams.generator("order", epoch)).split(10):
            loss = F.cross_entropy(model(normalise(BLOBS.images[batch], *BLOBS.channel_stats())), BLOBS.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert torch.allclose(rows[epoch + 1], nn.utils.parameters_to_vector(model.parameters()), atol=1e-6)


def test_only_the_epochs_that_are_asked_for_are_kept_and_training_ends_with_the_last(tmp_path: Path):
    whole, part = trajectory(made(tmp_path, epochs=6), 0), made(tmp_path, epochs=6, first=1, last=3)
    assert torch.equal(trajectory(part, 0), whole[1:4])
    assert len(part.part(0)[1]["losses"]) == 3
    with pytest.raises(UserError, match="epochs 4 to 3 are not within the 6"):
        spec(epochs=6, first=4, last=3)
    with pytest.raises(UserError, match="epochs 0 to 7 are not within the 6"):
        spec(epochs=6, last=7)


def test_the_last_epoch_is_kept_beside_the_range_where_asked(tmp_path: Path):
    whole = trajectory(made(tmp_path, epochs=6), 0)
    asked = made(tmp_path, epochs=6, first=1, last=3, final=True)
    assert torch.equal(trajectory(asked, 0), whole[[1, 2, 3, 6]])
    within = made(tmp_path, epochs=6, first=4, final=True)
    assert torch.equal(trajectory(within, 0), whole[4:])


def test_what_experts_take_is_said_before_they_are_made_and_what_they_learned_after(tmp_path: Path):
    said: list[str] = []
    found = artefacts.get(
        spec(count=2, epochs=4, last=2, final=True), resources=HERE, cache=tmp_path, reporter=Messages(said.append)
    )
    assert said[1] == "  4 epochs each, 0 MB on disk, about 1 minute in one process"
    first, second = found.part(0)[1]["losses"][:2]
    assert said[2:] == [
        f"  mean loss of the first expert: {first:.2f} in epoch 1, {second:.2f} in epoch 2, the last that students "
        "match (chance: 1.10)"
    ]
    artefacts.get(
        spec(count=2, epochs=4, last=2, final=True), resources=HERE, cache=tmp_path, reporter=Messages(said.append)
    )
    assert len(said) == 3


def test_the_size_on_disk_is_known_beforehand(tmp_path: Path):
    for dtype in ("float32", "bfloat16"):
        experts_spec = spec(epochs=6, first=1, last=3, final=True, dtype=dtype)
        found = artefacts.get(experts_spec, resources=HERE, cache=tmp_path)
        stored = sum(tensors["t0"].nbytes for tensors, _ in found)
        assert stored == experts_spec.nbytes()


def test_bfloat16_is_the_rounded_trajectory(tmp_path: Path):
    exact, rounded = (trajectory(made(tmp_path, dtype=dtype), 0) for dtype in ("float32", "bfloat16"))
    assert torch.equal(rounded, exact.bfloat16().float())
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("how", [{}, {"momentum": 0.9, "sharpness": Sharpness(), "augmentation": "color_crop"}])
def test_a_killed_expert_goes_on_exactly(how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = made(tmp_path / "whole", count=1, **how)
    monkeypatch.setattr(experts, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(experts, "SAVING_SHARE", float("inf"))
    real, epochs = Expert.steps, []

    def dying(expert: Any) -> Iterator[Tensor]:
        if len(epochs) == 2:
            epochs.append(None)
            raise KeyboardInterrupt
        epochs.append(expert.epochs)
        return real(expert)

    monkeypatch.setattr(Expert, "steps", dying)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "killed", count=1, **how)
    resumed = made(tmp_path / "killed", count=1, **how)
    assert epochs == [0, 1, None, 2], "no epoch is lost, and none is done twice"
    assert resumed.content == whole.content


def two_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Train two experts in turn, as on a GPU; returns the list of which expert took each step."""
    taken, seen = list[int](), list[Loop]()
    real = Loop.step

    def step(loop: Loop, rows: Tensor) -> Tensor:
        seen.extend([] if loop in seen else [loop])
        taken.append(seen.index(loop))
        return real(loop, rows)

    monkeypatch.setattr(experts.ExpertsSpec, "at_once", lambda self, resources, *, processes: 2)
    monkeypatch.setattr(Loop, "step", step)
    return taken


@pytest.mark.parametrize("how", [{}, {"momentum": 0.9, "sharpness": Sharpness(), "augmentation": "color_crop"}])
def test_experts_that_train_in_turn_are_those_that_train_alone(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = made(tmp_path / "alone", count=3, **how)
    taken = two_at_once(monkeypatch)
    before = torch.random.get_rng_state()
    assert made(tmp_path / "in turn", count=3, **how).content == alone.content
    assert torch.equal(torch.random.get_rng_state(), before)
    steps = len(taken) // 3
    assert taken[:5] == [0, 0, 1, 0, 1], "the second begins after a step of the first"
    assert [taken.count(index) for index in range(3)] == [steps] * 3
    assert taken[-steps:] == [2] * steps


def test_experts_that_train_in_turn_go_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = made(tmp_path / "whole", count=2, momentum=0.9)
    monkeypatch.setattr(experts, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(experts, "SAVING_SHARE", float("inf"))
    taken = two_at_once(monkeypatch)
    real, epochs = Expert.steps, []

    def dying(expert: Any) -> Iterator[Tensor]:
        epochs.append(expert.epochs)
        if len(epochs) == 5:
            raise KeyboardInterrupt
        return real(expert)

    monkeypatch.setattr(Expert, "steps", dying)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "killed", count=2, momentum=0.9)
    assert epochs == [0, 0, 1, 1, 2]
    done = len(taken)
    assert made(tmp_path / "killed", count=2, momentum=0.9).content == whole.content
    assert epochs[5:] == [2, 1, 2], "of the second expert, the epoch that was not finished is done again"
    assert len(taken) > done


def test_networks_that_draw_train_in_turn_as_they_do_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of RReLU, unlike dropout, the loop does not know that it draws."""
    real = training.initialised

    def drawing(*args: Any, **options: Any) -> nn.Module:
        return nn.Sequential(nn.RReLU(), real(*args, **options))

    monkeypatch.setattr(training, "initialised", drawing)
    alone = made(tmp_path / "alone", count=2)
    two_at_once(monkeypatch)
    assert made(tmp_path / "in turn", count=2).content == alone.content


def test_an_expert_that_diverges_costs_its_partner_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = made(tmp_path / "alone", count=2)
    two_at_once(monkeypatch)
    real = Expert.steps

    def diverging(expert: Any) -> Iterator[Tensor]:
        if expert.loop.streams == Streams(0).child("expert", 1) and expert.epochs == 1:
            raise Diverged("the loss of an expert is no longer finite")
        return real(expert)

    monkeypatch.setattr(Expert, "steps", diverging)
    with pytest.raises(Diverged, match="loss of an expert"):
        made(tmp_path / "in turn", count=2)
    monkeypatch.setattr(Expert, "steps", real)
    kept = made(tmp_path / "in turn", count=1)
    assert torch.equal(trajectory(kept, 0), trajectory(alone, 0))
    assert kept.folder.joinpath("part-00000.safetensors").stat().st_mtime_ns > 0
    assert not kept.folder.joinpath("part-00001.safetensors").exists()


@pytest.mark.parametrize(
    ("device", "processes", "count"),
    [
        ("cpu", 1, 1),
        ("auto", 1, 2),
        ("cuda", 2, 2),
        ("auto", 3, 1),  # processes that share a GPU
        ("cuda:1", 1, 2),
        ("cuda:1", 2, 1),
    ],
)
def test_two_experts_train_at_once_where_a_process_has_a_gpu(
    device: str, processes: int, count: int, monkeypatch: pytest.MonkeyPatch
):
    assert spec().at_once(Resources.of([BLOBS], device="auto"), processes=1) == 1, "here is no GPU"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert spec().at_once(Resources.of([BLOBS], device=device), processes=processes) == count


def test_experts_do_not_depend_on_workers_and_more_of_them_are_added(tmp_path: Path):
    alone = made(tmp_path / "a", count=3)
    few = made(tmp_path / "b", count=1, workers=Workers(count=2, threads=2))
    more = made(tmp_path / "b", count=3, workers=Workers(count=2, threads=2))
    assert more.folder == few.folder
    assert more.content == alone.content
    assert not torch.equal(trajectory(more, 0), trajectory(more, 1))


def test_the_rate_falls_in_the_middle_where_asked(tmp_path: Path):
    plain, decayed = (trajectory(made(tmp_path, epochs=4, decay=decay), 0) for decay in (False, True))
    assert torch.equal(plain[:4], decayed[:4])  # epochs 0, 1 and 2 of 4 have the full rate
    full, small = ((rows[4] - rows[3]).norm().item() for rows in (plain, decayed))
    assert 0 < small < 0.3 * full


def test_what_cannot_be_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="making experts needs images with the fingerprint"):
        artefacts.get(spec(), resources=Resources.of([blobs(per_class=5)]), cache=tmp_path)
    with pytest.raises(Diverged, match="loss of an expert"):
        made(tmp_path, learning_rate=1e30)


# --- steps towards flatness ----------------------------------------------------------------------------------------


def test_a_flat_gradient_follows_the_formulas():
    """A quadratic with a known Hessian, worked out by hand in float64."""
    hessian = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)

    def loss_at(theta: Gradients) -> torch.Tensor:
        return 0.5 * theta[0] @ hessian @ theta[0]

    theta = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    _, (found,) = flat_gradient(loss_at, (theta,), sharpness=Sharpness(rho=0.1, alpha=0.3))
    g = hessian @ theta.detach()  # (1, -3)
    e = 0.1 * theta.detach() ** 2 * g / (theta.detach().abs() * g).norm()
    g_p = hessian @ (theta.detach() + e)
    across = g - (g @ g_p) / (g_p @ g_p) * g_p
    assert torch.allclose(found, g_p - 0.3 * across, rtol=1e-10)
    assert abs(across @ g_p) < 1e-10


def test_in_a_small_neighbourhood_it_is_the_gradient():
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    loss, (gradient,) = flat_gradient(lambda t: (t[0] ** 3).sum(), (theta,), sharpness=Sharpness(rho=1e-9, alpha=0.7))
    assert loss.item() == -7.0
    assert torch.allclose(gradient, 3 * theta.detach() ** 2, rtol=1e-6)


def test_flat_experts_end_elsewhere_and_where_the_loss_is_flatter(tmp_path: Path):
    def rise(flat: bool) -> float:
        """Mean growth of the loss of the last weights under noise of one radius."""
        sharpness = Sharpness(rho=0.5, alpha=0.3) if flat else None
        theta = trajectory(made(tmp_path, count=1, epochs=30, sharpness=sharpness), 0)[-1]
        model = training.initialised(Recipe(network=NETWORK), BLOBS.image_shape, 3, streams=Streams(0))
        inputs = normalise(BLOBS.images, *BLOBS.channel_stats())

        def loss(weights: torch.Tensor) -> float:
            nn.utils.vector_to_parameters(weights, model.parameters())
            return F.cross_entropy(model(inputs), BLOBS.labels).item()

        noise = torch.randn(40, len(theta), generator=torch.Generator().manual_seed(0))
        worse = [loss(theta + 1.0 * one / one.norm() * theta.norm() * 0.3) for one in noise]
        return sum(worse) / len(worse) - loss(theta)

    assert rise(flat=True) < rise(flat=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matched_trajectories_stay_in_their_files(tmp_path: Path, dtype: str):
    kept = made(tmp_path, dtype=dtype)
    paths = experts.mapped(kept)
    for index in range(2):
        assert isinstance(paths(index).kept, np.memmap)
        assert torch.equal(torch.stack([*paths(index)]), trajectory(kept, index))
    first = paths(0)[1]
    first += 1  # a copy: the file is not written to
    assert torch.equal(paths(0)[1] + 1, first)


def test_a_damaged_file_of_experts_is_not_mapped(tmp_path: Path):
    kept = made(tmp_path)
    (file,) = [path for path in kept.folder.glob("part-*.safetensors") if path.name.startswith("part-00000")]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="the checksum of tensor t0 does not match; the file is damaged; remove"):
        experts.mapped(kept)(0)
