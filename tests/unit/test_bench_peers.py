"""The plain references of `benchmarks/peers.py` compute what the engine computes, given the same numbers."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dd_core import datasets, networks, selection, unroll, zca
from dd_core.augment import transforms
from dd_core.images import InputForm
from dd_core.methods.dm.distiller import class_means
from dd_core.methods.gradient_matching.distances import distance, weights_of
from dd_core.methods.krr_st.regression import predictions, with_one
from dd_core.methods.sre2l.config import RecoverConfig
from dd_core.methods.sre2l.recovery import RecoveryBatch
from dd_core.methods.trajectory_matching.distiller import Pair, relative_distance
from dd_core.streams import Streams
from dd_core.testing import blobs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


def benchmark(name: str) -> Any:
    """A module of the benchmarks, which are no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def plain() -> Any:
    return benchmark("peer_references")


@pytest.fixture(scope="module")
def peers() -> Any:
    return benchmark("peers")


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw)


def both(plain: Any, *, norm: str = "", seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """(the reference's ConvNet, the engine's) with the same weights, for images of 3 x 16 x 16."""
    ours = networks.build(f"convnet-2-w4{norm}", in_channels=3, classes=3, image_size=(16, 16), seed=seed)
    theirs = plain.ConvNet(2, 4, side=16, classes=3, norm="bn" if norm else "in")
    with torch.no_grad():
        for mine, other in zip(theirs.parameters(), ours.parameters(), strict=True):
            mine.copy_(other)
    return theirs, ours


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}


@pytest.mark.parametrize("soft", [False, True])
def test_matching_trajectories(soft: bool, plain: Any, draw: torch.Generator):
    theirs, ours = both(plain)
    far, _ = both(plain, seed=1)
    images = noise(draw, 6, 3, 16, 16).requires_grad_()
    labels, logits = torch.arange(6) % 3, noise(draw, 6, 3).requires_grad_()
    rate, start, target = torch.tensor(0.1, requires_grad=True), weights(theirs), weights(far)
    wanted: Tensor = logits if soft else labels
    shared = {"steps": 3, "batch": 6, "augment": lambda batch: batch}
    loss = plain.matched(theirs, start, target, images, wanted, rate, **shared)
    loss.backward()

    def inner(t: int, theta: unroll.Tensors, learned: unroll.Tensors) -> Tensor:
        return F.cross_entropy(unroll.apply(ours, theta, learned[0]), learned[2].softmax(1) if soft else labels)

    pair = Pair(tuple(start.values()), tuple(target.values()))
    learned = images.detach(), rate.detach(), logits.detach()
    step = unroll.sgd_step(inner, lambda t, leaves: leaves[1])
    found = unroll.unroll(step, 3, pair.start, learned, relative_distance(pair), mode="full")
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(found.learned[0], images.grad, rtol=1e-3, atol=1e-7)
    assert found.learned[1].item() == pytest.approx(rate.grad.item(), rel=1e-3)
    assert not soft or torch.allclose(found.learned[2], logits.grad, rtol=1e-3, atol=1e-8)


def test_tesla(plain: Any, draw: torch.Generator):
    theirs, ours = both(plain)
    far, _ = both(plain, seed=1)
    images, labels = noise(draw, 6, 3, 16, 16).requires_grad_(), torch.arange(6) % 3
    start, target = weights(theirs), {name: value.detach() for name, value in weights(far).items()}
    shared = {"steps": 3, "batch": 6, "augment": lambda batch: batch}
    loss, gradient = plain.tesla(theirs, start, target, images, labels, 0.1, **shared)

    def inner(t: int, theta: unroll.Tensors, learned: unroll.Tensors) -> Tensor:
        return F.cross_entropy(unroll.apply(ours, theta, learned[0]), labels)

    pair = Pair(tuple(start.values()), tuple(target.values()))
    step = unroll.sgd_step(inner, lambda t, leaves: torch.tensor(0.1))
    found = unroll.unroll(step, 3, pair.start, (images.detach(),), relative_distance(pair), mode="tesla")
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(found.learned[0], gradient, rtol=1e-3, atol=1e-7)


def test_matching_distributions(plain: Any, draw: torch.Generator):
    theirs, ours = both(plain)
    real, synthetic = noise(draw, 3, 5, 3, 16, 16), noise(draw, 3, 2, 3, 16, 16)
    loss = plain.distribution(theirs.features, list(real), list(synthetic))
    means = [class_means(networks.embed(ours, part.flatten(0, 1)), [part.shape[1]] * 3) for part in (real, synthetic)]
    assert loss.item() == pytest.approx((means[0] - means[1]).square().sum().item(), rel=1e-4)


def test_matching_gradients(plain: Any, draw: torch.Generator):
    theirs, ours = both(plain)
    real, synthetic = noise(draw, 5, 3, 16, 16), noise(draw, 2, 3, 16, 16)
    loss = plain.gradient_distance(theirs, real, synthetic, 1)
    gradients = [
        torch.autograd.grad(F.cross_entropy(ours(part), torch.full((len(part),), 1)), weights_of(ours, "all"))
        for part in (synthetic, real)
    ]
    assert loss.item() == pytest.approx(distance(*gradients, "cosine").item(), rel=1e-4)


def test_recovery(plain: Any, draw: torch.Generator):
    theirs, ours = both(plain, norm="-batchnorm")
    images, labels = noise(draw, 6, 3, 16, 16), torch.arange(6) % 3
    settings = RecoverConfig(r_bn=0.5, crop=None, flip=False, jitter=(0, 0))
    form = InputForm((0.5,) * 3, (0.25,) * 3)
    batch = RecoveryBatch(ours, images, labels, form, settings, streams=Streams(0), device=CPU)
    loss = plain.recovery(theirs.eval(), images, labels, r_bn=0.5, first=settings.first_bn)
    assert loss.item() == pytest.approx(batch.loss(images)[0].item(), rel=1e-4)


def test_kernel_ridge_regression(plain: Any, draw: torch.Generator):
    theirs, ours = both(plain)
    images, real, targets, answers = (
        noise(draw, 6, 3, 16, 16),
        noise(draw, 4, 3, 16, 16),
        noise(draw, 6, 5),
        noise(draw, 4, 5),
    )
    loss = plain.regression(theirs.features, images, targets, real, answers, ridge=1e-3)
    support, queries = (with_one(networks.embed(ours, part)) for part in (images, real))
    found = F.mse_loss(predictions(support, targets, queries, ridge=1e-3), answers)
    assert loss.item() == pytest.approx(found.item(), rel=1e-4)


def _scale(x: Tensor) -> Tensor:
    factors = torch.rand(len(x), 2) * (1.2 - 1 / 1.2) + 1 / 1.2
    return transforms.scale(x, factors.flip(1))


def _rotate(x: Tensor) -> Tensor:
    return transforms.rotate(x, (torch.rand(len(x)) - 0.5) * 2 * 15 / 180 * np.pi)


def _color(x: Tensor) -> Tensor:
    added, saturated, contrasted = (torch.rand(len(x), 1, 1, 1).flatten() for _ in range(3))
    x = transforms.brightness(x, added - 0.5)
    return transforms.contrast(transforms.saturation(x, saturated * 2), contrasted + 0.5)


def _crop(x: Tensor) -> Tensor:
    shifts = [torch.randint(-2, 3, (len(x), 1, 1)).flatten() for _ in range(2)]
    return transforms.crop(x, torch.stack(shifts, dim=1))


def _cutout(x: Tensor) -> Tensor:
    centres = [torch.randint(0, 17, (len(x), 1, 1)).flatten() for _ in range(2)]
    return transforms.cutout(x, torch.stack(centres, dim=1))


def _flip(x: Tensor) -> Tensor:
    return transforms.flip(x, torch.rand(len(x), 1, 1, 1).flatten() < 0.5)


OURS = {"scale": _scale, "rotate": _rotate, "color": _color, "crop": _crop, "flip": _flip}


@pytest.mark.parametrize("kind", OURS)
def test_augmentation(kind: str, plain: Any, draw: torch.Generator):
    images = noise(draw, 7, 3, 16, 16)
    torch.manual_seed(3)
    theirs = plain.dsa(images, [kind])
    torch.manual_seed(3)
    assert torch.allclose(OURS[kind](images), theirs, atol=1e-5)


def test_a_hole_of_the_reference_is_ours_where_it_is_within_the_image(plain: Any, draw: torch.Generator):
    images = noise(draw, 64, 3, 16, 16)
    torch.manual_seed(3)
    theirs = plain.dsa(images, ["cutout"])
    torch.manual_seed(3)
    ours = _cutout(images)
    # at a border the reference blanks the last row or column where ours is already outside: see its clamp
    torch.manual_seed(3)
    centres = torch.stack([torch.randint(0, 17, (64, 1, 1)).flatten() for _ in range(2)], dim=1)
    within = ((centres >= 4) & (centres <= 12)).all(1)
    assert within.sum() > 5
    assert torch.equal(ours[within], theirs[within])


def test_a_kind_is_drawn_for_the_whole_batch(plain: Any, draw: torch.Generator, monkeypatch: pytest.MonkeyPatch):
    images, drawn = noise(draw, 7, 3, 16, 16), list[tuple[str, int]]()

    def noting(kind: str) -> Callable[[Tensor], Tensor]:
        def note(batch: Tensor) -> Tensor:
            drawn.append((kind, len(batch)))
            return batch

        return note

    for kind in plain.KINDS:
        monkeypatch.setitem(plain.TRANSFORMS, kind, noting(kind))
    random.seed(0)
    for _ in range(60):
        plain.dsa(images)
    assert [count for _, count in drawn] == [7] * 60
    assert {kind for kind, _ in drawn} == {*plain.KINDS}


def test_training_learns(plain: Any):
    source = blobs(classes=3, per_class=30, side=16)
    images = source.images.float().expand(-1, 3, -1, -1) / 255 - 0.5
    torch.manual_seed(0)
    model = plain.ConvNet(2, 8, side=16, classes=3)
    before = plain.accuracy(model, images, source.labels)
    plain.train(model, images, source.labels, epochs=10, rate=0.1, batch=16, augment=lambda batch: batch, momentum=0.9)
    assert plain.accuracy(model, images, source.labels) > max(0.9, before)


def test_whitening(plain: Any):
    source = blobs(classes=3, per_class=30, side=4)
    mean, matrix = plain.whitening(source.images.flatten(1).double().numpy() / 255)
    ours = zca.fit(source)
    assert np.allclose(ours.offset, mean, atol=1e-6)
    assert np.allclose(ours.matrix, matrix, atol=1e-4)


def test_herding(plain: Any, draw: torch.Generator):
    features = torch.rand(50, 12, generator=draw)
    assert plain.herding(features, 8) == selection.herd(features, 8).tolist()


def test_folders(plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    for index in range(12):
        path = tmp_path / "train" / f"class {index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[:30, :30] * 4
        Image.fromarray(np.stack([y + index, x, y + x], axis=2).clip(0, 255).astype(np.uint8)).save(path)
    images, labels = plain.folder(tmp_path / "train", 15)
    (tmp_path / "test").symlink_to(tmp_path / "train")
    ours = datasets.load(f"folder:{tmp_path}", image_size=15)
    assert torch.equal(ours.labels, labels)
    apart = (ours.take(torch.arange(12)).int() - images.int()).abs()  # of 256 grey levels: another way to resize
    assert apart.max() <= 2


# --- the table -------------------------------------------------------------------------------------------------------


def test_what_is_asked_can_be_lost(peers: Any):
    case = peers.PEERS["dm"]
    assert case.asked == {"cpu": 1.8, "memory": 1.0}

    def found(plain_seconds: float, plain_mib: float) -> dict[str, Any]:
        turns = [
            {"ours": {"step": {"cpu_seconds": ours}}, "plain": {"step": {"cpu_seconds": plain_seconds}}}
            for ours in (1.0, 1.5, 0.5)
        ]
        return peers._compared("dm", "step", turns, {"ours": 100.0, "plain": plain_mib})

    won = found(1.9, 100.0)
    assert won["plain_over_ours"] == {"cpu": 1.9, "cpu_min": 3.8, "memory": 1.0}
    assert won["met"] is True
    assert found(1.7, 100.0)["met"] is False
    lost = found(1.9, 90.0)
    assert lost["met"] is False
    assert "LOST" in peers.line({"case": "dm", "part": "step", **lost})
    assert "LOST" not in peers.line({"case": "dm", "part": "step", **won})


def test_a_profile_is_the_share_of_each_kind_of_operation():
    profile = benchmark("peers_profile")
    times = {
        "aten::mkldnn_convolution": 30.0,
        "aten::convolution_backward": 20.0,
        "_NormBackward": 5.0,
        "aten::native_group_norm": 15.0,
        "aten::clamp_min": 10.0,
        "aten::mul": 8.0,
        "aten::grid_sampler_2d": 12.0,
    }
    assert list(profile.shares(times).items()) == [
        ("convolution", 0.5),
        ("norm", 0.2),
        ("other", 0.12),
        ("ReLU", 0.1),
        ("arithmetic", 0.08),
    ]


def test_cases_by_their_beginning(peers: Any):
    assert peers.named(["mtt"]) == ["mtt-full", "mtt-adjoint", "mtt-compiled"]
    assert peers.named(["dsa"])[:2] == ["dsa", "dsa-color"]
    assert peers.named([]) == list(peers.PEERS)
    with pytest.raises(peers.UserError, match="did you mean 'tesla'"):
        peers.named(["teslq"])


QUICK = {"dsa-flip": "forward and backward", "herding": "pick", "folder": "load"}


@pytest.mark.parametrize("side", ["ours", "plain"])
@pytest.mark.parametrize("name", QUICK)
def test_both_sides_of_a_case_have_the_same_parts(
    name: str, side: str, peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    made: Callable[[Path], Any] = getattr(peers.PEERS[name], side)
    parts = made(tmp_path)
    assert list(parts) == [QUICK[name]]
    for run in parts.values():
        run()
        run()
