"""The task `study`: grids over the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dd_apps import scenario, study
from dd_apps.report.plots import Curve, curves
from dd_apps.report.sections import Picture
from dd_apps.study import StudyScenario
from dd_core.errors import UserError
from dd_core.runner import RunOptions
from dd_core.testing import blobs

METHOD = {"name": "average", "recipe": {"network": "convnet-1-w8", "epochs": 20}}


def wanted(**changes: Any) -> StudyScenario:
    return StudyScenario(**{"data": "digits", "method": METHOD, "nets": 2, **changes})


def test_wrong_labels_are_as_many_as_asked_and_wrong():
    source = blobs(classes=4, per_class=25)
    noisy = source.with_label_noise(0.3, seed=1)
    assert source.labels is not None
    assert noisy.labels is not None
    changed = noisy.labels != source.labels
    assert int(changed.sum()) == 30
    assert {*((noisy.labels - source.labels)[changed] % 4).tolist()} == {1, 2, 3}
    assert torch.equal(noisy.labels, source.with_label_noise(0.3, seed=1).labels)
    assert not torch.equal(noisy.labels, source.with_label_noise(0.3, seed=2).labels)
    assert noisy.fingerprint() != source.fingerprint()
    assert torch.equal(source.with_label_noise(0.0, seed=1).labels, source.labels)


def test_each_place_of_the_grid_has_its_classes_its_wrong_labels_and_clean_test_images(tmp_path: Path):
    cells = study.run(
        wanted(classes=(2, 5), label_noise=(0.0, 0.6)), folder=tmp_path, options=RunOptions(device="cpu", threads=1)
    )
    assert [(cell.classes, cell.label_noise) for cell in cells] == [(2, 0.0), (2, 0.6), (5, 0.0), (5, 0.6)]
    few, noisy, more, _ = cells
    assert len(few.ds) == 2
    assert {*few.ds.classes} < {*more.ds.classes}
    assert few.evaluation.fingerprints["test"] == noisy.evaluation.fingerprints["test"]
    assert few.evaluation.fingerprints["train"] != noisy.evaluation.fingerprints["train"]
    assert noisy.evaluation.accuracy.mean < 0.5 < few.evaluation.accuracy.mean, "most labels are wrong"
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == sorted(
        f"{cell.name}.safetensors" for cell in cells
    )


def test_a_run_has_a_table_a_plot_and_the_sets(tmp_path: Path):
    (tmp_path / "mine.toml").write_text(
        '# mine\ntask = "study"\ndata = "digits"\nclasses = [2, 3]\nnets = 1\n[method]\nname = "average"\n'
        '[method.recipe]\nnetwork = "convnet-1-w8"\nepochs = 5\n'
    )
    loaded = scenario.load(str(tmp_path / "mine.toml"))
    outcome = scenario.run(loaded, folder=tmp_path / "work", options=RunOptions(device="cpu", threads=1))
    (table,) = outcome.tables
    assert [row["classes"] for row in table.rows] == [2, 3]
    assert {"wrong labels", "distilled", "random real"} < {*table.rows[0]}
    assert [section.name for section in outcome.sections if isinstance(section, Picture)] == ["accuracy"]
    assert [*outcome.sets] == ["2-classes-noise-0", "3-classes-noise-0"]


def test_a_plot_is_the_same_bytes_each_time_and_another_for_other_values():
    def plot(mean: float, std: float | None = 0.0) -> Picture:
        groups = {"a": [Curve([0, 1], [mean, 2], [std, 0]), Curve([0, 1], [1, 1], [0, 0], dashed=True)]}
        return curves("plot", groups, title="plot", x="x", y="y")

    assert plot(1.0) == plot(1.0) != plot(1.5)
    assert plot(1.0) != plot(1.0, 0.5), "deviations are drawn"
    assert plot(1.0, None) != plot(1.0, 0.0), "where none was measured, none is drawn"
    picture = plot(1.0)
    assert picture.png.startswith(b"\x89PNG")
    assert picture.svg is not None
    assert b"<svg" in picture.svg


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_noise": (1.0,)}, "fractions from 0 to below 1"),
        ({"classes": (1,)}, "at least 2 classes"),
        ({"classes": (3, 3)}, "each number of classes once"),
        ({"label_noise": (0.1, 0.1)}, "each fraction once"),
        ({"protocol": "plain-30"}, "unknown protocol 'plain-30'"),
        ({"network": "convent"}, "unknown network 'convent'"),
        ({"method": {"name": "avrage"}}, "unknown method 'avrage'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        wanted(**changes)


def test_more_classes_than_there_are_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="classes: digits has 10, fewer than 11"):
        study.run(wanted(classes=(11,)), folder=tmp_path, options=RunOptions(device="cpu", threads=1))
