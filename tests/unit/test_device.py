"""Devices by name."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from dd_core.errors import UserError
from dd_core.system import device


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "unknown device 'gpu' (known: auto, cpu, cuda, cuda:0, ...)"),
        ("meta", "device 'meta' is not supported; use cpu, or a GPU that torch calls cuda"),
        ("mps", "device 'mps' is not supported; use cpu, or a GPU that torch calls cuda"),
        ("cuda:99", f"device 'cuda:99' is not there; torch sees {torch.cuda.device_count()} GPUs"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(name: str, message: str):
    with pytest.raises(UserError) as caught:
        device.resolve(name)
    assert str(caught.value) == message


def test_auto_is_a_device_that_computes():
    assert torch.ones(2, device=device.resolve("auto")).sum().item() == 2
    assert device.resolve(None) == device.resolve("auto")


def test_a_figure_says_cores_and_threads():
    facts = device.hardware(threads=3)
    assert facts["threads"] == 3
    assert facts["cores"] >= 1
    assert facts["torch"] == torch.__version__


def test_memory_that_ran_out_is_recognised():
    assert device.is_out_of_memory(MemoryError())
    assert device.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not device.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it():
    held = np.ones(1 << 31, dtype=np.uint8)  # 2 GiB, beside which a process that loads torch is small
    code = "import torch; from dd_core.system import device; print(device.peak_memory_bytes(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert device.peak_memory_bytes(torch.device("cpu")) > len(held)
    assert 1 << 27 < int(done.stdout) < 1 << 31


def test_slots_go_round_the_gpus_and_nothing_happens_without(monkeypatch: pytest.MonkeyPatch):
    pinned: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", pinned.append)
    device.pin(1)
    assert pinned == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for slot in range(3):
        device.pin(slot)
    assert pinned == [0, 1, 0]
