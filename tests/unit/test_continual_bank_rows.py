"""Rows with labels = "bank": SRe2L's images of each experience, replayed by the views that its teacher labelled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_continual_resume import killed_after

from dd_apps.continual import ContinualScenario, run
from dd_apps.continual.benchmark import build
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.checks import check_scenario
from dd_apps.continual.job import Job
from dd_apps.continual.learner import run_job
from dd_apps.continual.strategies import Where, memory_for
from dd_core import artefacts, datasets
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.system.parallel import Workers
from dd_core.training.bank import BankSpec
from dd_core.training.teachers import TeacherSpec

NETWORK = "convnet-1-w8-batchnorm"
METHOD = {
    "name": "sre2l",
    "teacher": {"epochs": 2, "batch_size": 64, "views": {"crop": "none", "padding": 0}},
    "recover": {"iterations": 2, "jitter": [0, 1]},
    "recipe": {"network": NETWORK, "loss": "kl-t2", "temperature": 4.0, "views": {"mix": "none"}},
}
BANK = {"labels": "bank", "bank_epochs": 2}
ITEM = 64 + 2 * (8 + 1 + 2 * 5)  # bytes of an image with two views, each by a teacher of five classes
ROWS = {"bank": BANK, "bank-images": BANK | {"budget": "images"}, "hard": {}}
TINY = {
    "data": "digits",
    "experiences": 2,
    "orders": 1,
    "images_per_class": 4,
    "network": NETWORK,
    "protocols": ["replay"],
    "method": METHOD,
    "row": ROWS,
    "rows": list(ROWS),
    "replay": {"epochs": 1, "batch_size": 128, "batch_size_mem": 32},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def scenario(**changes) -> ContinualScenario:
    return decode(ContinualScenario, TINY | changes)


def with_row(**row) -> ContinualScenario:
    return scenario(row={"a": BANK | row}, rows=["a"])


def specs(kind) -> list:
    folder = artefacts.cache_folder() / "artefacts" / kind.kind
    return [artefacts.opened(path.parent, kind).spec for path in sorted(folder.rglob("complete.json"))]


def test_a_run_has_a_teacher_and_a_bank_of_each_experience_and_counts_their_views(tmp_path: Path):
    results = run(scenario(images=200), folder=tmp_path / "run", workers=Workers(count=1))
    rows = {row["row"]: row for row in results.ledger}
    assert [(row["images"], row["pixels"], row["labels"]) for row in rows.values()] == [
        (20, 20 * 64, 20 * (ITEM - 64)),  # 256 bytes a class
        (40, 40 * 64, 40 * (ITEM - 64)),
        (40, 40 * 64, 0),
    ]
    teachers, banks = specs(TeacherSpec), specs(BankSpec)
    assert len(teachers) == 2, "of an experience each, whatever the row"
    assert sorted((spec.images, spec.classes, spec.epochs) for spec in banks) == [(10, 5, 2)] * 2 + [(20, 5, 2)] * 2
    assert {spec.teacher.digest() for spec in banks} == {spec.digest() for spec in teachers}
    assert any(
        note.startswith("bank: memory distilled (sre2l), labels bank, bank_epochs 2; replay")
        for note in results.notes["replay"]
    )
    matrices = results.matrices["replay"]
    assert matrices["bank-images"] != matrices["hard"]


def test_a_stopped_job_goes_on_to_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = scenario(networks=2, images=200, replay=TINY["replay"] | {"batch_size": 16})
    whole = run_job(Job(few, "bank", 0, tmp_path / "whole", "cpu"))
    stopped = Job(few, "bank", 0, tmp_path / "stopped", "cpu")
    killed_after(0, monkeypatch, stopped)
    states = sorted(path.name.split(".")[1] for path in (tmp_path / "stopped").rglob("*.state"))
    assert states == ["replay-0", "replay-1"]
    again = run_job(stopped)
    for ours, theirs in zip(again.trials["replay"], whole.trials["replay"], strict=True):
        assert (ours.matrix, ours.ledger.nbytes) == (theirs.matrix, theirs.ledger.nbytes)


@pytest.mark.parametrize("what", ["bank_of", "artefacts.get"])
def test_a_teacher_or_a_bank_that_sees_another_experience_fails_the_run(what: str, monkeypatch: pytest.MonkeyPatch):
    """While they are made, the images of the experience at hand may be read alone."""
    from dd_apps.continual.memory import banks

    adopt = DistilledBuffer.post_adapt
    module, _, name = what.rpartition(".")
    place = getattr(banks, module) if module else banks
    own, streams = getattr(place, name), []

    def noted(self, agent, exp):
        streams.append(exp.logging().benchmark.train_stream)
        adopt(self, agent, exp)

    def leaking(spec, *arguments, **ways):
        streams[-1][1].dataset[0]
        return own(spec, *arguments, **ways)

    monkeypatch.setattr(DistilledBuffer, "post_adapt", noted)
    monkeypatch.setattr(place, name, leaking)
    with pytest.raises(UserError, match=r"^leak: 1 training images .* by the distiller \(experience 1\)"):
        run_job(Job(scenario(), "bank", 0, None, "cpu"))


def test_rows_with_other_banks_have_other_folders_where_bytes_decide_how_many_images_are_distilled():
    rows = ROWS | {
        "more": BANK | {"bank_epochs": 1},
        "more-images": BANK | {"bank_epochs": 1, "budget": "images"},
        "network": {"labels": "network"},
    }
    several = scenario(row=rows, rows=list(rows))
    folders = {row: Job(several, row, 0, Path("work"), "cpu").sets_folder for row in rows}
    assert folders["more-images"] == folders["bank-images"] == folders["hard"]
    assert len(set(folders.values())) == 4


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"bank_epochs": None}, "row.a: bank_epochs: labels = 'bank' needs the number of views that are kept of an"),
        ({"labels": "hard"}, "row.a: bank_epochs: labels = 'hard' keeps no views; labels = 'bank' does"),
        ({"bank_epochs": 0}, "row.a.bank_epochs: "),
        ({"memory": "hybrid"}, "row.a: labels: a bank is of distilled images, and a hybrid memory has real ones too"),
        ({"memory": "reservoir"}, "row.a: labels: the memory 'reservoir' distils nothing"),
        ({"strategy": "er-ace"}, "row.a: labels: soft labels are replayed by the strategy 'replay', not by 'er-ace'"),
        ({"adaptive": True, "shrinking": "distil"}, "row.a: shrinking: a bank has no teacher for images that"),
        ({"method": {"name": "dm"}}, "row.a.method: dm has no teacher to label views, such as sre2l and rded have"),
        ({"method": {"name": "sre2l"}}, "row.a.method.recipe.views.mix: a memory that shrinks could drop one of two"),
        ({"training": {"augmentation": "crop"}}, "row.a: augmentation = 'crop' would change the views that the bank's"),
        ({"training": {"tuning_epochs": 2}}, "row.a: labels = 'bank' is not tuned on the memory"),
    ],
)
def test_rows_that_cannot_have_a_bank_are_refused(row, line: str):
    with pytest.raises(UserError) as caught:
        with_row(**row)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_row_with_a_bank_stands_in_the_table_replay_alone():
    both = decode(ContinualScenario, {name: value for name, value in TINY.items() if name != "protocols"})
    assert both.tables_of("bank") == ("replay",)
    assert both.tables_of("hard") == ("retraining", "replay")


def test_bytes_that_hold_no_image_with_its_views_are_refused_before_the_first_job():
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    line = (
        "row.a: 256 bytes a class hold no image of 64 bytes with 11 views by a teacher of 5 classes, 273 bytes in all; "
        'give the row budget = "images", fewer bank_epochs, or a larger memory'
    )
    with pytest.raises(UserError) as caught:
        check_scenario(with_row(bank_epochs=11), train, test)
    assert str(caught.value) == line
    assert check_scenario(with_row(bank_epochs=10), train, test) == ()
    assert check_scenario(with_row(bank_epochs=11, budget="images"), train, test) == ()
    assert 64 + 11 * 19 == 273
    first = (train.labels == 0).nonzero().flatten()
    few = train.subset(torch.cat([first[:3], (train.labels > 0).nonzero().flatten()]))
    assert check_scenario(with_row(bank_epochs=10), few, test) == (), "one image with ten views fits into 256 bytes"
    (note,) = check_scenario(with_row(bank_epochs=10, budget="images"), few, test)
    assert note.startswith("1 class has fewer training images than images_per_class (4)")
    uneven = scenario(row={"a": BANK | {"bank_epochs": 12}}, rows=["a"], experiences=3)  # 4, 3 and 3 classes
    with pytest.raises(UserError, match="12 views by a teacher of 4 classes, 268 bytes"):
        check_scenario(uneven, train, test)


def test_an_adaptive_memory_keeps_the_views_of_the_images_that_it_keeps():
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    shared = with_row(adaptive=True)
    where = Where(train.name, 10, seed=0, folder=Path("none"), image_shape=(1, 8, 8))
    memory = memory_for(shared, "a", "replay", where)
    assert isinstance(memory, DistilledBuffer)
    memory.folder = None
    counts = []
    for experience in build(train, test, experiences=2, seed=0, order=0).experiences:
        memory.post_adapt(None, experience)
        counts.append([memory._held[0].views.flips.shape[1], memory.nbytes])
    assert counts == [[25, 25 * ITEM], [10, 20 * ITEM]], "2,560 bytes: 5 images a class of 5, then 2 a class of 10"
    assert torch.equal(
        torch.from_numpy(memory.buffer_groups[int(memory.sets[0].classes[1])].views.logits),
        torch.from_numpy(memory._held[0].views.logits[:, 2:4]),
    )
