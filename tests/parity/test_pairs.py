"""Inner steps as pairs of functions: the rule, the comparison with eager steps, the fallback, and the gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dd_core import networks
from dd_core.distilled import DistilledSet, Size
from dd_core.distiller import Context
from dd_core.errors import Diverged, OutOfResources, UserError
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.store import read_set
from dd_core.streams import generator
from dd_core.system import device as devices
from dd_core.testing import blobs
from dd_core.unroll import BOUND, InnerSteps, Unrolled, apply, how_to_step, pairs, unroll

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STEPS = 4
BLOBS = blobs(per_class=12)
MATCHING: dict[str, Any] = {
    "steps": 4,
    "syn_steps": 3,
    "batch_syn": 4,  # of six images: batches of four and of two
    "experts": 1,
    "training": {"batch_size": 20, "learning_rate": 0.05, "epochs": 12},
    "recipe": {"network": "convnet-1-w4"},
}
Function = Callable[..., tuple[Tensor, ...]]
COMPILING = "compiling inner steps, which takes about a minute"


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_APPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Problem:
    """Pixels, soft labels and a learning rate for each step, learned through a small network."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        draw = generator(0, "problem")

        def some(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

        self.network = networks.build("convnet-1-w4", in_channels=1, classes=3, image_size=(8, 8), seed=2).to(dtype)
        self.theta = tuple(parameter.detach() for parameter in self.network.parameters())
        self.learned = (some(6, 1, 8, 8), some(6, 3), some(STEPS) - 2)
        self.real = some(9, 1, 8, 8), torch.arange(9) % 3

    def loss(self, theta: tuple[Tensor, ...], images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(apply(self.network, theta, images), targets)

    def seen(self, t: int, learned: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = slice(3 * (t % 2), 3 * (t % 2) + 3)
        return learned[0][rows].flip(3), learned[1][rows].softmax(1), F.softplus(learned[2][t])

    def outer(self, theta: tuple[Tensor, ...]) -> Tensor:
        return F.cross_entropy(apply(self.network, theta, self.real[0]), self.real[1])

    def unrolled(self, steps: InnerSteps, mode: str = "adjoint") -> Unrolled:
        return unroll(steps.step(self.seen), STEPS, self.theta, self.learned, self.outer, mode=mode)  # type: ignore[arg-type]

    def by_hand(self) -> tuple[Tensor, ...]:
        """The gradients of pixels, labels, rates and theta_0, by modules, SGD by hand and one backward call."""
        pixels, labels, rates = (one.clone().requires_grad_() for one in self.learned)
        start = [one.clone().requires_grad_() for one in self.theta]
        names, theta = [name for name, _ in self.network.named_parameters()], start
        for t in range(STEPS):
            rows = [3 * (t % 2) + i for i in range(3)]
            weights = dict(zip(names, theta, strict=True))
            logits = torch.func.functional_call(self.network, weights, pixels[rows].flip(3))
            loss = -(labels[rows].softmax(1) * logits.log_softmax(1)).sum(1).mean()
            slopes = torch.autograd.grad(loss, theta, create_graph=True)
            theta = [w - torch.log1p(rates[t].exp()) * g for w, g in zip(theta, slopes, strict=True)]
        logits = torch.func.functional_call(self.network, dict(zip(names, theta, strict=True)), self.real[0])
        F.cross_entropy(logits, self.real[1]).backward()
        return tuple(one.grad for one in (pixels, labels, rates, *start))


def as_it_is(function: Function, *examples: Tensor) -> Function:
    return function


def worst(ours: Unrolled, theirs: tuple[Tensor, ...]) -> float:
    """The largest relative error among pixels, labels, rates, and theta_0 as one vector."""
    several = [*zip(ours.learned, theirs, strict=False)]
    several.append(tuple(torch.cat([one.flatten() for one in vector]) for vector in (ours.start, theirs[3:])))
    return max(float((a - b).norm() / b.norm()) for a, b in several)


# --- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "gradient", "device", "how"),
    [
        (None, "auto", CPU, "eager"),
        (None, "adjoint", CPU, "eager"),
        (True, "auto", CPU, "compiled"),
        (True, "tesla", CPU, "compiled"),
        (False, "adjoint", CPU, "eager"),
        (None, "auto", GPU, "captured"),
        (None, "tesla", GPU, "captured"),
        (True, "adjoint", GPU, "captured"),
        (False, "adjoint", GPU, "eager"),
        (None, "full", GPU, "eager"),
        (None, "truncated", GPU, "eager"),
    ],
)
def test_how_steps_are_taken_is_a_rule_of_options_and_device(asked, gradient, device, how):
    assert how_to_step(gradient, device, asked=asked) == how


def test_the_choice_is_part_of_the_configuration_but_the_default_is_not_written():
    assert "compile" not in method("mtt").model_dump()
    assert method("mtt", compile=True).model_dump()["compile"] is True
    assert method("dataset-distillation", compile=False).model_dump()["compile"] is False


@pytest.mark.parametrize("name", ["mtt", "dataset-distillation"])
def test_modes_that_need_several_steps_graph_are_not_compiled(name: str):
    with pytest.raises(UserError, match="gradient 'full' needs the graph of several"):
        method(name, compile=True, gradient="full")


@pytest.mark.parametrize("name", ["mtt", "dataset-distillation"])
def test_a_forecast_waits_for_no_compiler(name: str):
    short, _ = method(name, compile=True).rehearsal(BLOBS, Size(ipc=1))
    assert short.compile is None
    short, _ = method(name, compile=False).rehearsal(BLOBS, Size(ipc=1))
    assert short.compile is False


# --- gradients ---------------------------------------------------------------------------------------------------


def test_pairs_have_the_gradients_of_steps_written_by_hand(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(pairs, "compiled", lambda function, *examples: made.append(examples) or function)
    problem = Problem()
    ours = problem.unrolled(InnerSteps(problem.loss, "compiled"))
    assert len(made) == 2  # ahead and back, each once for all steps
    assert worst(ours, problem.by_hand()) < 1e-12


def test_pairs_approximate_as_tesla_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairs, "compiled", as_it_is)
    problem = Problem()
    ours = problem.unrolled(InnerSteps(problem.loss, "compiled"), "tesla")
    eager = problem.unrolled(InnerSteps(problem.loss), "tesla")
    assert worst(ours, (*eager.learned, *eager.start)) < 1e-12
    assert worst(ours, problem.by_hand()) > 1e-3


def test_compiled_steps_have_the_gradients_of_eager_ones(capfd: pytest.CaptureFixture[str]):
    said: list[str] = []
    problem = Problem(torch.float32)
    steps = InnerSteps(problem.loss, "compiled", message=said.append)
    ours, eager = problem.unrolled(steps), problem.unrolled(InnerSteps(problem.loss))
    assert (said, steps.how, capfd.readouterr().err) == ([COMPILING], "compiled", "")
    assert worst(ours, (*eager.learned, *eager.start)) < BOUND
    again = problem.unrolled(steps)
    assert all(torch.equal(a, b) for a, b in zip(ours.learned, again.learned, strict=True))


def test_functions_are_made_for_each_shape(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(pairs, "compiled", lambda function, *examples: made.append(examples) or function)
    config = method("mtt", **MATCHING, compile=True)
    distiller = config.build(Context.gather(config, BLOBS, Size(ipc=2), seed=0, device=CPU))
    distiller.step(0)
    images = 6  # after weights and biases of convolution, norm and classifier
    assert sorted(len(examples[images]) for examples in made) == [2, 2, 4, 4]
    assert distiller.mode == "adjoint"


# --- the comparison, and the fallback ------------------------------------------------------------------------------


def taken(ds: DistilledSet) -> str | None:
    assert ds.manifest.provenance is not None
    told = json.loads(ds.manifest.provenance.model_dump_json())
    assert ("inner_steps" in told) == (told.get("inner_steps") is not None)
    return told.get("inner_steps")


def off_by(error: float) -> Callable[..., Function]:
    return lambda function, *examples: lambda *tensors: tuple((1 + error) * each for each in function(*tensors))


def refuses(function: Function, *examples: Tensor) -> Function:
    raise RuntimeError("no compiler found\nsecond line")


@pytest.mark.parametrize(("error", "kept"), [(1e-6, True), (1e-4, False), (float("nan"), False)])
def test_functions_that_differ_from_eager_ones_are_not_used(monkeypatch: pytest.MonkeyPatch, error: float, kept: bool):
    monkeypatch.setattr(pairs, "compiled", off_by(error))
    said: list[str] = []
    problem = Problem()
    steps = InnerSteps(problem.loss, "compiled", message=said.append)
    ours = problem.unrolled(steps)
    if kept:
        assert (steps.how, said) == ("compiled", [COMPILING])
        return
    assert steps.how == "eager"
    assert said == [
        COMPILING,
        f"inner steps differ from eager ones by {error:.1e} when compiled; they are eager instead",
    ]
    assert worst(ours, problem.by_hand()) < 1e-12


def test_a_step_that_diverges_is_the_methods_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairs, "compiled", as_it_is)
    config = method("mtt", **MATCHING, compile=True)
    distiller = config.build(Context.gather(config, BLOBS, Size(ipc=2), seed=0, device=CPU))
    distiller.inner_steps.load_state_dict({"inner_steps": "compiled"})
    with torch.no_grad():
        distiller.pixels.fill_(float("inf"))
    with pytest.raises(Diverged):
        distiller.step(0)
    assert distiller.inner_steps.how == "compiled"


def test_a_bfloat16_run_allows_for_its_precision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairs, "compiled", off_by(3e-3))
    for amp, how in ((True, "compiled"), (False, "eager")):
        config = method("mtt", **MATCHING, compile=True, amp=amp)
        distiller = config.build(Context.gather(config, BLOBS, Size(ipc=2), seed=0, device=CPU))
        distiller.step(0)
        assert distiller.state_dict()["inner_steps"] == how


@pytest.mark.parametrize("name", ["mtt", "dataset-distillation"])
def test_where_nothing_can_be_compiled_a_run_says_so_and_is_eager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    monkeypatch.setattr(pairs, "compiled", refuses)
    options = MATCHING if name == "mtt" else {"steps": 2, "recipe": {"network": "convnet-1-w4"}}
    reporter = Heard()
    ours = distill({"name": name, **options, "compile": True}, BLOBS, 2, options=RunOptions(reporter=reporter))
    theirs = distill({"name": name, **options, "gradient": "adjoint"}, BLOBS, 2)
    assert np.array_equal(ours.images, theirs.images)
    assert [taken(ds) for ds in (ours, theirs)] == ["eager", None]  # though its config says "compile": true
    line = "inner steps cannot be compiled here (RuntimeError: no compiler found); they are eager instead"
    assert reporter.lines.count(line) == 1


def test_a_set_says_that_some_of_its_inner_steps_were_eager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    made: list[int] = []

    def only_two(function: Function, *examples: Tensor) -> Function:
        made.append(1)
        return as_it_is(function, *examples) if len(made) <= 2 else refuses(function, *examples)

    monkeypatch.setattr(pairs, "compiled", only_two)  # ahead, of batches of four and of two images; not back
    config = {"name": "mtt", **MATCHING, "compile": True}
    assert taken(distill(config, BLOBS, 2)) == "compiled and eager"
    made.clear()
    with pytest.raises(OutOfResources):
        distill(config, BLOBS, 2, out=tmp_path / "a.safetensors", options=RunOptions(time_limit=0.0))
    assert taken(distill(config, BLOBS, 2, out=tmp_path / "a.safetensors")) == "compiled and eager"
    assert taken(distill({**config, "steps": 0}, BLOBS, 2)) is None


def test_what_is_no_gpu_captures_nothing():
    said: list[str] = []
    problem = Problem()
    assert worst(problem.unrolled(InnerSteps(problem.loss, "captured", message=said.append)), problem.by_hand()) < 1e-12
    assert said[0].startswith("inner steps cannot be captured here (")


def test_memory_that_runs_out_is_no_reason_to_be_eager(monkeypatch: pytest.MonkeyPatch):
    def full(function: Function, *examples: Tensor) -> Function:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pairs, "compiled", full)
    problem = Problem()
    with pytest.raises(torch.OutOfMemoryError):
        problem.unrolled(InnerSteps(problem.loss, "compiled"))


def test_a_captured_function_copies_what_it_is_given_and_what_it_returns(monkeypatch: pytest.MonkeyPatch):
    """On a CPU, with a graph that calls the function again where CUDA would launch its kernels again."""
    fake_cuda(monkeypatch)
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    fast = devices.Captured(lambda x, y: (x * y, x + y), a, b)
    first = fast(a, b)
    second = fast(b, b)
    assert [one.tolist() for one in (*first, *second)] == [[3, 8], [4, 6], [9, 16], [6, 8]]
    assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])


def test_a_run_of_captured_steps_is_the_run_of_eager_ones(monkeypatch: pytest.MonkeyPatch):
    fake_cuda(monkeypatch)
    problem, said = Problem(), []
    steps = InnerSteps(problem.loss, "captured", message=said.append)
    assert worst(problem.unrolled(steps), problem.by_hand()) < 1e-12
    assert (said, steps.how) == ([], "captured")


# --- resuming ----------------------------------------------------------------------------------------------------


def test_a_run_goes_on_as_it_began(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairs, "compiled", refuses)
    problem = Problem()
    steps = InnerSteps(problem.loss, "compiled")
    steps.load_state_dict({"inner_steps": "compiled"})
    with pytest.raises(UserError, match=r"were compiled so far, and now they cannot be compiled here .* start over"):
        problem.unrolled(steps)
    steps = InnerSteps(problem.loss, "compiled", message=pytest.fail)
    steps.load_state_dict({"inner_steps": "eager"})
    assert worst(problem.unrolled(steps), problem.by_hand()) < 1e-12
    moved = InnerSteps(problem.loss, "compiled", message=(said := []).append)
    moved.load_state_dict({"inner_steps": "captured"})  # on a GPU, from which the run was moved here
    problem.unrolled(moved)
    assert len(said) == 2


@pytest.mark.parametrize("name", ["mtt", "dataset-distillation"])
@pytest.mark.parametrize("state", [{"inner_steps": "eager"}, {}])
def test_a_checkpoint_of_eager_steps_goes_on_with_eager_ones(name: str, state: dict[str, str]):
    options = MATCHING if name == "mtt" else {"steps": 2, "recipe": {"network": "convnet-1-w4"}}
    config = method(name, **options, compile=True)
    distiller = config.build(Context.gather(config, BLOBS, Size(ipc=2), seed=0, device=CPU))
    assert distiller.inner_steps.how == distiller.state_dict()["inner_steps"] == "compiled"
    before = {key: value for key, value in distiller.state_dict().items() if not key.startswith("inner_steps")}
    distiller.load_state_dict({**before, **state})
    assert distiller.inner_steps.how == "eager"


def test_a_compiled_run_resumes_to_the_bytes_of_one_that_was_not_interrupted(tmp_path: Path):
    config = {"name": "mtt", **MATCHING, "batch_syn": None, "compile": True}
    distill(config, BLOBS, 2, out=tmp_path / "whole.safetensors")
    with pytest.raises(OutOfResources, match="step 1 of 4"):
        distill(config, BLOBS, 2, out=tmp_path / "part.safetensors", options=RunOptions(time_limit=0.0))
    distill(config, BLOBS, 2, out=tmp_path / "part.safetensors")
    whole, part = (read_set(tmp_path / f"{name}.safetensors") for name in ("whole", "part"))
    assert np.array_equal(whole.images, part.images)
    assert taken(whole) == taken(part) == "compiled"
    eager = distill({**config, "compile": None, "gradient": "adjoint"}, BLOBS, 2)
    assert not np.array_equal(whole.images, eager.images)  # Inductor rounds otherwise: the runs above were compiled
    np.testing.assert_allclose(whole.images, eager.images, rtol=1e-3, atol=1e-4)


# --- mixed precision ---------------------------------------------------------------------------------------------


def test_bfloat16_is_near_and_its_cosine_is_logged():
    config = method("mtt", **MATCHING, amp=True)
    distiller = config.build(Context.gather(config, BLOBS, Size(ipc=2), seed=0, device=CPU))
    reports = [distiller.step(index) for index in range(2)]
    assert ["cosine" in report for report in reports] == [True, False]
    assert 0.9 < reports[0]["cosine"] < 1 - 1e-5
    exact = method("mtt", **MATCHING, cosine_every=1)
    distiller = exact.build(Context.gather(exact, BLOBS, Size(ipc=2), seed=0, device=CPU))
    assert distiller.step(0)["cosine"] == pytest.approx(1.0, abs=1e-6)


class Heard:
    """A reporter that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str, *, total: int, first: int = 0):
        from dd_core.system.reporter import Silent

        return Silent().stage(name, total=total, first=first)

    def message(self, text: str) -> None:
        self.lines.append(text)


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that do nothing, and graphs that record the Python function instead of its kernels."""

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    class Graph:
        def replay(self) -> None:
            captured = next(one for one in every if one.graph is self)
            for mine, new in zip(captured.outputs, captured.function(*captured.inputs), strict=True):
                mine.copy_(new)

    from contextlib import nullcontext

    every: list[Any] = []
    begin = devices.Captured.__init__

    def kept(self: Any, function: Function, *examples: Tensor) -> None:
        self.function = function
        every.append(self)
        begin(self, function, *examples)

    monkeypatch.setattr(devices.Captured, "__init__", kept)
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Graph,
        "graph": lambda graph: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
