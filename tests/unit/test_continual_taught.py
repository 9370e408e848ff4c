"""SRe2L's experiment: per-step and joint teachers label what fresh networks learn at each step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dd_apps.continual import ContinualScenario, taught
from dd_apps.continual.benchmark import build
from dd_apps.continual.job import Job
from dd_apps.continual.learner import run_job
from dd_apps.continual.taught import Labelled, StepTeachers, Taught
from dd_core import datasets, networks
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.images import InputForm, normalise

NETWORK = "convnet-1-w4-batchnorm"
SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "warmup": 0}
ROWS = {
    "sre2l": {"strategy": "taught"},
    "random": {"method": {"name": "random"}, "strategy": "taught"},
    "bound": {"strategy": {"name": "taught", "teacher": "joint", "images": "joint", "mode": "batch-stats"}},
}
TINY = {
    "data": "digits",
    "experiences": 2,
    "orders": 1,
    "images_per_class": 2,
    "network": NETWORK,
    "protocols": ["taught"],
    "method": {
        "name": "sre2l",
        "teacher": {"epochs": 1, "batch_size": 64, "views": {"crop": "none", "padding": 0}},
        "recover": {"iterations": 2, "jitter": [0, 1]},
        "recipe": {"network": NETWORK},
    },
    "row": {name: row | {"training": SHORT} for name, row in ROWS.items()},
    "rows": list(ROWS),
}
STUDENT, FIRST, SECOND = (InputForm((mean,), (std,)) for mean, std in ((0.5, 0.5), (0.2, 0.1), (0.7, 0.3)))


def decoded(**changes) -> ContinualScenario:
    return decode(ContinualScenario, TINY | changes)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))


def parts() -> list[Labelled]:
    """Three images of classes 1 and 3, two of classes 0 and 4, each part with a teacher of its own."""
    pixels = torch.randint(0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ways = {"in_channels": 1, "classes": 2, "image_size": (8, 8)}
    teachers = [networks.build(NETWORK, seed=seed, **ways).eval() for seed in (1, 2)]
    return [
        Labelled(pixels[:3], torch.tensor([1, 3, 3]), teachers[0], FIRST, (1, 3)),
        Labelled(pixels[3:], torch.tensor([4, 0]), teachers[1], SECOND, (0, 4)),
    ]


def test_each_view_is_labelled_by_the_teacher_of_its_own_step_in_that_teachers_normalisation():
    first, second = parts()
    rows = torch.tensor([4, 0, 2, 3])
    views = normalise(torch.cat([first.images, second.images])[rows], STUDENT.mean, STUDENT.std)
    logits = StepTeachers([first, second], form=STUDENT, classes=5, mode="eval").logits(views, rows, epoch=0)
    expected = torch.full((4, 5), -torch.inf)
    with torch.no_grad():
        ours = first.teacher(normalise(first.images[[0, 2]], FIRST.mean, FIRST.std))
        theirs = second.teacher(normalise(second.images[[1, 0]], SECOND.mean, SECOND.std))
    expected[1, [1, 3]], expected[2, [1, 3]] = ours[0], ours[1]
    expected[0, [0, 4]], expected[3, [0, 4]] = theirs[0], theirs[1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    soft = (logits / 20).softmax(1)
    assert soft[0, [1, 2, 3]].tolist() == [0, 0, 0], "what a teacher does not know gets no probability"
    assert soft.sum(1).tolist() == pytest.approx([1] * 4)


def test_by_mini_batch_a_teacher_normalises_by_its_own_images_and_a_lone_one_by_what_it_learned():
    first, second = parts()
    rows = torch.tensor([0, 1, 3])
    pixels = torch.cat([first.images, second.images])[rows]
    views = normalise(pixels, STUDENT.mean, STUDENT.std)
    made = StepTeachers([first, second], form=STUDENT, classes=5, mode="batch-stats").logits(views, rows, epoch=0)
    with torch.no_grad():
        alone = second.teacher(normalise(pixels[2:], SECOND.mean, SECOND.std))
        running = first.teacher(normalise(pixels[:2], FIRST.mean, FIRST.std))
        batch = first.teacher.train()(normalise(pixels[:2], FIRST.mean, FIRST.std))
    torch.testing.assert_close(made[2, [0, 4]], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[:2][:, [1, 3]], batch, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch, running, atol=1e-3)


def test_students_learn_the_images_so_far_and_the_twin_has_the_same_teachers(tmp_path, monkeypatch):
    seen, own = [], taught.fit

    def fit(lessons, network, recipe, *, teacher, **ways):
        weights = torch.cat([weight.flatten().clone() for weight in network.state_dict().values()])
        seen.append((lessons, recipe, teacher, weights))
        return own(lessons, network, recipe, teacher=teacher, **ways)

    monkeypatch.setattr(taught, "fit", fit)
    outcomes = {row: run_job(Job(decoded(), row, 0, tmp_path / "work", "cpu")) for row in ROWS}
    stream = build(
        *(datasets.load("digits", split=split) for split in ("train", "test")), experiences=2, seed=0, order=0
    )
    assert [len(lessons) for lessons, *_ in seen] == [10, 20] * 3
    for lessons, recipe, *_ in seen:
        assert (recipe.loss, recipe.temperature, recipe.epochs, recipe.batch_size) == ("kl-t2", 20.0, 2, 16)
        assert lessons.outputs == 10
    assert [recipe.teacher for _, recipe, *_ in seen] == ["eval"] * 4 + ["batch-stats"] * 2
    for steps in (seen[0:2], seen[2:4]):
        assert torch.equal(steps[0][3], steps[1][3]), "each student starts afresh"
    ours, twins = seen[1][2], seen[3][2]
    for mine, other in zip(ours.parts, twins.parts, strict=True):
        assert mine.classes == other.classes
        assert all(map(torch.equal, mine.teacher.state_dict().values(), other.teacher.state_dict().values()))
        assert not torch.equal(mine.images, other.images)
    assert [part.classes for part in ours.parts] == [*stream.classes]
    assert [part.classes for part in seen[5][2].parts] == [tuple(range(10))] * 2
    made = torch.cat([part.images for part in ours.parts])
    assert torch.equal(seen[1][0].inputs, normalise(made, stream.mean, stream.std))
    kept = sorted(path.name for path in (tmp_path / "cache" / "artefacts" / "teacher").iterdir() if path.is_dir())
    assert len(kept) == 3, "one of each experience, whoever asks, and the joint one"
    sets = [path.name.rpartition("-")[0] for path in (tmp_path / "work").rglob("taught-*.safetensors")]
    assert sorted(sets) == ["taught-joint", *["taught-step-1"] * 2, *["taught-step-2"] * 2]
    for row, outcome in outcomes.items():
        (trial,) = outcome.trials["taught"]
        assert (trial.ledger.images, trial.ledger.pixels) == (20, 20 * 64)
        weights = sum(4 * value.numel() for value in seen[1][2].parts[0].teacher.state_dict().values())
        assert trial.ledger.state > weights
        assert outcome.memory is not None
        assert np.bincount(outcome.memory.labels).tolist() == [2] * 10
        assert trial.matrix[0][1] is None, row


def test_a_teacher_or_a_distiller_that_sees_another_experience_fails_the_run(monkeypatch):
    own = Taught._source
    everything = tuple(range(10))
    for what in ("by the distiller", "by the teacher"):

        def leaking(self, position, classes, asked, what=what):
            return own(self, position, everything if asked == what else classes, asked)

        monkeypatch.setattr(Taught, "_source", leaking)
        with pytest.raises(UserError, match=rf"^leak: \d+ training images .* {what} \(experience 1\)"):
            run_job(Job(decoded(), "sre2l", 0, None, "cpu"))


def test_rows_that_share_images_have_one_folder_and_joint_images_another():
    scenario = decoded(row=TINY["row"] | {"other": ROWS["sre2l"]})
    folders = {row: Job(scenario, row, 0, Path("work"), "cpu").sets_folder for row in (*ROWS, "other")}
    assert len(set(folders.values())) == 3
    assert folders["other"] == folders["sre2l"]


@pytest.mark.parametrize(
    ("row", "changes", "line"),
    [
        (
            {"strategy": {"name": "taught", "protocol": "sre2l-fkd"}},
            {},
            "row.a.strategy: protocol 'sre2l-fkd' mixes images of two steps, and no per-step teacher knows both",
        ),
        (
            {"strategy": {"name": "taught", "protocol": "hard"}},
            {},
            "row.a.strategy.protocol: 'hard' has no teacher; give one",
        ),
        (
            {"strategy": "taught"},
            {"method": {"name": "dm"}},
            "row.a.method: neither it nor the scenario's method has a",
        ),
        ({"strategy": "taught", "training": {"epoch": 1}}, {}, "row.a.training.epoch: unknown key"),
        (
            {"strategy": "taught", "memory": "reservoir"},
            {},
            "row.a: strategy: 'taught' learns with memory distilled, not",
        ),
    ],
)
def test_rows_that_no_teacher_can_label_are_refused(row, changes, line):
    with pytest.raises(UserError) as caught:
        decoded(row={"a": row}, rows=["a"], **changes)
    assert str(caught.value).startswith(line)


def test_a_joint_teacher_may_label_mixed_images():
    row = {"strategy": {"name": "taught", "protocol": "sre2l-fkd", "teacher": "joint"}}
    recipe = decoded(row={"a": row}, rows=["a"]).recipe_of("a")
    assert recipe.views is not None
    assert (recipe.views.mix, recipe.loss, recipe.network) == ("cutmix", "kl", NETWORK)
