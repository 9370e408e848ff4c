"""Replay memories and the continual benchmark in whatever surrounds them; Avalanche itself stays the caller's."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from ambient_states import ALONE, TOGETHER, inside, surroundings
from torch.utils.data import Dataset

from dd_apps.continual import ContinualScenario, DistilledBuffer, run
from dd_apps.continual.adapter import contents
from dd_core.config import decode

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.benchmarks import nc_benchmark

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8)).astype(np.uint8)
TINY = {"name": "dm", "steps": 2, "recipe": {"network": "convnet-2-w4"}}


class Floats(Dataset):
    """Images in [0, 1] as torchvision makes them: in the dtype that is torch's default when they are asked for."""

    targets: ClassVar = [index % 4 for index in range(24)]

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(PIXELS[index]).to(torch.get_default_dtype()) / 255, self.targets[index]


@pytest.fixture(scope="module")
def experience():
    return nc_benchmark(Floats(), Floats(), 2, task_labels=False, fixed_class_order=[0, 1, 2, 3]).train_stream[0]


def buffer_of(experience) -> DistilledBuffer:
    buffer = DistilledBuffer(4, images_per_class=2, method=TINY)
    buffer.update_from_dataset(experience.dataset)
    return buffer


@pytest.mark.parametrize("state", [*ALONE, *TOGETHER])
def test_a_memory_made_anywhere_holds_the_same_and_hands_out_what_its_surroundings_have(state: str, experience):
    wanted, labels = contents(buffer_of(experience))
    with inside(state):
        before = surroundings()
        buffer = buffer_of(experience)
        (replayed, label, _), (real, *_) = buffer.buffer[0], experience.dataset[0]
        assert surroundings() == before
        found = contents(buffer)
    assert np.array_equal(found[0], wanted)
    assert np.array_equal(found[1], labels)
    assert (replayed.dtype, replayed.device, replayed.shape) == (real.dtype, real.device, real.shape)
    dtype = torch.float64 if state == "float64" else torch.float32
    assert replayed.dtype == dtype
    stored = torch.from_numpy(wanted[labels == label][0]).to(dtype) / 255
    assert torch.equal(replayed, stored.half().to(dtype) if state == "torch function" else stored)


TAUGHT = {
    "name": "sre2l",
    "teacher": {"epochs": 1, "batch_size": 6},
    "recover": {"iterations": 2, "jitter": [0, 1]},
    "recipe": {"network": "convnet-1-w4-batchnorm", "views": {"mix": "none", "flip": True}},
}


@pytest.mark.parametrize("state", TOGETHER)
def test_views_that_a_teacher_labels_anywhere_are_the_same(state: str, experience, tmp_path, monkeypatch):
    def views_of(cache: str) -> dict[str, np.ndarray]:
        monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / cache))
        buffer = DistilledBuffer(4, images_per_class=2, method=TAUGHT, labels="bank", bank_epochs=3)
        buffer.update_from_dataset(experience.dataset)
        return vars(buffer.buffer_groups[1].views)

    wanted = views_of("plain")
    with inside(state):
        before = surroundings()
        found = views_of("inside")
        assert surroundings() == before
    assert all(np.array_equal(found[name], array) for name, array in wanted.items())


def test_the_benchmark_gives_the_same_tables_in_any_surroundings():
    scenario = decode(
        ContinualScenario,
        {
            "data": "digits",
            "experiences": 2,
            "orders": 1,
            "images_per_class": 1,
            "network": "convnet-1-w4",
            "method": {"name": "dm", "steps": 2, "recipe": {"network": "convnet-1-w4"}},
            "rows": ["distilled"],
            "retraining": {"epochs": 2},
            "replay": {"epochs": 1, "batch_size": 256, "batch_size_mem": 16},
        },
    )
    plain = run(scenario)
    with inside("float64"), inside("strict"), inside("autocast"), torch.inference_mode():
        before = surroundings()
        results = run(scenario)
        assert surroundings() == before
    assert results.matrices == plain.matrices
    assert results.memories.keys() == plain.memories.keys() == {"dm"}
    assert np.array_equal(results.memories["dm"].images, plain.memories["dm"].images)
