"""Rows of a memory and a strategy: what is built, what it stores, and which numbers come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_scenarios import CONTINUAL

from dd_apps.continual import ContinualScenario, run
from dd_apps.continual.adapter import contained, contents
from dd_apps.continual.benchmark import build
from dd_apps.continual.buffer import DistilledBuffer
from dd_apps.continual.job import Job
from dd_apps.continual.learner import rightly_labelled_within, run_job
from dd_apps.continual.orders import class_order, stream_of
from dd_apps.continual.strategies import Where, memory_for, strategy_for
from dd_apps.continual.strategies.memories import FilledReservoir
from dd_apps.continual.strategies.stepping import Augmentation, Rates
from dd_core import datasets, networks
from dd_core.augment import dsa
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.images import normalise
from dd_core.streams import generator
from dd_core.system.parallel import Workers

ROWS = {
    "er": {"memory": "class-balanced", "strategy": "replay"},
    "reservoir": {"memory": "reservoir"},
    "herded": {"memory": "herding"},
    "dm-er-ace": {"strategy": "er-ace"},
    "er-ace": {"memory": "class-balanced", "strategy": "er-ace"},
    "der": {"memory": "class-balanced", "strategy": {"name": "der", "alpha": 0.3}},
    "icarl": {"memory": "herding", "strategy": "icarl"},
    "lwf": {"memory": "none", "strategy": {"name": "lwf", "alpha": 0.5, "temperature": 3.0}},
    "ewc": {"memory": "none", "strategy": {"name": "ewc", "strength": 90.0, "decay": 0.9}},
    "dm-lwf": {"strategy": "lwf", "training": {"learning_rate": 0.01}},
    "dm-der": {"strategy": "der"},
    "hybrid-der": {"memory": "hybrid", "strategy": {"name": "der", "beta": 0.2}, "budget": "images"},
}
TINY = {
    **CONTINUAL,
    "row": ROWS,
    "rows": list(ROWS),
    "retraining": {"epochs": 2},
    "replay": {"epochs": 1, "batch_size": 64, "batch_size_mem": 16},
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", split="train"), datasets.load("digits", split="test")


@pytest.fixture(scope="module")
def stream(digits):
    return build(*digits, experiences=2, seed=0, order=0)


def decoded(**changes) -> ContinualScenario:
    return decode(ContinualScenario, TINY | changes)


def built(row: str, digits, folder, *, table="replay", scenario=None):
    """(memory, strategy) of a row before the first experience."""
    scenario = scenario or decoded()
    where = Where("digits", classes=10, seed=0, folder=folder, image_shape=(1, 8, 8))
    memory = memory_for(scenario, row, table, where)
    network = networks.for_source(scenario.network, digits[1], seed=0)
    made = strategy_for(scenario, row, table, network=network, memory=memory, device=CPU, where=where)
    return memory, made


# --- what is built -----------------------------------------------------------------------------------------------


def plugin(strategy, name: str):
    return next(each for each in strategy.plugins if type(each).__name__ == name)


def test_options_and_memories_reach_avalanches_strategies(digits, tmp_path):
    for row in ("dm-er-ace", "er-ace"):
        memory, strategy = built(row, digits, tmp_path)
        assert type(strategy).__name__ == "ER_ACE"
        assert (strategy.storage_policy, strategy.mem_size, strategy.batch_size_mem) == (memory, 30, 16)
    _, der = built("der", digits, tmp_path)
    # 3 images a class are 192 bytes: 192 // (64 + 10 logits of 4 bytes) = 1
    assert (der.alpha, der.beta, der.mem_size, der.storage_policy.max_size, der.batch_size_mem) == (
        0.3,
        0.5,
        10,
        10,
        10,
    )
    memory, der = built("hybrid-der", digits, tmp_path)
    assert (der.storage_policy, der.mem_size, der.batch_size_mem, der.beta) == (memory, 30, 16, 0.2)
    assert (memory.labels, memory.fill) == ("logits", 16)
    exemplars = plugin(built("icarl", digits, tmp_path)[1], "_ICaRLPlugin")
    assert (exemplars.memory_size, exemplars.fixed_memory) == (3, False)
    lwf = plugin(built("lwf", digits, tmp_path)[1], "LwFPlugin").lwf
    assert (lwf.alpha, lwf.temperature) == (0.5, 3.0)
    ewc = plugin(built("ewc", digits, tmp_path)[1], "EWCPlugin")
    assert (ewc.ewc_lambda, ewc.mode, ewc.decay_factor) == (90.0, "online", 0.9)
    memory, both = built("dm-lwf", digits, tmp_path)
    assert isinstance(memory, DistilledBuffer)
    assert plugin(both, "ReplayPlugin").storage_policy is memory
    assert plugin(both, "LwFPlugin").lwf.alpha == 1.0
    assert [group["lr"] for group in both.optimizer.param_groups] == [0.01]
    assert [group["lr"] for group in built("er", digits, tmp_path)[1].optimizer.param_groups] == [0.05]


def test_a_row_stands_in_the_tables_of_its_strategy():
    scenario = decoded(rows=["er", "reservoir", "none", "gdumb"], row=ROWS | {"gdumb": {"strategy": "gdumb"}})
    assert [scenario.tables_of(row) for row in scenario.rows] == [
        ("replay",),
        ("retraining", "replay"),
        ("retraining", "replay"),
        ("retraining",),
    ]
    only = decoded(rows=["reservoir", "none"], protocols=["retraining"])
    assert [only.tables_of(row) for row in only.rows] == [("retraining",)] * 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"row": {"a": {"strategy": "err"}}}, "row.a.strategy: unknown strategy 'err'; did you mean 'der'?"),
        ({"row": {"a": {"strategy": {"name": "der", "alfa": 1}}}}, "row.a.strategy: strategy.alfa: unknown key"),
        (
            {"row": {"a": {"strategy": "icarl"}}},
            "row.a: strategy: 'icarl' learns with memory herding, not 'distilled'",
        ),
        (
            {"row": {"a": {"memory": "none", "method": {"name": "dm"}}}},
            "row.a: method: the memory 'none' distils nothing",
        ),
        ({"row": {"a": {"memory": "reservoir", "adaptive": True}}}, "row.a: adaptive: the memory 'reservoir' does not"),
        (
            {"row": {"a": {"method": {"name": "dm", "stps": 1}}}},
            "row.a.method.stps: unknown key; did you mean 'steps'?",
        ),
        ({"row": {"a": {"training": {"epoch": 1}}}}, "row.a.training.epoch: unknown key; did you mean 'epochs'?"),
        ({"row": {"real": {}}}, "row.real: the row 'real' has no such options"),
        ({"row": {"a/b": {}}}, "row: 'a/b': a row is named with at most 100 letters, digits"),
        ({"row": {"a" * 101: {}}}, f"row: '{'a' * 101}': a row is named with at most 100 letters, digits"),
        ({"row": {"a": {}}, "others": {"a": {"name": "dm"}}}, "row.a: others.a is a row already"),
        ({"protocols": ["retraining"]}, "rows: 'er' stands in the table replay; add that to protocols"),
        ({"protocols": ["replay", "replay"]}, "protocols: each may be named once"),
        ({"replay": {"augmentation": "crop_wobble"}}, "replay.augmentation: unknown kind of augmentation"),
    ],
)
def test_rows_that_cannot_be_are_refused_in_a_line(changes, line):
    with pytest.raises(UserError) as caught:
        decode(ContinualScenario, TINY | {"rows": list(changes.get("row", {"er": 0}))} | changes)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


# --- what is stored ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {row: run_job(Job(decoded(), row, 0, folder, "cpu")) for row in ROWS}


def test_memories_have_equal_bytes_and_what_else_is_kept_is_counted(outcomes):
    ledgers = {row: outcome.trials["replay"][0].ledger for row, outcome in outcomes.items()}
    for row in ("er", "reservoir", "herded", "dm-er-ace", "er-ace", "icarl", "dm-lwf"):
        assert (ledgers[row].images, ledgers[row].nbytes) == (30, 30 * 64)
    assert (ledgers["der"].images, ledgers["der"].pixels, ledgers["der"].labels) == (10, 640, 400)
    # 192 bytes hold 2 images with 10 logits of 2 bytes
    assert (ledgers["dm-der"].images, ledgers["dm-der"].pixels, ledgers["dm-der"].labels) == (20, 1280, 400)
    assert (ledgers["hybrid-der"].images, ledgers["hybrid-der"].labels) == (30, 600)
    assert ledgers["lwf"].nbytes == ledgers["ewc"].nbytes == 0
    network = 4 * sum(weights.numel() for weights in networks_of("convnet-1-w4"))
    assert ledgers["lwf"].state == ledgers["dm-lwf"].state == network
    assert ledgers["ewc"].state == 2 * network, "weights and importances"
    assert ledgers["er"].state == 0
    assert all(ledger.training > 0 for ledger in ledgers.values())
    assert all((ledgers[row].distilling > 0) == row.startswith(("dm", "hybrid")) for row in ROWS)
    assert all((ledgers[row].storing > 0) == (row not in ("lwf", "ewc")) for row in ROWS)


def networks_of(name: str):
    return networks.build(name, in_channels=1, classes=10, image_size=(8, 8), seed=0).state_dict().values()


def test_logits_count_as_bytes_unless_the_budget_is_in_images():
    def images(budget, count):
        row = {"memory": "class-balanced", "strategy": "der", "budget": budget}
        return decoded(row={"der": row}, rows=["der"], images_per_class=count).images_of_class(
            "der", image_bytes=64, classes=10
        )

    assert [images("bytes", count) for count in (2, 10)] == [128 // 104, 640 // 104]
    assert [images("images", count) for count in (2, 10)] == [2, 10]
    with pytest.raises(UserError, match=r"row\.der: 64 bytes a class hold no image of 64 bytes with 10 logits"):
        images("bytes", 1)


def test_a_budget_in_bytes_is_whole_images_and_one_that_holds_none_is_refused_before_training(tmp_path):
    scenario = decoded(bytes_per_class=200)
    assert scenario.images_of_class("er", image_bytes=64, classes=10) == 3
    assert scenario.images_of_class("der", image_bytes=64, classes=10) == 200 // 104
    own = decoded(bytes_per_class=200, row={"big": {"images_per_class": 7}}, rows=["big"])
    assert own.images_of_class("big", image_bytes=64, classes=10) == 7
    with pytest.raises(UserError, match="bytes_per_class: 63 bytes hold no image of 64 bytes"):
        run(decoded(bytes_per_class=63), folder=tmp_path / "sets", workers=Workers(count=1))
    assert not (tmp_path / "sets").exists()


def test_a_reservoir_is_a_uniform_sample_stored_once_and_repeated_to_fill(digits, stream, tmp_path):
    memory, _ = built("reservoir", digits, tmp_path)
    with contained(0, "reservoir"):
        torch.manual_seed(5)
        for experience in stream.experiences:
            memory.post_adapt(None, experience)
        torch.manual_seed(5)
        first, second = (torch.rand(len(experience.dataset)) for experience in stream.experiences)
    kept = torch.cat([second, first.sort(descending=True).values[:30]]).sort(descending=True).values[:30]
    assert torch.equal(memory._buffer_weights, kept)
    images, labels = contents(memory)
    assert len({image.tobytes() for image in images}) == len(labels) == 30
    assert len(memory.buffer) == 240, "lcm(30, 16): every image as often, mini-batches of 16 full"


def test_a_reservoir_that_is_resized_keeps_each_image_once(stream):
    memory = FilledReservoir(30, fill=16)
    memory.update_from_dataset(stream.experiences[0].dataset.subset(range(10)))
    assert len(memory.buffer) == 80, "lcm(10, 16)"
    memory.resize(None, 20)
    assert len(contents(memory)[1]) == 10, "repetitions are no images"
    memory.resize(None, 4)
    assert len(contents(memory)[1]) == 4


def test_herding_follows_the_class_mean_of_the_present_networks_features(digits, stream, tmp_path):
    memory, strategy = built("herded", digits, tmp_path)
    strategy.model = networks.for_source("convnet-1-w4", digits[1], seed=9)  # as retraining replaces its network
    memory.post_adapt(strategy, stream.experiences[0])
    label = stream.classes[0][0]
    train = digits[0]
    own = train.images[train.labels == label]
    with torch.no_grad():
        features = strategy.model.features(normalise(own, stream.mean, stream.std))
    wanted, total = [], torch.zeros(features.shape[1])
    for count in range(1, 4):  # Welling 2009: the mean of the chosen stays as near to the class mean as it can
        distances = ((total + features) / count - features.mean(0)).square().sum(1)
        distances[wanted] = torch.inf
        wanted.append(int(distances.argmin()))
        total = total + features[wanted[-1]]
    images, labels = contents(memory)
    assert np.array_equal(
        np.sort(images[labels == label].reshape(3, -1), 0), np.sort(own[wanted].numpy().reshape(3, -1), 0)
    )


# --- how it is trained -------------------------------------------------------------------------------------------


class Batches:
    """A strategy at one mini-batch."""

    def __init__(self, images, memory=None) -> None:
        self.mbatch = [images]
        self.replay_loader = None if memory is None else object()
        self.mb_buffer_x = memory


def test_every_mini_batch_is_augmented_by_draws_of_its_own_and_the_memorys_too():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation("crop_rotate", seed=4)
    for step in range(3):
        batch = Batches(images, images.flip(0))
        augmentation.before_forward(batch)
        draws = generator(4, "augmentation", step)
        assert torch.equal(batch.mbatch[0], dsa(images, "crop_rotate", generator=draws))
        assert torch.equal(batch.mb_buffer_x, dsa(images.flip(0), "crop_rotate", generator=draws))


def test_augmentation_and_rates_are_of_every_strategy_and_the_memory_images_of_der_are_augmented(digits, tmp_path):
    scenario = decoded(replay=TINY["replay"] | {"augmentation": "auto", "schedule": "step"})
    for row in ("er", "er-ace", "der", "icarl", "ewc"):
        strategy = built(row, digits, tmp_path, scenario=scenario)[1]
        late = [*getattr(strategy, "augmentations", ())]
        (found,) = [each for each in [*strategy.plugins, *late] if isinstance(each, Augmentation)]
        assert found.kinds == "color_crop_cutout_scale_rotate", "digits are not mirrored"
        assert (row == "der") == (found in late), "Avalanche's DER adds the memory after the plugins"
        assert any(isinstance(each, Rates) for each in strategy.plugins)


def test_the_rate_is_a_tenth_with_a_new_optimiser_in_the_second_half(digits, tmp_path):
    scenario = decoded(replay=TINY["replay"] | {"epochs": 7, "schedule": "step"})
    _, strategy = built("er", digits, tmp_path, scenario=scenario)
    rates = plugin(strategy, "Rates")
    seen, fresh = [], []
    for epoch in range(7):
        strategy.optimizer.state[0] = {"momentum_buffer": 1}
        strategy.clock.train_exp_epochs = epoch
        rates.before_training_epoch(strategy)
        seen.append(strategy.optimizer.param_groups[0]["lr"])
        fresh.append(len(strategy.optimizer.state) == 0)
    assert seen == pytest.approx([0.05] * 5 + [0.005] * 2)
    assert fresh == [False] * 5 + [True, False]


def test_dms_class_orders_are_numpys_old_permutations():
    np.random.seed(3)
    assert class_order(100, seed=7, order=3, rule="numpy") == tuple(np.random.permutation(100).tolist())
    assert class_order(10, seed=7, order=1, rule="numpy") != class_order(10, seed=7, order=1)


def test_a_stream_of_some_images_has_as_many_of_each_class(digits):
    train = digits[0]
    some = stream_of(train, 50, seed=0)
    assert torch.bincount(some.labels).tolist() == [5] * 10
    rows = [int((train.images == image).flatten(1).all(1).nonzero()[0]) for image in some.images]
    assert rows == sorted(set(rows)), "in their own order, each once"
    assert not torch.equal(some.images, stream_of(train, 50, seed=1).images)
    assert stream_of(train, None, seed=0) is train
    for count, line in (
        (55, "images: 55 is no multiple of 10, the number of classes"),
        (5, "images: 5 is no multiple of 10"),
    ):
        with pytest.raises(UserError, match=line):
            stream_of(train, count, seed=0)
    with pytest.raises(UserError, match=r"images: 2000 images are 200 of each class, and '0' has \d+"):
        stream_of(train, 2000, seed=0)
    few = run_job(Job(decoded(images=50, rows=["joint"]), "joint", 0, None, "cpu"))
    assert few.trials["replay"][0].ledger.images == 50


def test_scenarios_say_which_class_orders():
    memory = run_job(Job(decoded(class_orders="numpy", rows=["reservoir"]), "reservoir", 1, None, "cpu"))
    labels = datasets.load("digits", split="test").labels.numpy()
    first = sorted(np.random.RandomState(1).permutation(10)[:5].tolist())
    assert memory.counts[0] == np.isin(labels, first).sum()


# --- known tasks, several networks -------------------------------------------------------------------------------


def test_a_known_task_leaves_the_choice_among_its_own_classes():
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0], [9.0, 3.0, 2.0, 5.0], [0.0, 1.0, 7.0, 8.0]])
    labels = torch.tensor([2, 1, 2])
    assert rightly_labelled_within(logits, labels, (1, 2)).tolist() == [True, True, True]
    assert rightly_labelled_within(logits, labels, (1, 2, 3)).tolist() == [True, False, False]


def test_tables_tell_of_known_tasks_where_the_scenario_asks_for_it(tmp_path):
    row = {"rows": ["none"], "replay": TINY["replay"] | {"epochs": 4}}
    plain, known = (run(decoded(**row, task_labels=given), workers=Workers(count=1)) for given in (False, True))
    for table in ("retraining", "replay"):
        assert plain.tables[table][0]["average"]["mean"] < 0.55 < known.tables[table][0]["average"]["mean"]
        assert known.tables[table][0]["average"] == plain.measures[table][0]["task known"]
        assert "the task of a test image is known" in " ".join(known.notes[table])
        assert "the task of a test image is known" not in " ".join(plain.notes[table])


def test_networks_of_one_memory_differ_and_orders_are_compared_by_their_means():
    given = {"orders": 2, "networks": 2, "rows": ["distilled", "reservoir"], "protocols": ["retraining"]}
    found = run(decoded(**given), workers=Workers(count=1))
    one = run(decoded(**given | {"networks": 1}), workers=Workers(count=1))
    trials = [trial for trial in found.trials if trial["row"] == "dm"]
    assert [(trial["order"], trial["network"]) for trial in trials] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found.matrices["retraining"]["dm"][::2] == one.matrices["retraining"]["dm"], "the first network is as before"
    assert trials[0]["matrix"] != trials[1]["matrix"]
    finals = [np.dot(trial["matrix"][-1], trial["counts"]) / sum(trial["counts"]) for trial in trials]
    last = found.tables["retraining"][0]["after_2"]
    assert last["mean"] == pytest.approx(np.mean(finals))
    assert last["std"] == pytest.approx(np.std(finals, ddof=1))
    verdict = found.verdicts["retraining"]["dm"]["reservoir"]
    assert verdict.pairs == 2
    theirs = [trial for trial in found.trials if trial["row"] == "reservoir"]
    other = [np.dot(trial["matrix"][-1], trial["counts"]) / sum(trial["counts"]) for trial in theirs]
    assert verdict.difference == pytest.approx(np.mean(finals) - np.mean(other))
    assert found.courses["retraining"]["dm"].mean[-1] == pytest.approx(np.mean(finals))
    assert "2 class orders x 2 networks" in found.notes["retraining"][1]


def test_augmented_rows_learn_otherwise_and_the_same_again(tmp_path):
    def final(**changes):
        scenario = decoded(rows=["er"], replay=TINY["replay"] | changes)
        return run_job(Job(scenario, "er", 0, None, "cpu")).trials["replay"][0].matrix

    assert final(augmentation="auto") == final(augmentation="auto") != final()
