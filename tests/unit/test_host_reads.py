"""How often a step waits for the device: for values that Python reads, and for copies that the host waits for.

On the device "meta", which computes shapes alone, reading a value fails, and a copy can be seen as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dd_core import Recipe, distill, evaluate, networks, zca
from dd_core.augment.view_config import Views
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.images import InputForm
from dd_core.methods import method
from dd_core.streams import Streams
from dd_core.testing import blobs
from dd_core.training import Loop, RealLessons, Settings
from dd_core.training import lessons as lessons_module
from dd_core.training.lessons import Lessons, RegressionData, lessons_of
from dd_core.training.prefetching import Reader
from dd_core.training.viewing import viewed

CPU = torch.device("cpu")
BLOBS = blobs(per_class=16)
SIZE = BLOBS.image_shape[1:]
NETWORK = {"network": "convnet-1-w4"}
DSA = "color_crop_cutout_flip_scale_rotate"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path))


class Reads(TorchDispatchMode):
    """Counts operations whose result Python or a shape waits for, except of integers that the CPU has just drawn."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.drawn = 0, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name.startswith("rand"):  # drawn by the engine on the CPU, wherever it computes
            self.drawn.append(result)
        elif name in self.WAITING and args[0].data_ptr() not in [tensor.data_ptr() for tensor in self.drawn]:
            self.count += 1
        elif name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool
            for each in (args[1] if isinstance(args[1], list) else ())
        ):
            self.count += 1  # how many elements a mask selects
        return result


class Copies(TorchDispatchMode):
    """Counts copies from the CPU's memory to "meta", before which a host would wait for all earlier work of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = self.others = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name == "_to_copy" and args[0].device.type == "cpu" and _is_meta(kwargs.get("device")):
            self.waiting += not kwargs.get("non_blocking", False)
            self.others += kwargs.get("non_blocking", False)
        elif name == "lift_fresh":  # `torch.tensor(values, device=...)`
            self.waiting += args[0].device.type == "meta"
        elif name.startswith("index") and args[0].device.type == "meta":
            indices = args[1] if isinstance(args[1], list) else ()
            self.waiting += any(isinstance(each, Tensor) and each.device.type == "cpu" for each in indices)
        return func(*args, **kwargs)


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


@contextmanager
def reads() -> Iterator[Reads]:
    counter = Reads()
    with counter:
        yield counter


def test_reads_are_counted():
    with reads() as counted:
        value = torch.ones(3)
        int(torch.randint(3, (), generator=torch.Generator()))  # drawn on the CPU
        value.sum().item()
        value[value > 0]
        assert value.sum() > 1
    assert counted.count == 3


def test_copies_are_counted():
    values, place = torch.arange(3.0), torch.device("meta")
    with Copies() as counted:
        there = values.to(place, non_blocking=True)
        assert (counted.waiting, counted.others) == (0, 1)
        values.to(place)
        torch.tensor([1.0], device=place)
        there[torch.tensor([0, 1])]
    assert (counted.waiting, counted.others) == (3, 1)


def lessons_of_kind(kind: str) -> Lessons:
    form = InputForm.of(BLOBS)
    if kind == "whitened":
        form = InputForm(form.mean, form.std, zca.fit(BLOBS))
    if kind in ("normalised", "whitened"):
        return RealLessons(BLOBS, form)
    ds = distill(method("random", recipe={**NETWORK, "epochs": 1}), BLOBS, 4)
    if kind == "a set":
        return lessons_of(ds, Recipe(**NETWORK))
    if kind == "views":
        return viewed(lessons_of(ds, Recipe(**NETWORK)), Views(crop=(0.1, 1.0), flip=True, mix="cutmix"), Streams(1))
    inputs = ds.inputs()
    return RegressionData(inputs, inputs.mean((2, 3)))


LEARNED = [(kind, how) for kind in ("normalised", "whitened", "a set", "features") for how in ("none", DSA)]


@pytest.mark.parametrize(("kind", "augmentation"), [*LEARNED, ("views", "none")])
def test_the_loop_waits_for_no_copy(kind: str, augmentation: str):
    lessons = lessons_of_kind(kind)
    loss = "mse" if kind == "features" else "kl" if kind == "views" else "cross-entropy"
    settings = Settings(learning_rate=0.1, epochs=1, batch_size=4, momentum=0.9, augmentation=augmentation, loss=loss)
    network = networks.build(
        "convnet-1-w4", in_channels=lessons.image_shape[0], classes=lessons.outputs, image_size=SIZE, seed=0
    )
    loop = Loop(network, lessons, settings, streams=Streams(0), device=torch.device("meta"))
    batches = loop.mini_batches()
    loop.step(batches[0])
    with Copies() as counted:
        loop.step(batches[1])
    assert counted.waiting == 0
    assert counted.others > 0


def test_pixels_that_lie_on_the_device_are_those_of_the_source(monkeypatch: pytest.MonkeyPatch):
    form, rows = InputForm.of(BLOBS), torch.tensor([5, 0, 5, 20])
    read, _ = RealLessons(BLOBS, form).batch(rows, epoch=0, index=0)
    monkeypatch.setattr(lessons_module, "_is_resident", lambda source, device: True)
    monkeypatch.setattr(Reader, "images", None)  # nothing is read
    resident = RealLessons(BLOBS, form)
    assert torch.equal(resident.batch(rows, epoch=0, index=0)[0], read)
    assert resident.to(CPU) is resident


def test_few_pixels_lie_on_a_device_that_is_no_cpu(monkeypatch: pytest.MonkeyPatch):
    form, place, rows = InputForm.of(BLOBS), torch.device("meta"), torch.tensor([1, 2])

    def resident(device: torch.device) -> Tensor | None:
        lessons = RealLessons(BLOBS, form).to(device)
        assert lessons._resident is None, "before the first batch"
        lessons.batch(rows, epoch=0, index=0)
        return lessons._resident

    assert resident(CPU) is None
    there = resident(place)
    assert there is not None
    assert (there.device.type, there.dtype, len(there)) == ("meta", torch.uint8, len(BLOBS))
    monkeypatch.setattr(lessons_module, "RESIDENT_BYTES", BLOBS.images.nbytes - 1)
    assert resident(place) is None


@pytest.mark.parametrize("augmentation", ["none", DSA])
@pytest.mark.parametrize("sharpness", [None, {"rho": 0.01, "alpha": 0.3}])
def test_steps_of_experts_wait_for_nothing(augmentation: str, sharpness: dict[str, float] | None):
    def made(batch_size: int) -> int:
        training = {"epochs": 2, "batch_size": batch_size, "augmentation": augmentation, "sharpness": sharpness}
        config = method("mtt", experts=1, last_epoch=1, training=training, recipe=NETWORK)
        with reads() as counted:
            Context.gather(config, BLOBS, Size(ipc=1), seed=0, device=CPU)
        return counted.count

    assert made(4) == made(12) > 0  # once an epoch, for its mean loss


@pytest.mark.parametrize("options", [{"augmentation": "none"}, {"augmentation": DSA}])
def test_steps_of_networks_that_are_scored_wait_for_nothing(options: dict[str, str]):
    def scored(epochs: int) -> int:
        ds = distill(method("random", recipe={**NETWORK, "epochs": epochs, "batch_size": 4, **options}), BLOBS, 4)
        with reads() as counted:
            evaluate(ds, train=BLOBS, test=BLOBS, nets=1, device="cpu")
        return counted.count

    assert scored(2) == scored(6) > 0


@pytest.mark.parametrize("gradient", ["full", "adjoint", "truncated", "tesla"])
def test_inner_steps_wait_for_nothing(gradient: str):
    def outer_step(syn_steps: int) -> int:
        config = method(
            "mtt",
            experts=1,
            last_epoch=1,
            syn_steps=syn_steps,
            gradient=gradient,
            window=2 if gradient == "truncated" else None,
            training={"epochs": 2, "batch_size": 12},
            recipe=NETWORK,
        )
        distiller = config.build(Context.gather(config, BLOBS, Size(ipc=1), seed=0, device=CPU))
        distiller.step(0)
        with reads() as counted:
            distiller.step(1)
        return counted.count

    assert outer_step(2) == outer_step(5) <= 6  # loss, rate and norms of gradients


def test_inner_steps_of_dataset_distillation_wait_for_nothing():
    def outer_step(epochs: int) -> int:
        config = method("dataset-distillation", epochs=epochs, gradient="adjoint", recipe=NETWORK)
        distiller = config.build(Context.gather(config, BLOBS, Size(ipc=1), seed=0, device=CPU))
        with reads() as counted:
            distiller.step(0)
        return counted.count

    assert outer_step(1) == outer_step(3) > 0
