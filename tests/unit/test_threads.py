"""How many threads compute. In a child process with several of them: the tests themselves may run with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.system.threads import computing
from dd_core.testing import blobs

# what a run, a pre-training, an expert and k-means compute with
SCRIPT = """
import json, torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info
from dd_core import Size, artefacts, distill, method, selection
from dd_core.system import parallel
from dd_core.images import LabelledImages
from dd_core.system.parallel import Workers
from dd_core.runner import RunOptions, Silent
from dd_core.streams import generator
from dd_core.testing import blobs

class Noting(LabelledImages):
    def take(self, rows):
        seen.append(torch.get_num_threads())
        return super().take(rows)

class Stepping(Silent):
    def advance(self, metrics=None):
        seen.append(torch.get_num_threads())

def threads_of(work):
    seen.clear()
    work()
    return sorted(set(seen))

torch.set_num_threads(3)
seen = []
source = Noting(*(getattr(blobs(), name) for name in ("images", "labels", "classes", "name")))
small = {"network": "convnet-1-w4"}
dm = method("dm", steps=2, batch_real=4, recipe=small)
start = {"start": "fixed-pretrained", "pretraining": {"epochs": 1}}
what = {"size": Size(ipc=1), "seed": 0}
pool, = method("dataset-distillation", **start, recipe=small).needs(source, **what).values()
experts, = method("mtt", experts=1, last_epoch=1, expert_epochs=1, recipe=small).needs(source, **what).values()
resources = artefacts.Resources.of([source], device="cpu")
many = torch.randint(0, 256, (3000, 1, 4, 4), generator=generator(0, "many"), dtype=torch.uint8)
fit = KMeans.fit

def noting_fit(self, points):
    seen.extend(pool["num_threads"] for pool in threadpool_info())
    return fit(self, points)

KMeans.fit = noting_fit
two = Workers(threads=2)

def run(**options):
    distill(dm, source, Size(ipc=1), options=RunOptions(reporter=Stepping(), **options))

print(json.dumps({
    "before": torch.get_num_threads(),
    "asked for two": threads_of(lambda: run(threads=2)),
    "asked for none": threads_of(run),
    "pre-training": threads_of(lambda: artefacts.get(pool, resources=resources, workers=two)),
    "expert": threads_of(lambda: artefacts.get(experts, resources=resources, workers=two)),
    "k-means": threads_of(lambda: selection.k_means(many, 20, seed=3)),
    "after": torch.get_num_threads(),
}))
"""


@pytest.mark.skipif((os.cpu_count() or 2) < 2, reason="two threads need two cores")
def test_runs_compute_with_the_threads_asked_for_and_what_is_shared_with_one(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**environment, "DD_APPS_CACHE": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts == {
        "before": 3,
        "asked for two": [2],
        "asked for none": [3],
        "pre-training": [1],
        "expert": [1],
        "k-means": [1],
        "after": 3,
    }


def test_a_block_computes_with_its_threads_and_puts_the_number_back():
    before = torch.get_num_threads()
    with computing(before + 2):
        assert torch.get_num_threads() == before + 2
        with computing(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
    with pytest.raises(UserError), computing(before + 1):
        raise UserError("on the way")
    assert torch.get_num_threads() == before


def test_more_threads_than_cores_are_refused_before_anything_is_made(tmp_path: Path, call, monkeypatch):
    """A million of them cannot be started, and the process dies."""
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    out, cores = (
        tmp_path / "a.safetensors",
        "this machine has 3 CPU cores, and more threads than cores only take longer",
    )
    words = ["distill", "random", "--data", "digits", "--ipc", 1, "--out", out, "--threads"]
    code, _, err = call(*words, 1_000_000)
    assert (code, err) == (2, f"error: --threads 1000000: {cores}; use at most --threads 3\n")
    with pytest.raises(UserError, match=f"^threads=4: {cores}; use at most threads=3$"):
        distill(method("random"), blobs(), Size(ipc=1), out=out, options=RunOptions(threads=4))
    assert list(tmp_path.iterdir()) == []
    assert call(*words, 3)[0] == 0
