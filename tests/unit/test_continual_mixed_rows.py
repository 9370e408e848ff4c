"""Rows whose memories mix real and distilled images, keep soft labels, or store images small: what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_scenarios import CONTINUAL

from dd_apps.continual import ContinualScenario, HybridBuffer, SoftLabelReplay
from dd_apps.continual.job import Job, Outcome
from dd_apps.continual.learner import run_job
from dd_apps.continual.strategies import Where, memory_for, strategy_for
from dd_core import datasets, networks
from dd_core.config import decode
from dd_core.errors import UserError

METHOD = CONTINUAL["method"]
ROWS = {
    "hybrid": {"memory": "hybrid"},
    "hybrid-most": {"memory": "hybrid", "real_share": 0.67, "features": "network"},
    "taught": {"labels": "network"},
    "taught-images": {"labels": "network", "budget": "images"},
    "tiled": {"method": {**METHOD, "formation": 2}},
}
TINY = {
    **CONTINUAL,
    "row": ROWS,
    "rows": list(ROWS),
    "retraining": {"epochs": 1},
    "replay": {"epochs": 1, "batch_size": 64, "batch_size_mem": 16},
}


def scenario(**changes: object) -> ContinualScenario:
    return decode(ContinualScenario, TINY | changes)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("rows")
    return {row: run_job(Job(scenario(), row, 0, folder, "cpu")) for row in ROWS}


def test_rows_stand_where_their_network_has_learned():
    tables = {row: scenario().tables_of(row) for row in ROWS}
    both = ("retraining", "replay")
    assert tables == {
        "hybrid": both,
        "hybrid-most": ("replay",),
        "taught": ("replay",),
        "taught-images": ("replay",),
        "tiled": both,
    }


def test_bytes_are_those_of_three_images_a_class(outcomes: dict[str, Outcome]):
    """A soft label takes 2 bytes a class that is known at the end of its image's experience: 5 classes, then 10."""
    found = {
        row: (trials[0].ledger.images, trials[0].ledger.pixels, trials[0].ledger.labels)
        for row, outcome in outcomes.items()
        for trials in outcome.trials.values()
    }
    assert found == {
        "hybrid": (30, 1920, 0),
        "hybrid-most": (30, 1920, 0),
        "taught": (20, 1280, 10 * 2 * 5 + 10 * 2 * 10),  # 192 bytes hold two images of 64 bytes with their labels
        "taught-images": (30, 1920, 15 * 2 * 5 + 15 * 2 * 10),
        "tiled": (30, 1920, 0),
    }


def test_a_memory_is_kept_as_it_is_stored(outcomes: dict[str, Outcome]):
    real = {image.numpy().tobytes() for image in datasets.load("digits", split="train").images}
    for row, share in {"hybrid": 1, "hybrid-most": 2, "taught": 0, "tiled": 0}.items():
        ds = outcomes[row].memory
        assert ds is not None
        of_class = [sum(image.tobytes() in real for image in ds.images[ds.labels == label]) for label in range(10)]
        assert of_class == [share] * 10, row
    tiled = outcomes["tiled"].memory
    assert tiled is not None
    assert (len(tiled), tiled.manifest.formation, tiled.decoded_count) == (30, 2, 120)


def test_options_reach_the_memory_and_its_plugin(tmp_path: Path):
    test = datasets.load("digits", split="test")
    where = Where("digits", classes=10, seed=0, folder=tmp_path, image_shape=(1, 8, 8))
    memory = memory_for(scenario(), "hybrid-most", "replay", where)
    assert isinstance(memory, HybridBuffer)
    assert (memory.features, float(memory.real_share), memory.fill) == ("network", 0.67, 16)
    memory = memory_for(scenario(), "taught", "replay", where)
    network = networks.for_source("convnet-1-w4", test, seed=0)
    made = strategy_for(
        scenario(), "taught", "replay", network=network, memory=memory, device=torch.device("cpu"), where=where, seed=4
    )
    (replay,) = [plugin for plugin in made.plugins if isinstance(plugin, SoftLabelReplay)]
    assert (replay.storage_policy, replay.batch_size_mem, replay.seed) == (memory, 16, 4)
    assert memory_for(scenario(), "taught-images", "replay", where).bytes_per_class is None


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"memory": "reservoir", "labels": "network"}, "row.a: labels: the memory 'reservoir' distils nothing"),
        ({"real_share": 0.3}, "row.a: real_share: the memory 'distilled' is not hybrid"),
        ({"memory": "hybrid", "real_share": 1}, "row.a.real_share: input should be less than 1"),
        (
            {"labels": "network", "strategy": "er-ace"},
            "row.a: labels: soft labels are replayed by the strategy 'replay'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(row: dict[str, object], line: str):
    with pytest.raises(UserError) as caught:
        scenario(row={"a": row}, rows=["a"])
    assert line in str(caught.value)
