"""How often a step waits for the device: reads of a tensor's value by Python, which a GPU has to finish for first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dd_core import distill, evaluate
from dd_core.distilled import Size
from dd_core.distiller import Context
from dd_core.methods import method
from dd_core.testing import blobs

CPU = torch.device("cpu")
BLOBS = blobs(per_class=16)
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
