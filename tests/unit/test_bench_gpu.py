"""What of `benchmarks/gpu.py` can be wrong without a GPU: its claims, and its own forms of the engine's mathematics."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dd_core import networks, unroll
from dd_core.images import LabelledImages
from dd_core.methods.trajectory_matching.expert_training import Sharpness
from dd_core.methods.trajectory_matching.gsam import flat_gradient
from dd_core.streams import Streams
from dd_core.unroll import pairs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
SAME = {"same": True, "largest": 0.0}

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def gpu_steps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_steps

    return gpu_steps


@pytest.fixture
def gpu_experts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_experts

    return gpu_experts


@pytest.fixture
def gpu_methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_methods

    return gpu_methods


@pytest.fixture
def gpu_sets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_sets

    return gpu_sets


@pytest.fixture
def source() -> LabelledImages:
    draw = Streams(0).generator("images")
    images = torch.randint(256, (40, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(40) % 10, tuple("0123456789"), "noise")


def figures(mebi: float | None, adjoint: float, full: float) -> dict[str, dict[str, float | None]]:
    return {"adjoint": {"excess_mib": mebi, "ms": adjoint}, "full": {"excess_mib": mebi, "ms": full}}


def test_the_claims_compare_memory_at_both_ends_and_time_in_the_middle(gpu_steps: ModuleType):
    found = {80: figures(130.0, 9.0, 1.0), 10: figures(100.0, 9.0, 1.0), 30: figures(1.0, 3.4, 2.0)}
    assert gpu_steps.claims(found) == {
        "adjoint_memory_80_over_10": 1.3,
        "adjoint_memory_80_over_10_asked": 1.3,
        "adjoint_memory_80_over_10_met": True,
        "adjoint_time_over_full_at_30": 1.7,
        "adjoint_time_over_full_at_30_asked": 1.6,
        "adjoint_time_over_full_at_30_met": False,
    }


def test_nothing_is_claimed_of_a_figure_that_is_not_there(gpu_steps: ModuleType):
    out_of_memory = {"adjoint": {"excess_mib": None, "ms": 1.0}, "full": {"reason": "OutOfMemoryError"}}
    assert gpu_steps.claims({10: out_of_memory, 80: out_of_memory}) == {}


def test_faster_steps_are_compared_with_the_engines(
    gpu_steps: ModuleType, source: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))
    monkeypatch.setattr(pairs, "compiled", lambda function, *examples: function)
    problem = gpu_steps.Problem(source, "convnet-1-w4", 10, CPU)
    record = gpu_steps.faster(problem, "compiled", "float32", problem.exact(3), 3, 1)
    assert list(record["modes"]) == ["full", "adjoint", "compiled"]
    assert record["modes"]["compiled"]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert record["over_full"] == pytest.approx(
        record["modes"]["compiled"]["ms"] / record["modes"]["full"]["ms"], abs=1e-3
    )
    assert unroll.cosine(problem.exact(3), problem.run(problem.step(half=False), 3, "tesla"))[0] < 0.99999
    refused = gpu_steps.faster(problem, "captured", "float32", problem.exact(3), 3, 1)  # a CPU captures nothing
    assert refused["reason"].startswith("Failed: inner steps cannot be captured here")


@pytest.mark.parametrize("sharpness", [None, Sharpness(rho=0.5, alpha=0.7)])
def test_a_gradient_for_vmap_is_the_engines(gpu_experts: ModuleType, sharpness: Sharpness | None):
    model = networks.build("lenet", in_channels=1, classes=3, image_size=(8, 8), seed=0)
    images, labels = torch.randn(6, 1, 8, 8, generator=Streams(0).generator("images")), torch.arange(6) % 3
    theta = dict(model.named_parameters())

    def loss(values):
        logits = torch.func.functional_call(model, dict(zip(theta, values, strict=True)), (images,))
        return torch.nn.functional.cross_entropy(logits, labels)

    weights = tuple(theta.values())
    if sharpness is None:
        engines = torch.autograd.grad(loss(weights), weights)
    else:
        _, engines = flat_gradient(loss, weights, sharpness=sharpness)
    ours = gpu_experts.gradient_of(model, sharpness)({n: w.detach() for n, w in theta.items()}, images, labels)
    torch.testing.assert_close(tuple(ours.values()), engines)


def test_two_runs_are_compared_without_a_warning_about_arrays_that_cannot_be_written_to(
    gpu_methods: ModuleType, source: LabelledImages
):
    torch.set_warn_always(True)  # otherwise PyTorch warns of it once a process
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = gpu_methods.repeated("herding", source, "convnet-1-w4", CPU, 1)
    finally:
        torch.set_warn_always(False)
    assert found == {"images": SAME, "scores": SAME, "same": True}
    assert not [one for one in caught if "not writable" in str(one.message)]


@pytest.mark.parametrize(("points", "panels"), [([], 2), ([{"step": 500, "accuracy": 0.5, "real": 0.3}], 3)])
def test_a_learning_curve_is_drawn_once_it_has_a_point(
    gpu_sets: ModuleType, tmp_path: Path, points: list[dict[str, float]], panels: int
):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    bench = SimpleNamespace(out=tmp_path, results=tmp_path / "gpu.jsonl")
    lines = "".join(json.dumps(point) + "\n" for point in points)
    gpu_sets.curve_path(bench).write_text(lines)
    gpu_sets.draw(bench)
    with image.open(tmp_path / "gpu.png") as picture:
        assert picture.size == (320 * panels, 320)
