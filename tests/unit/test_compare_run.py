"""The task `compare`, run: bytes that are counted, cells that are kept, and figures that no worker changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dd_apps.compare import cells, making, running
from dd_apps.compare.cells import CellRecord, as_stored, bytes_of, in_place_of
from dd_apps.compare.config import CompareScenario
from dd_apps.compare.task import run_task
from dd_apps.report.sections import Picture
from dd_apps.task import Outcome
from dd_core import store
from dd_core.config import decode
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import Diverged
from dd_core.evaluation import evaluate
from dd_core.methods import method
from dd_core.runner import RunOptions, distill
from dd_core.system.reporter import Messages
from dd_core.testing import blobs

NETWORK = "convnet-1-w4"
RECIPE = {"network": NETWORK, "epochs": 2}
DM = {"steps": 1, "batch_real": 8, "recipe": RECIPE}
STEPS = {"name": "dataset-distillation", "steps": 0, "epochs": 3, "batch_real": 32, "recipe": {"network": NETWORK}}
OPTIONS = RunOptions(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def wanted(**changes: Any) -> CompareScenario:
    values = {"data": "digits", "ipcs": [1], "networks": [NETWORK], "seeds": 2, "methods": {"dm": DM}, **changes}
    return decode(CompareScenario, values)


def tables(outcome: Outcome) -> dict[str, Any]:
    """All but the seconds."""
    return {table.title: (table.plain(), table.notes) for table in outcome.tables if table.title != "costs"}


def cells_of(outcome: Outcome) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    return {
        (each["cell"]["method"], each["cell"]["baseline"], each["cell"]["seed"]): each
        for each in outcome.details["cells"]
    }


# --- bytes -------------------------------------------------------------------------------------------------------


def soft(ds: DistilledSet) -> DistilledSet:
    """The set with soft labels as logits."""
    targets = np.zeros((len(ds), len(ds.classes)), np.float32)
    manifest = ds.manifest.model_copy(update={"targets": "logits"})
    return DistilledSet(ds.images, ds.labels, manifest, targets=targets)


def test_soft_labels_and_learned_rates_are_bytes():
    plain = distill(method("dm", **DM), blobs(), Size(ipc=2))
    assert plain.images.dtype == np.float32
    assert bytes_of(as_stored(plain, "as-made")) == 6 * 64 * 4
    assert bytes_of(as_stored(plain, "uint8")) == 6 * 64
    assert bytes_of(as_stored(soft(plain), "uint8")) == 6 * 64 + 6 * 3 * 4
    rates = distill(method(**STEPS), blobs(), Size(ipc=2))
    assert len(rates.manifest.recipe.steps) == 3
    assert bytes_of(as_stored(rates, "uint8")) == 6 * 64 + 3 * 4


def test_real_images_are_as_many_as_the_bytes_have_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = soft(distill(method("dm", **DM), blobs(), Size(ipc=2)))
    sets = making.Sets(wanted(), tmp_path, blobs(), OPTIONS, running.Pool())
    cell = cells.Cell(method="dm", baseline="average", ipc=2, network=NETWORK, seed=0)
    counts: dict[int, tuple[int, ...]] = {}
    for size in (384, 384 + 6 * 12, 511, 512, 64 * 40):
        monkeypatch.setattr(making, "bytes_of", lambda ds, size=size: size)
        monkeypatch.setattr(making.store, "read_set", lambda path: made)
        sets._bytes.clear()
        real = sets.real(cell)
        counts[size] = real.counts
        assert real.short == (size == 64 * 40)
        assert real.file.name == f"average-images-{size // 64}-seed-0.safetensors"
    # 64 bytes an image; blobs have 12 of a class
    assert counts == {384: (2, 2, 2), 456: (3, 2, 2), 511: (3, 2, 2), 512: (3, 3, 2), 2560: (12, 12, 12)}


def test_real_images_take_the_place_of_a_sets_and_nothing_else_changes():
    ours = soft(distill(method(**STEPS), blobs(), Size(ipc=2)))
    theirs = distill(method("average", recipe=RECIPE), blobs(), Size(images=7))
    placed = in_place_of(ours, theirs)
    assert np.array_equal(placed.images, theirs.quantised().images)
    assert placed.labels is not None
    assert placed.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert (placed.targets, placed.manifest.targets, placed.manifest.recipe.steps) == (None, "none", ())
    assert (placed.manifest.pixels.mean, placed.manifest.pixels.std) == (
        ours.manifest.pixels.mean,
        ours.manifest.pixels.std,
    )
    kept = ours.manifest.recipe.model_dump(exclude={"steps"})
    assert placed.manifest.recipe.model_dump(exclude={"steps"}) == kept


def test_each_row_is_scored_as_evaluate_scores_it(tmp_path: Path):
    scenario = wanted(ipcs=[2], baselines=["average"], seeds=1, seed=3, nets=2)
    found = cells_of(run_task(scenario, tmp_path, OPTIONS))
    data = scenario.real_images
    train, test = data.load("train"), data.load("test")
    ds = store.read_set(tmp_path / "sets" / "dm-ipc-2-seed-3.safetensors").quantised()
    assert ds.manifest.provenance is not None
    assert ds.manifest.provenance.seed == 3
    options: dict[str, Any] = {"train": train, "test": test, "network": NETWORK, "nets": 2, "seed": 3, "device": "cpu"}
    alone = evaluate(ds, **options)
    scored = found["dm", "", 3]["evaluation"]
    assert tuple(scored["accuracy"]["per_network"]) == alone.accuracy.per_network
    assert tuple(scored["random_real"]["per_network"]) == alone.random_real.per_network
    average = distill(method("average"), train, Size(images=20), seed=3)
    real = evaluate(in_place_of(ds, average), **options)
    assert tuple(found["dm", "average", 3]["evaluation"]["accuracy"]["per_network"]) == real.accuracy.per_network
    assert (found["dm", "average", 3]["images"], found["dm", "average", 3]["bytes"]) == (20, 1280)


# --- keeping -----------------------------------------------------------------------------------------------------


def test_a_stopped_comparison_goes_on_cell_by_cell_to_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scenario = wanted(baselines=["random", "average"])
    whole = run_task(scenario, tmp_path / "whole", OPTIONS)
    done: list[cells.Cell] = []
    score = cells.scored

    def counted(job: cells.ScoreJob) -> CellRecord:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(job.cell)
        return score(job)

    monkeypatch.setattr(running, "scored", counted)
    with pytest.raises(KeyboardInterrupt):
        run_task(scenario, tmp_path / "stopped", OPTIONS)
    assert len(done) == 4
    said: list[str] = []
    monkeypatch.setattr(running, "scored", lambda job: done.append(job.cell) or score(job))
    options = RunOptions(device="cpu", threads=1, reporter=Messages(said.append))
    again = run_task(scenario, tmp_path / "stopped", options)
    assert said[0] == (
        "2 sets to distil (1 method x 1 size x 2 seeds), 2 kept from an earlier run; 6 cells to score (1 method x 3 "
        "rows x 1 size x 1 network x 2 seeds), 4 kept"
    )
    assert len(done) == 6
    assert len({*done}) == 6, "no cell is scored twice"
    assert tables(again) == tables(whole)
    monkeypatch.setattr(running, "scored", lambda job: pytest.fail("a finished comparison trains nothing"))
    assert tables(run_task(scenario, tmp_path / "stopped", OPTIONS)) == tables(whole)


def test_a_set_that_diverges_is_left_out_and_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = making.made

    def diverging(job: cells.MakeJob, *, options: RunOptions) -> str | None:
        if job.config.name == "dm" and job.seed == 0:
            tries.append(job.seed)
            return "loss is nan"
        return made(job, options=options)

    tries: list[int] = []
    monkeypatch.setattr(making, "made", diverging)
    scenario = wanted(baselines=["average"])
    outcome = run_task(scenario, tmp_path, OPTIONS)
    table = outcome.tables[0]
    assert "left out: dm, 1 a class, seed 0: the set diverged: loss is nan" in table.notes
    assert table.rows[0]["accuracy"]["std"] is None, "one seed is left"
    assert tables(run_task(scenario, tmp_path, OPTIONS)) == tables(outcome)
    assert tries == [0]


def test_networks_that_diverge_leave_their_cell_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def diverging(ds: DistilledSet, *, seed: int, **options: Any) -> Any:
        if seed == 1:
            raise Diverged("loss is nan")
        return evaluate(ds, seed=seed, **options)

    monkeypatch.setattr(cells, "evaluate", diverging)
    outcome = run_task(wanted(baselines=["average"]), tmp_path, OPTIONS)
    assert "left out: average, 1 a class, seed 1: loss is nan" in outcome.tables[0].notes
    assert cells_of(outcome)["dm", "", 1]["reason"] == "loss is nan"


# --- one set, and reports ----------------------------------------------------------------------------------------


def test_without_anew_one_set_is_scored_under_every_seed_and_tested_as_one_draw(tmp_path: Path):
    outcome = run_task(wanted(anew=False, baselines=["random"]), tmp_path, OPTIONS)
    assert [file.name for file in (tmp_path / "sets").glob("*.safetensors")] == ["dm-ipc-1-seed-0.safetensors"]
    found = cells_of(outcome)
    assert found["dm", "", 0]["content"] == found["dm", "", 1]["content"]
    assert found["dm", "random", 0]["content"] != found["dm", "random", 1]["content"]
    assert {(each["against"], each["new_draw"]) for each in outcome.details["differences"]} == {
        ("random-real twin of dm", True),
        ("random", True),
    }
    assert any("Student's t is that for one more draw" in note for note in outcome.tables[1].notes)


def test_a_report_says_protocol_seeds_data_machine_and_bytes(tmp_path: Path):
    outcome = run_task(wanted(ipcs=[1, 2], baselines=["herding"], methods={"steps": STEPS}), tmp_path, OPTIONS)
    table, differences, costs = outcome.tables
    assert [(row["a class"], row["row"], row["images"], row["bytes"]) for row in table.rows] == [
        (1, "steps", 10, 652),
        (1, "random-real twin of steps", 10, 640),
        (1, "herding", 10, 640),
        (2, "steps", 20, 1292),
        (2, "random-real twin of steps", 20, 1280),
        (2, "herding", 20, 1280),
    ]
    notes = "\n".join(table.notes)
    for words in ("protocol recipe, 2 seeds (from 0)", "last epoch", "digits, 359 test images", "computed on cpu"):
        assert words in notes
    assert "real images are trained on by the recipe without its learned steps" in notes
    assert "the same images under every seed, so that networks alone differ: herding (1 a class)" in notes
    assert len(differences.rows) == len(outcome.details["differences"]) == 4
    assert {*costs.units.values()} == {"seconds"}
    assert [each.name for each in outcome.sections if isinstance(each, Picture)] == [
        "accuracy-bytes-0",
        "accuracy-seconds-0",
    ]
    assert [*outcome.sets] == ["steps-ipc-1", "steps-ipc-2"]
    assert all(ds.images.dtype == np.uint8 for ds in outcome.sets.values())


def test_a_protocol_without_networks_has_one_table(tmp_path: Path):
    outcome = run_task(wanted(networks=[], protocol="knn", baselines=["average"], seeds=1), tmp_path, OPTIONS)
    assert outcome.tables[0].title == "accuracy on k-nn"
    assert "dm, 1 image a class: no verdict, because one seed" in outcome.tables[0].notes[0]
