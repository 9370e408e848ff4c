"""The class-incremental benchmark and the two tables, on a small part of the digits."""

from __future__ import annotations

import io
import json
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from dd_apps.continual import ContinualScenario, run
from dd_apps.continual.adapter import contained, contents
from dd_apps.continual.benchmark import build
from dd_apps.continual.checks import check_scenario
from dd_apps.continual.job import Job, Ledger, Outcome, Trial
from dd_apps.continual.learner import rightly_labelled, run_job
from dd_apps.continual.orders import class_order, experience_sizes
from dd_apps.continual.strategies import Where, memory_for
from dd_apps.continual.summaries import table_row
from dd_core import datasets, networks, store
from dd_core.config import decode
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.images import LabelledImages, channel_stats, normalise
from dd_core.runner import Silent
from dd_core.system.parallel import Workers

with warnings.catch_warnings():  # Avalanche sets filters for the whole process while it is imported
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.logging import TextLogger
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

SMALL = {
    "data": "digits",
    "experiences": 2,
    "orders": 2,
    "images_per_class": 1,
    "network": "convnet-1-w4",
    "method": {"name": "dm", "steps": 2, "recipe": {"network": "convnet-1-w4"}},
    "rows": ["distilled", "real", "none"],
    "retraining": {"epochs": 3},
    "replay": {"epochs": 2, "batch_size": 32, "batch_size_mem": 16},
}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", split="train"), datasets.load("digits", split="test")


# --- the benchmark -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "experiences", "sizes"), [(10, 5, (2,) * 5), (10, 3, (4, 3, 3)), (7, 2, (4, 3))])
def test_classes_are_dealt_evenly_and_none_is_dropped(classes, experiences, sizes):
    assert experience_sizes(classes, experiences) == sizes


def test_ten_classes_in_three_experiences_all_arrive_with_all_their_images(digits):
    stream = build(*digits, experiences=3, seed=0, order=0)
    assert [len(classes) for classes in stream.classes] == [4, 3, 3]
    assert sorted(sum(stream.classes, ())) == list(range(10))
    labels = digits[0].labels.numpy()
    for classes, experience in zip(stream.classes, stream.benchmark.train_stream, strict=True):
        assert set(experience.classes_in_this_experience) == set(classes)
        assert len(experience.dataset) == int(np.isin(labels, classes).sum())
        assert experience.task_labels == [0]
    assert sum(len(experience.dataset) for experience in stream.benchmark.test_stream) == len(digits[1])


def test_orders_are_permutations_that_only_seed_and_number_decide():
    orders = [class_order(10, seed=0, order=order) for order in range(5)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 5
    assert orders[1] == class_order(10, seed=0, order=1)
    assert orders[1] != class_order(10, seed=1, order=1)


def test_too_many_experiences_are_refused(digits):
    with pytest.raises(UserError, match="experiences: 11 experiences need as many classes, and the data have 10"):
        build(*digits, experiences=11, seed=0, order=0)


def test_images_are_normalised_by_the_first_experience_alone(digits):
    train, _ = digits
    stream = build(*digits, experiences=5, seed=0, order=1)
    first = torch.isin(train.labels, torch.tensor(stream.classes[0])).nonzero().flatten()
    assert (stream.mean, stream.std) == channel_stats(train.subset(first))
    image, label, _ = stream.benchmark.train_stream[3].dataset[7]
    own = train.images[train.labels == label]
    assert any(torch.equal(image, one) for one in normalise(own, stream.mean, stream.std))


def test_our_accuracy_is_avalanches(digits):
    stream = build(*digits, experiences=2, seed=0, order=0)
    network = networks.for_source("convnet-1-w4", digits[1], seed=0)
    with contained(0, "test"):
        evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[TextLogger(io.StringIO())])
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
        strategy = Naive(model=network, optimizer=optimiser, train_mb_size=32, eval_mb_size=100, evaluator=evaluator)
        strategy.train(stream.experiences[0])
        theirs = strategy.eval(stream.benchmark.test_stream)
    right = rightly_labelled(strategy.model, digits[1], stream, device=torch.device("cpu"))
    for index, classes in enumerate(stream.classes):
        ours = right[np.isin(digits[1].labels.numpy(), classes)].mean()
        assert theirs[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp00{index}"] == pytest.approx(ours)
    assert 0.3 < right.mean() < 0.7


def test_accuracy_is_measured_in_evaluation_mode_and_training_goes_on_after_it(digits):
    """A batch norm that has seen other images says other classes by its running statistics than by the batch's."""
    stream, test = build(*digits, experiences=2, seed=0, order=0), digits[1]
    network = networks.for_source("convnet-1-w4-batchnorm", test, seed=0)
    inputs = normalise(test.images, stream.mean, stream.std)
    with torch.no_grad():
        network.train()(2 * inputs + 1)
        expected = network.eval()(inputs).argmax(1) == test.labels
        network.train()
    right = rightly_labelled(network, test, stream, device=torch.device("cpu"))
    assert np.array_equal(right, expected.numpy())
    assert network.training
    with torch.no_grad():
        assert not torch.equal(network(inputs).argmax(1) == test.labels, expected)


def test_a_job_learns_the_classes_in_its_own_order():
    scenario = decode(ContinualScenario, SMALL | {"rows": ["average"]})
    for order in (0, 1):
        memory = run_job(Job(scenario, "average", order, None, "cpu")).memory
        assert memory is not None
        assert memory.manifest.provenance is not None
        wanted = class_order(10, seed=0, order=order)
        assert memory.manifest.provenance.config["experiences"] == [sorted(wanted[:5]), sorted(wanted[5:])]


# --- the rows ----------------------------------------------------------------------------------------------------


def decoded(**changes) -> ContinualScenario:
    return decode(ContinualScenario, SMALL | changes)


def test_a_row_is_the_scenarios_method_or_another_method_with_options_of_its_own():
    options = {"dataset-distillation": {"steps": 3}, "long": {"name": "dm", "steps": 9}, "unused": {"name": "random"}}
    rows = ["distilled", "long", "dataset-distillation", "herding", "average", "real", "real-adaptive", "none", "joint"]
    scenario = decoded(rows=rows, others=options)
    assert [scenario.memory_method(row) for row in scenario.rows] == [
        SMALL["method"],
        {"name": "dm", "steps": 9},
        {"name": "dataset-distillation", "steps": 3},
        {"name": "herding"},
        {"name": "average"},
        *[None] * 4,
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rows": ["real", "real"]}, "rows: each may be named once"),
        ({"rows": ["rael"]}, "rows: unknown row 'rael'; did you mean 'real'?"),
        ({"rows": ["distilled", "dm"]}, "rows: 'dm' is the row 'distilled' already"),
        ({"method": {"name": "dm", "stps": 1}}, "method.stps: unknown key; did you mean 'steps'?"),
        ({"others": {"herding": {"stps": 1}}}, "others.herding.stps: unknown key; did you mean 'steps'?"),
        ({"others": {"dm2": {}}}, "unknown method 'dm2'; did you mean 'dm'?"),
        ({"others": {"dm2": {"name": 2}}}, "others.dm2.name: required"),
        ({"others": {"herding": 3}}, "others.herding: input should be"),
        ({"others": {"real": {"name": "dm"}}}, "others.real: the row 'real' has no such options"),
        ({"others": {"distilled": {"name": "dm"}}}, "others.distilled: the row 'distilled' has no such options"),
        ({"others": {"../dm": {"name": "dm"}}}, "others: '../dm': a row is named with at most 100 letters, digits"),
        ({"others": {"a\nb": {"name": "dm"}}}, r"others: 'a\nb': a row is named with at most 100 letters, digits"),
        (
            {"others": {"dataset-distillation": {"start": "fixed"}}},
            "others.dataset-distillation: makes a set of dataset-distillation for networks that start "
            "from particular weights; a replay buffer trains any network",
        ),
        (
            {"method": {"name": "dataset-distillation", "attack": ["1", "0"]}},
            "method.attack: makes a set to mislead networks, and a replay buffer teaches them",
        ),
    ],
)
def test_rows_and_methods_that_cannot_be_are_named(changes, line):
    with pytest.raises(UserError) as caught:
        decoded(**changes)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_other_methods_are_rows_like_any(tmp_path):
    small = {"steps": 2, "epochs": 1, "recipe": {"network": "convnet-1-w4-nonorm"}}
    rows = ["distilled", "learned", "herding", "real"]
    scenario = decoded(rows=rows, others={"learned": {"name": "dataset-distillation", **small}}, orders=1)
    found = run(scenario, folder=tmp_path, workers=Workers(count=1))
    for table in found.tables.values():
        assert [row["row"] for row in table] == ["dm", "learned", "herding", "real"]
        assert [row["bytes"] for row in table] == [640, 640 + 2 * 4, 640, 640], "a learned rate of each experience"
        assert {row[column]["std"] for row in table for column in ("after_1", "average")} == {None}, "one class order"
    for name, verdicts in found.verdicts.items():
        assert [*verdicts] == ["dm", "learned"], "the rows that learn their images"
        assert found.notes[name][0].startswith("one class order does not show how large the noise is: no verdict")
        assert "1 class order, seed 0" in found.notes[name][1]
    made = [found.memories[row].manifest.provenance for row in ("dm", "learned", "herding")]
    assert [one.method for one in made if one] == ["dm", "dataset-distillation", "herding"]
    assert len({found.memories[row].images.tobytes() for row in found.memories}) == 4


# --- the tables --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run(decode(ContinualScenario, SMALL), folder=tmp_path_factory.mktemp("memories"), workers=Workers(count=1))


def test_rows_and_columns(results):
    for rows in results.tables.values():
        assert [row["row"] for row in rows] == ["dm", "real", "none"]
        assert list(rows[0]) == ["row", "after_1", "after_2", "average", "forgetting", "bytes", "seconds"]
        assert [row["bytes"] for row in rows] == [640, 640, 0]
        assert all(row["seconds"] > 0 for row in rows)
    assert list(results.tables) == ["retraining", "replay"]
    assert json.loads(json.dumps(results.tables)) == results.tables


def test_figures_follow_from_the_matrices(results):
    row, matrices = results.tables["replay"][1], results.matrices["replay"]["real"]
    finals = [(matrix[1][0] + matrix[1][1]) / 2 for matrix in matrices]
    lost = [matrix[0][0] - matrix[1][0] for matrix in matrices]
    assert row["average"]["mean"] == pytest.approx(np.mean(finals))
    assert row["average"]["std"] == pytest.approx(np.std(finals, ddof=1))
    assert row["forgetting"]["mean"] == pytest.approx(np.mean(lost))
    assert row["after_1"]["mean"] == pytest.approx(np.mean([matrix[0][0] for matrix in matrices]))
    assert matrices[0][0][1] is None


def test_seconds_are_the_mean_over_class_orders_and_figures_weigh_experiences_by_their_images():
    matrices = [[[0.9, None], [0.5, 0.8]], [[0.7, None], [0.7, 0.6]]]
    ledgers = [Ledger(distilling=1.0, storing=2.0, training=7.0 + 2 * order, pixels=640) for order in range(2)]
    outcomes = [
        Outcome({"replay": (Trial(matrix, matrix, ledger),)}, (30, 10))
        for matrix, ledger in zip(matrices, ledgers, strict=True)
    ]
    row = table_row(decode(ContinualScenario, SMALL), "real", "replay", outcomes)
    assert row["seconds"] == 11.0
    assert row["after_2"]["mean"] == pytest.approx(((0.5 * 3 + 0.8) / 4 + (0.7 * 3 + 0.6) / 4) / 2)
    assert row["average"] == pytest.approx({"mean": 0.65, "std": 0.0})
    assert row["forgetting"] == pytest.approx({"mean": 0.2, "std": 0.08**0.5})


def test_memories_are_what_was_replayed_and_can_be_drawn(results):
    assert set(results.memories) == {"dm", "real"}
    for memory in results.memories.values():
        assert memory.images.shape == (10, 1, 8, 8)
        assert memory.images.dtype == np.uint8
        assert memory.labels is not None
        assert memory.labels.tolist() == list(range(10))
    digits = datasets.load("digits", split="train").images.numpy()
    kept = results.memories["real"].images
    assert all((digits == one).all((1, 2, 3)).any() for one in kept)
    assert not all((digits == one).all((1, 2, 3)).any() for one in results.memories["dm"].images)


def test_a_network_without_memory_forgets_everything(results):
    for matrices in results.matrices.values():
        for before, after in matrices["none"]:
            assert before[0] > 0.5
            assert after[0] < 0.1
            assert after[1] > 0.5


def test_the_notes_say_what_the_memorys_share_is(results):
    assert "filled to 16 by repetition" in " ".join(results.notes["replay"])
    assert "GDumb" in " ".join(results.notes["retraining"])


def test_no_note_says_what_the_program_cannot_know(results):
    assert not any("tuned" in note for notes in results.notes.values() for note in notes)


def test_the_distilled_row_is_compared_with_all_others_after_the_last_experience(results, digits):
    labels = digits[1].labels.numpy()
    streams = [build(*digits, experiences=2, seed=0, order=order) for order in range(2)]
    weights = [[np.isin(labels, classes).mean() for classes in stream.classes] for stream in streams]
    for table, found in results.verdicts.items():
        finals = {
            row: [np.dot(matrix[-1], shares) for matrix, shares in zip(matrices, weights, strict=True)]
            for row, matrices in results.matrices[table].items()
        }
        assert {row: [*against] for row, against in found.items()} == {"dm": ["real", "none"]}
        for row, verdict in found["dm"].items():
            assert verdict.difference == pytest.approx(np.subtract(finals["dm"], finals[row]).mean())
            assert verdict.p == pytest.approx(stats.ttest_rel(finals["dm"], finals[row]).pvalue, rel=1e-6)
        assert results.notes[table][0].startswith("after the last experience, by paired t-tests over 2 class orders")
        assert "2 class orders, mean and standard deviation" in results.notes[table][1]


def test_worker_processes_find_the_same_figures(results, tmp_path):
    again = run(decode(ContinualScenario, SMALL), folder=tmp_path, workers=Workers(count=2))
    assert again.matrices == results.matrices
    for row, memory in results.memories.items():
        assert np.array_equal(again.memories[row].images, memory.images)


def test_finished_memories_are_found_again(tmp_path):
    scenario = decode(ContinualScenario, SMALL | {"orders": 1, "rows": ["distilled"]})
    first = run(scenario, folder=tmp_path, workers=Workers(count=1))
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("[0-9]*.safetensors")}
    for outcome in tmp_path.rglob("job-*.json"):
        outcome.unlink()
    second = run(scenario, folder=tmp_path, workers=Workers(count=1))
    assert len(files) == 2
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("[0-9]*.safetensors")}
    assert second.matrices == first.matrices


def test_seconds_count_what_earlier_runs_spent_on_distilling(tmp_path):
    scenario = decode(ContinualScenario, SMALL | {"orders": 1, "rows": ["distilled"]})
    run(scenario, folder=tmp_path, workers=Workers(count=1))
    for record in tmp_path.rglob("run.json"):
        store.write_json(record, store.read_json(record) | {"seconds": 1000.0})
    for outcome in tmp_path.rglob("job-*.json"):  # as if killed before the end of the job
        outcome.unlink()
    again = run(scenario, folder=tmp_path, workers=Workers(count=1))
    for table in again.tables.values():
        assert 2000 < table[0]["seconds"] < 3000


def test_manifests_name_the_images_and_no_path(tmp_path):
    source = datasets.load("digits", split="train")
    for index in range(120):
        path = tmp_path / "images" / f"class {int(source.labels[index])}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images[index, 0].numpy()).save(path)
    given = {"data": f"folder:{tmp_path / 'images'}", "orders": 1, "rows": ["distilled"]}
    found = run(decode(ContinualScenario, SMALL | given), folder=tmp_path / "sets", workers=Workers(count=1))
    sets = [store.read_set(path) for path in (tmp_path / "sets").rglob("[0-9]*.safetensors")]
    assert len(sets) == 2
    for ds in [*sets, found.memories["dm"]]:
        assert ds.manifest.provenance is not None
        assert ds.manifest.provenance.source == "folder"
        assert str(tmp_path) not in repr(ds.manifest)


@pytest.fixture
def rare(tmp_path):
    """A folder of digits with its own test images; class 2 has two training images, class 3 one, the others eight."""
    source = datasets.load("digits", split="train")
    for label in range(5):
        members = (source.labels == label).nonzero().flatten().tolist()
        for split, chosen in (("train", members[: {2: 2, 3: 1}.get(label, 8)]), ("test", members[8:16])):
            for index in chosen:
                path = tmp_path / "images" / split / f"class {label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(source.images[index, 0].numpy()).save(path)
    return {"data": f"folder:{tmp_path / 'images'}", "images_per_class": 3, "orders": 1, "workers": 1}


class Listening(Silent):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps = 0

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, metrics=None) -> None:
        self.steps += 1


def test_a_rare_class_keeps_the_images_that_it_has_and_the_tables_say_so(rare, tmp_path):
    scenario = decode(ContinualScenario, SMALL | rare | {"rows": ["distilled", "average", "real"]})
    reporter = Listening()
    found = run(scenario, folder=tmp_path / "sets", reporter=reporter)
    remark = (
        "2 classes have fewer training images than images_per_class (3); the memory keeps as many images of each as "
        "there are: 'class 2' has 2, 'class 3' has 1"
    )
    assert remark in reporter.messages
    for table in ("retraining", "replay"):
        assert found.notes[table][-1] == remark
        assert [row["bytes"] for row in found.tables[table]] == [12 * 64] * 3
    for memory in found.memories.values():
        assert np.bincount(memory.labels).tolist() == [3, 3, 2, 1, 3]
    made = found.memories["dm"].manifest.provenance
    assert made is not None
    assert made.size == Size(counts=(3, 3, 2, 1, 3))


def test_a_scenario_that_no_job_could_finish_is_refused_before_the_first(rare, tmp_path):
    blocks = {"name": "dataset-distillation", "blocks": 3, "recipe": {"network": "convnet-1-w4-nonorm"}}
    for given, message in (
        ({"experiences": 6}, "experiences: 6 experiences need as many classes, and the data have 5"),
        ({"others": {"late": blocks}, "rows": ["real", "late"]}, "2 images of class 2 do not fall into 3 equal blocks"),
    ):
        reporter = Listening()
        with pytest.raises(UserError, match=message):
            run(decode(ContinualScenario, SMALL | rare | given), folder=tmp_path / "sets", reporter=reporter)
        assert reporter.steps == 0
        assert not (tmp_path / "sets").exists()


def test_notes_of_scenarios_without_rare_classes_are_as_before(digits):
    scenario = decode(ContinualScenario, SMALL)
    assert check_scenario(scenario, *digits) == ()
    with pytest.raises(UserError, match="digits: training and test images do not have the same classes"):
        check_scenario(scenario, digits[0], digits[1].of_classes(range(9)))
    few = digits[0].subset((digits[0].labels > 0).nonzero().flatten())
    with pytest.raises(UserError, match="class '0' has no images"):
        check_scenario(scenario, few, digits[1])


def test_images_are_read_when_they_are_asked_for(digits):
    class Counting(LabelledImages):
        def take(self, indices):
            taken.append(indices.tolist())
            return super().take(indices)

    taken = []
    train, test = (Counting(one.images, one.labels, one.classes, one.name) for one in digits)
    stream = build(train, test, experiences=2, seed=0, order=0)
    assert taken == []
    assert stream.experiences[1].dataset[3][1] in stream.classes[1]
    assert [len(indices) for indices in taken] == [1]


def test_another_seed_gives_other_figures(results):
    other = run(decode(ContinualScenario, SMALL | {"seed": 1, "rows": ["real"]}), workers=Workers(count=1))
    assert other.matrices["replay"]["real"] != results.matrices["replay"]["real"]


def test_every_memory_has_equal_bytes_and_the_adaptive_one_only_at_the_end(digits, tmp_path):
    scenario = decode(ContinualScenario, SMALL)
    held: dict[str, list[int]] = {}
    with contained(0, "test"):
        stream = build(*digits, experiences=2, seed=0, order=0)
        for row in ("distilled", "average", "real", "real-adaptive"):
            where = Where("digits", classes=10, seed=0, folder=tmp_path / row)
            memory = memory_for(scenario, row, "retraining", where)
            held[row] = []
            for experience in stream.experiences:
                memory.post_adapt(None, experience)
                held[row].append(contents(memory)[0].nbytes)
    equal = [5 * 64, 10 * 64]
    assert held == {"distilled": equal, "average": equal, "real": equal, "real-adaptive": [640, 640]}


def test_joint_training_counts_all_training_images(digits):
    scenario = decode(ContinualScenario, SMALL | {"orders": 1, "rows": ["joint"]})
    found = run(scenario, workers=Workers(count=1))
    for table in found.tables.values():
        assert table[0]["bytes"] == 64 * len(digits[0])
        assert table[0]["after_2"]["mean"] > 0.6
    assert found.memories == {}


def test_the_application_is_imported_lightly():
    import subprocess

    code = (
        "import sys, dd_apps.continual, dd_apps.continual.config\n"
        "assert not {'torch', 'avalanche'} & set(sys.modules), 'torch'\n"
        "dd_apps.continual.run\n"
        "assert 'avalanche' not in sys.modules, 'avalanche'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
