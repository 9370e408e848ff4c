"""Bytes of a computation: counted, bounded in batches, and told before the start."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from dd_core import networks, training
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.evaluation import checks
from dd_core.images import PIXEL_BYTES, InputForm, channel_stats, pixel_batch
from dd_core.methods import method
from dd_core.methods.sre2l.recovery import RecoveryBatch
from dd_core.methods.trajectory_matching import opinions as matching
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.system import footprint
from dd_core.system.budget import Footprint
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training import estimates
from dd_core.unroll import trail

CPU = torch.device("cpu")


def test_the_peak_is_that_of_what_is_alive_at_the_same_time():
    def work() -> torch.Tensor:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1  # 8,000 together
        del first
        third = second.view(10, 100).t()  # a view takes nothing
        del second
        return third + third  # 8,000 again

    assert footprint.peak_bytes(work) == 8000
    given = torch.zeros(1000)
    assert footprint.peak_bytes(lambda: given.add_(1)) == 0


def test_what_autograd_keeps_counts_until_the_backward_pass():
    """100 bytes of pixels, 400 of float32, three results of 400 that sigmoids keep, and the first gradient, of 400."""

    def work(images: torch.Tensor) -> None:
        images.float().requires_grad_().sigmoid().sigmoid().sigmoid().sum().backward()

    assert footprint.bytes_an_image(work, (1, 10, 10), CPU) == 2100
    with torch.no_grad():  # forward alone: an input and an output at a time
        cost = footprint.bytes_an_image(lambda images: images.float().sigmoid().sigmoid().sigmoid(), (1, 10, 10), CPU)
    assert cost == 900


def test_counting_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    footprint.peak_bytes(lambda: nn.functional.dropout(torch.ones(9)))
    assert torch.equal(torch.rand(2), expected)


def test_bytes_of_an_image_in_a_convolutional_network_by_hand():
    """A convolution of 3x3 without bias to 16 channels of 8x8: its float32 input and output are alive together."""
    network = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    with torch.no_grad():
        cost = footprint.bytes_an_image(lambda images: network(images.float()), (3, 8, 8), CPU)
    assert cost == 8 * 8 * (3 + 4 * 3 + 4 * 16)  # uint8 image, as float32, channels


@pytest.mark.parametrize(("cost", "expected"), [(1, 50), (100, 10), (400, 2), (5000, 1)])
def test_images_at_once_are_within_the_budget_and_never_none(cost: int, expected: int):
    assert footprint.images_at_once(cost, budget=1000, most=50) == expected


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that networks are given, when two images and a half fit."""
    source, sizes = blobs(), list[int]()
    network = networks.for_source("convnet-1-w8", source, seed=0).eval()
    with torch.no_grad():
        cost = footprint.bytes_an_image(lambda images: network(images.float()), source.image_shape, CPU)
    monkeypatch.setattr(footprint, "images_at_once", lambda _, most: max(1, min(most, 5 * cost // 2 // cost)))

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, networks.FeatureNetwork) and inputs[0].any():  # not the black ones of a measurement
            sizes.append(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    yield sizes
    handle.remove()


def test_predictions_are_made_in_batches_of_the_budget_and_are_the_same(batches: list[int]):
    source = blobs()
    network = networks.for_source("convnet-1-w8", source, seed=0)
    form = InputForm((0.0,), (1.0,))  # black images stay black
    guesses = training.predictions(network, source, form, device=CPU)
    assert (len(batches), max(batches)) == (18, 2)
    assert torch.equal(guesses, network.eval()(form(source.images)).argmax(1))
    flat = nn.utils.parameters_to_vector(network.parameters()).detach()
    batches.clear()
    assert torch.equal(matching.right_of(network, flat, source, form, CPU), guesses == source.labels)
    assert (len(batches), max(batches)) == (18, 2)


def test_a_cpu_tests_128_images_at_once_and_a_gpu_512():
    source, sizes = blobs(per_class=100), list[int]()
    network = networks.for_source("convnet-1-w4", source, seed=0)
    hook = network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    guesses = training.predictions(network, source, InputForm((0.0,), (1.0,)), device=CPU)
    hook.remove()
    assert sizes[-3:] == [128, 128, 44]
    assert torch.equal(guesses, network(InputForm((0.0,), (1.0,))(source.images)).argmax(1))
    assert footprint.most_forward(torch.device("cuda")) == 512


def test_a_pass_over_a_source_holds_few_decoded_images():
    sizes: list[int] = []

    class Counted(type(blobs())):
        def batches(self, size: int):
            sizes.append(size)
            return super().batches(size)

    source = blobs(side=8)
    assert channel_stats(Counted(source.images, source.labels, source.classes, "x")) == channel_stats(source)
    assert sizes == [4096]
    assert pixel_batch((3, 224, 224), most=4096) == PIXEL_BYTES // (3 * 224 * 224) == 445
    assert pixel_batch((3, 224, 224), most=4096, bytes_each=8) == 55
    assert pixel_batch((3, 9000, 9000), most=4096) == 1


def test_what_is_short_is_said_with_the_setting_that_helps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dd_core.system.device.free_memory_bytes", lambda device: 6_000_000_000)
    assert footprint.shortage(Footprint(3_750_000_000, ("batch_real",)), CPU) is None  # 1.6 times are just free
    assert footprint.shortage(Footprint(6_000_000_000, ("batch_real",)), torch.device("cuda")) is None
    assert footprint.shortage(Footprint(7_125_000_000, ("batch_real",)), CPU) == (
        "about 11.4 GB of memory will be needed, and 6.0 GB are free; a smaller batch_real needs less"
    )
    assert footprint.shortage(Footprint(7_125_000_000), CPU) == (
        "about 11.4 GB of memory will be needed, and 6.0 GB are free"
    )


def sre2l(*, teacher_batch: int, batch: int) -> dict:
    teacher = {"network": "convnet-1-w8-batchnorm", "epochs": 1, "batch_size": teacher_batch}
    return {"teacher": teacher, "recover": {"iterations": 1, "batch_size": batch}}


KRR_ST = {
    "steps": 1,
    "networks": 1,
    "online_steps": 1,
    "teacher": {"epochs": 1, "warmup": 0, "batch_size": 12},
    "recipe": {"network": "convnet-1-w8-batchnorm"},
}
METHODS = [
    ("dm", {"steps": 1, "recipe": {"network": "convnet-1-w8-batchnorm"}}, "batch_real"),
    ("dm", {"steps": 1, "batch_bytes": 2000, "recipe": {"network": "convnet-1-w8"}}, "batch_bytes"),
    ("dataset-distillation", {"steps": 1, "epochs": 2, "recipe": {"network": "convnet-1-w8"}}, "batch_bytes"),
    ("optimized", {"steps": 1, "networks": 1, "recipe": {"network": "convnet-1-w8", "epochs": 1}}, "network"),
    ("sre2l", sre2l(teacher_batch=2, batch=50), "recover.batch_size"),
    ("sre2l", sre2l(teacher_batch=12, batch=1), "teacher.batch_size"),
    ("krr-st", KRR_ST, "number of images"),
    ("k-means", {}, "number of images in the largest class"),
    ("herding", {}, "number of images in the largest class"),
    (
        "mtt",
        {"steps": 1, "syn_steps": 2, "experts": 1, "recipe": {"network": "convnet-1-w8"}},
        "training.batch_size",
    ),
]


@pytest.mark.parametrize(("name", "options", "setting"), METHODS)
def test_a_run_that_will_be_short_of_memory_says_so_and_runs(
    name: str, options: dict, setting: str, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))
    config, said = method(name, **options), list[str]()

    class Notes(type(RunOptions().reporter)):
        def message(self, text: str) -> None:
            said.append(text)

    for free in (10**12, 1000):
        monkeypatch.setattr("dd_core.system.device.free_memory_bytes", lambda device, free=free: free)
        distill(config, blobs(), Size(ipc=1), options=RunOptions(device="cpu", reporter=Notes()))
    (line,) = [text for text in said if text.startswith("warning: about")]
    assert line.endswith(f"of memory will be needed, and 0.0 GB are free; a smaller {setting} needs less")


MEASURE = """
import json, sys
import torch
from dd_core import training
from dd_core.system import device
from dd_core.system.threads import computing
from dd_core.training import estimates
from dd_core.distilled import Size
from dd_core.recipe import Recipe
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams
from dd_core.testing import blobs

what, cpu, source = sys.argv[1], torch.device("cpu"), blobs(channels=3, side=64, classes=2, per_class=40)
recipe = Recipe(network="convnet-w64", epochs=1, batch_size=40)
peak = lambda: device.peak_memory_bytes(cpu)
if what == "dm":
    config = method("dm", steps=1, batch_real=40, recipe={"network": "convnet-w64"})
    need = config.footprint(source, Size(ipc=2), cpu)
    before = peak()
    distill(config, source, Size(ipc=2), options=RunOptions(device="cpu", threads=1))
else:
    need = estimates.evaluation(recipe, source.image_shape, 2, images=80, tested=80, sets=1, jobs=1, device=cpu)
    form = InputForm.of(source)
    with computing(1):
        before = peak()
        data = training.TrainingData(form(source.images), source.labels, None, 2)
        model = training.fit(data, recipe.network, recipe, streams=Streams(0), device=cpu)
        training.predictions(model, source, form, device=cpu)
print(json.dumps([need.bytes, peak() - before]))
"""


@pytest.mark.parametrize("what", ["dm", "evaluate"])
def test_estimates_are_near_what_a_process_takes(what: str):
    # glibc keeps what is freed, more or less of it from run to run; with a fixed threshold, tensors go back at once
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", MEASURE, what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    estimate, measured = json.loads(done.stdout)
    assert measured > 50e6
    assert 0.9 < estimate / measured < 1.3


@pytest.mark.parametrize(("nets", "count", "sets"), [(1, 1, 2), (50, 1, 3), (50, 2, 11), (4, 2, 5)])
def test_an_evaluation_holds_as_many_sets_as_workers_need(
    nets: int, count: int, sets: int, monkeypatch: pytest.MonkeyPatch
):
    given: dict[str, int] = {}
    estimate = estimates.evaluation

    def noted(*values, **options):
        given.update(sets=options["sets"], jobs=options["jobs"])
        return estimate(*values, **options)

    monkeypatch.setattr(checks.estimates, "evaluation", noted)
    ds = distill(method("random", recipe={"network": "convnet-1-w4"}), blobs(), Size(ipc=1))
    workers = Workers(count=count)
    checks.memory_shortage(ds, ds.manifest.recipe, tested=9, nets=nets, workers=workers, device=CPU)
    assert given == {"sets": sets, "jobs": min(count, 2 * nets)}


def test_a_step_of_training_keeps_more_of_wider_networks_and_larger_batches():
    narrow, wide = (Recipe(network=f"convnet-1-w{width}-nonorm", batch_size=10) for width in (8, 16))
    costs = [estimates.image_bytes(recipe, (1, 8, 8), 3, CPU) for recipe in (narrow, wide)]
    assert 1.8 < costs[1] / costs[0] < 2.1
    few, many = (estimates.training_bytes(narrow, (1, 8, 8), 3, images, CPU) for images in (5, 50))
    assert many - few == 5 * costs[0]  # mini-batches of 10 at most


def test_the_memory_of_full_grows_with_the_steps_and_that_of_adjoint_does_not():
    recipe = Recipe(network="convnet-1-w8-nonorm")

    def taken(steps: int, mode: str) -> int:
        return estimates.unrolled_bytes(recipe, (1, 8, 8), 3, images=30, steps=steps, mode=mode, device=CPU)

    weights = sum(one.nbytes for one in networks.for_source("convnet-1-w8-nonorm", blobs(), seed=0).parameters())
    assert taken(20, "adjoint") - taken(10, "adjoint") == 10 * weights
    assert taken(20, "full") > 1.7 * taken(10, "full")
    many = trail.MEMORY_BYTES // weights + 1
    assert taken(many, "adjoint") == taken(9 * many, "adjoint") < taken(1, "adjoint") + trail.MEMORY_BYTES
    assert trail.bytes_in_memory(weights, 9 * many, torch.device("cuda")) == 9 * many * weights


def test_what_a_function_makes_once_does_not_count_with_its_images():
    kept: list[torch.Tensor] = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.append(torch.zeros(1 << 20))  # such as the copy of a whitening's matrix on the device
        return images.float()

    assert footprint.bytes_an_image(predict, (1, 8, 8), CPU) == (1 + 4) * 64  # as bytes, and as float32


@pytest.mark.parametrize("gradient", ["full", "truncated", "adjoint"])
def test_the_estimate_of_dataset_distillation_covers_its_step(gradient: str):
    window = {"window": 2} if gradient == "truncated" else {}
    options = {"steps": 1, "epochs": 6, "gradient": gradient, "recipe": {"network": "convnet-1-w16-nonorm"}, **window}
    config, source, size = method("dataset-distillation", **options), blobs(side=16, per_class=40), Size(ipc=5)
    distiller = config.build(Context(source, size, Streams(0), CPU))
    measured = footprint.peak_bytes(lambda: distiller.step(0))
    assert 0.8 < config.footprint(source, size, CPU).bytes / measured < 2.5


@pytest.mark.parametrize("images", [4, 16])
def test_the_estimate_of_sre2l_covers_an_iteration(images: int):
    config, source = method("sre2l", **sre2l(teacher_batch=1, batch=images)), blobs(side=16, classes=2, per_class=40)
    network, form = networks.for_source("convnet-1-w8-batchnorm", source, seed=0), InputForm.of(source)
    first, labels = form(source.images[:images]), torch.zeros(images, dtype=torch.int64)

    def iteration() -> None:
        RecoveryBatch(network, first, labels, form, config.recover, streams=Streams(0), device=CPU).step()

    measured = footprint.peak_bytes(iteration)
    assert 0.9 < config.footprint(source, Size(ipc=20), CPU).bytes / measured < 1.3
