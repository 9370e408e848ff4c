"""Architecture search: NNI's strategies over a pool, compared with NNI's own engine and with plain loops."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from search_trials import BEST, Backwards, Counted, uneven, value_of
from torch import nn

from dd_apps.nas import spaces
from dd_apps.nas.engine import Ledger, PoolExecutionEngine
from dd_apps.nas.proxies import DistilledProxy
from dd_apps.nas.search import Trial, best, search
from dd_apps.nas.strategies import EvolutionConfig, SearchConfig, TPEConfig
from dd_apps.nas.streaming import StreamingEngine
from dd_apps.nas.trials import Attempt, Outcome
from dd_core.distilled import Size
from dd_core.errors import Diverged, Interrupted, UserError
from dd_core.methods import method
from dd_core.runner import distill
from dd_core.streams import counter
from dd_core.system.parallel import Pool, Workers
from dd_core.system.reporter import Silent
from dd_core.testing import blobs

import nni  # isort: skip (spaces imports it without its warnings)
from nni.algorithms.hpo.tpe_tuner import TpeTuner  # isort: skip
from nni.nas.evaluator import FunctionalEvaluator  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.nn.pytorch import InputChoice, ModelSpace, MutableConv2d, MutableLinear  # isort: skip
from nni.nas.space import ModelStatus, SimplifiedModelSpace  # isort: skip
from nni.nas.strategy import GridSearch, Random, RegularizedEvolution  # isort: skip
from nni.nas.strategy.base import Strategy  # isort: skip

EVOLUTION = EvolutionConfig(population_size=6, sample_size=3, mutation_prob=0.4)
STRATEGIES: list[Any] = ["random", "grid", EVOLUTION, TPEConfig(startup=8)]
IDENTITY: dict[str, Any] = {"proxy": "distance", "seed": 3}


class TinySpace(ModelSpace):
    """A space of size ** 3 samples."""

    def __init__(self, size: int = 5, *, inputs: bool = False) -> None:
        super().__init__()
        for label in BEST:
            self.add_mutable(nni.choice(label, [*range(size)]))
        if inputs:
            self.inputs = InputChoice(3, n_chosen=2, label="inputs")


class NumberSpace(ModelSpace):
    """A space of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.add_mutable(nni.uniform("rate", 0.0, 1.0))


class Script(Strategy):
    """A strategy that submits given samples, and notes what happens."""

    def __init__(self, samples: list[dict[str, int]]) -> None:
        super().__init__()
        self.samples, self.log = samples, list[Any]()
        self.heard: Any = lambda sample: None

    def _run(self) -> None:
        self.engine.register_model_event_callback("final_metric", lambda event: self.log.append(event.metric))
        self.engine.register_model_event_callback("training_end", lambda event: self.log.append(event.status.value))
        self.engine.register_model_event_callback("training_end", lambda event: self.heard(event.model.sample))
        for sample in self.samples:
            if not self.wait_for_resource():
                self.log.append("spent")
                return
            self.log.append("submit")
            self.engine.submit_models(self.model_space.freeze(sample))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    yield folder
    assert [*folder.iterdir()] == []


def config(strategy: Any = "random", max_trials: int = 30, **options: Any) -> SearchConfig:
    return SearchConfig(strategy=strategy, max_trials=max_trials, **options)


def plain(history: list[Trial]) -> list[tuple[Any, ...]]:
    """All of a history but what its trials took."""
    assert [trial.index for trial in history] == [*range(len(history))]
    return [(trial.architecture, trial.sample, trial.value, trial.reason, trial.repeats) for trial in history]


def samples(history: list[Trial]) -> list[dict[str, Any]]:
    return [trial.sample for trial in history]


def run(
    strategy: Strategy, trial: Any = value_of, *, kind: Any = PoolExecutionEngine, pool: Any = None, **options: Any
):
    """What a strategy of NNI does on an engine of ours: the engine."""
    engine = kind(pool or Pool(), trial, **{"max_trials": 100, **options})
    strategy(SimplifiedModelSpace.from_model(TinySpace()), engine)
    engine.wait_models()
    engine.shutdown()
    return engine


# --- what is tried -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "theirs", "options"),
    [
        ("random", Random, {}),
        ("grid", GridSearch, {}),
        ({"name": "grid", "shuffle": False}, GridSearch, {"shuffle": False}),
        (EVOLUTION, RegularizedEvolution, {"population_size": 6, "sample_size": 3, "mutation_prob": 0.4}),
    ],
)
def test_one_at_a_time_is_what_nni_does(strategy, theirs, options, monkeypatch):
    history = search(TinySpace(), value_of, config(strategy, 40, batch=1, seed=7))
    logging.getLogger("nni").setLevel(logging.ERROR)
    engine = SequentialExecutionEngine(max_model_count=40)
    evaluator = FunctionalEvaluator(lambda model: None)
    monkeypatch.setattr(SimplifiedModelSpace, "execute", lambda self: nni.report_final_result(value_of(self.sample)))
    theirs(seed=counter(7, "search", 0) % 2**32, **options)(
        SimplifiedModelSpace.from_model(TinySpace(), evaluator), engine
    )
    assert samples(history) == [model.sample for model in engine.list_models()]
    assert [trial.value for trial in history] == [model.metric for model in engine.list_models()]


@pytest.mark.parametrize("batch", [1, 4, 40])
def test_tpe_maximises(batch: int):
    history = search(TinySpace(), value_of, config(TPEConfig(startup=8), 40, batch=batch, seed=7))
    tuner = TpeTuner("maximize", seed=counter(7, "search", 0) % 2**32, tpe_args={"n_startup_jobs": 8})
    tuner.update_search_space({label: {"_type": "choice", "_value": [*range(5)]} for label in BEST})
    expected: list[dict[str, Any]] = []
    while len(expected) < 40:
        proposed = [tuner.generate_parameters(len(expected) + index) for index in range(batch)]
        for index, sample in enumerate(proposed):
            tuner.receive_trial_result(len(expected) + index, sample, value_of(sample))
        expected += proposed
    assert samples(history) == expected[:40]
    if batch == 1:
        early, late = history[:10], history[-10:]
        assert sum(trial.value or 0 for trial in late) > sum(trial.value or 0 for trial in early)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_best_of_a_small_space_is_found(strategy):
    history = search(TinySpace(4), value_of, config(strategy, 64, seed=1))
    (winner,) = best(history)
    assert (winner.sample, winner.value, winner.architecture) == (BEST, 0.0, "x=3,y=1,z=2")
    assert spaces.sample_of(TinySpace(4), winner.architecture) == BEST
    every = [*product(range(4), repeat=3)]
    tried = [tuple(sample.values()) for sample in samples(history)]
    assert len({*tried}) == len(tried)
    if strategy == "grid":
        assert sorted(tried) == every


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_ends_where_nothing_is_left_to_try(strategy):
    history = search(TinySpace(2), value_of, config(strategy, 20))
    assert sorted(tuple(trial.sample.values()) for trial in history) == [*product(range(2), repeat=3)]


def test_a_space_of_numbers_is_searched_by_all_but_tpe():
    for strategy in STRATEGIES[:3]:
        history = search(NumberSpace(), lambda sample: -abs(sample["rate"] - 0.3), config(strategy, 20))
        assert len(history) == 20
        assert all(0 <= trial.sample["rate"] <= 1 for trial in history)


def test_tpe_refuses_what_its_tuner_does_not_know():
    with pytest.raises(UserError, match=r"^tpe: 'rate' is a Numerical; use another strategy, or single choices only$"):
        search(NumberSpace(), value_of, config("tpe"))
    with pytest.raises(UserError, match=r"^tpe: 'inputs' is a Cat\w+Multiple; use another strategy, or single"):
        search(TinySpace(inputs=True), value_of, config("tpe"))
    assert len(search(TinySpace(inputs=True), value_of, config("random", 5))) == 5


# --- determinism -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_seeds_give_equal_histories_and_leave_other_generators_alone(strategy):
    def history(seed: int, noise: int) -> list[tuple[Any, ...]]:
        np.random.seed(noise)
        before = np.random.get_state()[1].tolist(), torch.manual_seed(noise).get_state().tolist()
        trials = search(TinySpace(), value_of, config(strategy, seed=seed))
        assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
        return plain(trials)

    assert history(1, 5) == history(1, 6)
    assert history(1, 5) != history(2, 5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_history_does_not_depend_on_which_trial_ends_first(strategy, batch: int):
    expected = search(TinySpace(), value_of, config(strategy, batch=batch))
    assert plain(search(TinySpace(), value_of, config(strategy, batch=batch), workers=Backwards())) == plain(expected)


def test_a_strategy_hears_the_results_of_a_batch_in_order_when_all_are_there():
    script = Script([{"x": x, "y": 1, "z": 2} for x in (3, 2, 0, 1, 4)])
    engine = run(script, pool=Backwards(), batch=2)
    ended = [[0.0, "trained", -1.0, "trained"], [-9.0, "trained", -4.0, "trained"], [-1.0, "trained"]]
    submit = ["submit", "submit"]
    assert script.log == [*submit, *ended[0], *submit, *ended[1], "submit", *ended[2]]
    assert [model.metric for model in engine.list_models(ModelStatus.Trained)] == [0.0, -1.0, -9.0, -4.0, -1.0]
    assert engine.list_models(ModelStatus.Failed) == []


def test_workers_change_nothing():
    tried = config(EVOLUTION, 16, batch=4, seed=8)
    with Pool(Workers(count=2), uses_torch=False) as pool:
        history = search(TinySpace(), uneven, tried, workers=pool)
    assert plain(history) == plain(search(TinySpace(), value_of, tried))
    assert all(trial.seconds >= -value_of(trial.sample) / 300 for trial in history)


def test_a_trial_whose_worker_dies_is_a_failure():
    class Losing(Backwards):
        """Loses a job."""

        def as_finished(self, function, jobs, *, lost=None):
            for index, job in enumerate(jobs):
                yield index, lost(job) if job["x"] == 2 else function(job)

    history = search(TinySpace(), value_of, config("grid", 125), workers=Losing())
    failed = [trial for trial in history if trial.value is None]
    assert {trial.sample["x"] for trial in failed} == {2}
    assert len(failed) == 25
    assert {(trial.reason, trial.seconds) for trial in failed} == {
        ("its worker process died at every attempt, most likely for lack of memory", None)
    }


# --- as results come ---------------------------------------------------------------------------------------------


class Threads(Pool):
    """A pool of three workers whose jobs run in the threads that ask for them."""

    def __init__(self) -> None:
        super().__init__(Workers(count=3), uses_torch=False)

    def as_finished(self, function, jobs, *, lost=None):
        return ((index, function(job)) for index, job in enumerate(jobs))


def test_a_strategy_hears_each_result_as_soon_as_it_is_there():
    heard = {x: threading.Event() for x in range(5)}
    script = Script([{"x": x, "y": 1, "z": 2} for x in (0, 1, 2, 3, 4)])
    script.heard = lambda sample: heard[sample["x"]].set()
    before = {1: 2, 3: 1, 0: 3}  # a trial ends when the strategy has heard of another

    def in_turn(sample: dict[str, Any]) -> float:
        assert sample["x"] not in before or heard[before[sample["x"]]].wait(10)
        return value_of(sample)

    engine = run(script, in_turn, kind=StreamingEngine, pool=Threads(), batch=3)
    assert [entry for entry in script.log if isinstance(entry, float)][:2] == [-1.0, -4.0]
    assert script.log[:9] == [*["submit"] * 3, -1.0, "trained", "submit", -4.0, "trained", "submit"]
    assert [outcome.value for _, outcome in engine.trials()] == [-9.0, -4.0, -1.0, 0.0, -1.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_worker_streams_as_batches_of_one(strategy):
    expected = search(TinySpace(), value_of, config(strategy, batch=1))
    assert plain(search(TinySpace(), value_of, config(strategy, batch=1, asynchronous=True))) == plain(expected)


def test_a_lost_trial_runs_again_alone_before_it_counts_as_failed():
    class Losing(Threads):
        """Loses jobs while others run, and one always."""

        def as_finished(self, function, jobs, *, lost=None):
            for index, job in enumerate(jobs):
                lose = job["x"] == 2 or (threading.current_thread() is not threading.main_thread() and job["x"] == 1)
                yield index, lost(job) if lose else function(job)

    script = Script([{"x": x, "y": 1, "z": 2} for x in (0, 1, 2, 3, 4)])
    engine = run(script, kind=StreamingEngine, pool=Losing(), batch=3)
    assert [outcome.value for _, outcome in engine.trials()] == [-9.0, -4.0, None, 0.0, -1.0]


# --- budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("batch", "asynchronous"), [(1, False), (4, False), (50, False), (4, True)])
def test_the_budget_is_exact(strategy, batch: int, asynchronous):
    trial = Counted()
    history = search(TinySpace(), trial, config(strategy, 31, batch=batch, asynchronous=asynchronous))
    assert len(history) == trial.calls.total() == 31


def test_a_strategy_that_does_not_ask_is_stopped():
    script = Script([{"x": x, "y": 1, "z": 2} for x in (0, 1, 2)])
    run(script, max_trials=2)
    assert script.log[-1] == "spent"
    engine = PoolExecutionEngine(Pool(), value_of, max_trials=1, batch=5)
    space = SimplifiedModelSpace.from_model(TinySpace())
    with pytest.raises(RuntimeError, match="only a frozen model"):
        engine.submit_models(space)
    with pytest.raises(RuntimeError, match="that was not submitted"):
        engine.wait_models(space.freeze(BEST))
    model = space.freeze(BEST)
    engine.submit_models(model)
    with pytest.raises(RuntimeError, match="budget of 1 trials is spent"):
        engine.submit_models(space.freeze(BEST))
    assert model.status == ModelStatus.Training
    engine.wait_models(model)
    assert model.status == ModelStatus.Trained
    with pytest.raises(RuntimeError, match="by the journal"):
        PoolExecutionEngine(Pool(), value_of, max_trials=1).load_state_dict(engine.state_dict())


def test_more_models_at_a_time_than_the_population_has():
    history = search(TinySpace(), value_of, config(EVOLUTION, 40, batch=10))
    assert len(history) == 40
    assert sum(trial.value or 0 for trial in history[30:]) > sum(trial.value or 0 for trial in history[:10])


def test_what_the_user_may_not_expect_is_said():
    heard: list[str] = []

    class Ear(Silent):
        def message(self, text: str) -> None:
            heard.append(text)

    search(TinySpace(2), value_of, config("grid", 9), reporter=Ear())
    assert heard.pop() == "grid found no new sample after 8 of 9 trials"
    search(TinySpace(), value_of, config("tpe", 20), reporter=Ear())
    assert heard.pop() == "tpe learns nothing from its first 20 trials: this search is random"
    search(TinySpace(), value_of, config("random", 5, batch=2), workers=Backwards(3), reporter=Ear())
    assert UserError(heard.pop()).text.startswith("3 workers: only 2 had work, by ")
    search(TinySpace(), value_of, config(EVOLUTION, 6), reporter=Ear())
    assert heard.pop() == "evolution learns nothing from its first 6 trials: this search is random"
    search(TinySpace(), value_of, config(EVOLUTION, 7), reporter=Ear())
    search(TinySpace(), value_of, config("tpe", 21), workers=Backwards(4), reporter=Ear())
    assert heard == []


def test_nni_prints_nothing(capfd: pytest.CaptureFixture[str]):
    logger = logging.getLogger("nni")
    logger.setLevel(logging.INFO)
    search(TinySpace(), lambda sample: 1 / 0, config(EVOLUTION, 9))
    assert capfd.readouterr().out == ""
    assert logger.level == logging.INFO
    logger.setLevel(logging.ERROR)


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such\nlayer"), "ValueError: no such"),
        (KeyError(), "KeyError"),
        (Diverged("loss is nan"), "loss is nan"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA: 3 GiB\nmore"), "out of memory: CUDA: 3 GiB"),
        (RuntimeError("x" * 300), "RuntimeError: " + "x" * 186),
    ],
)
def test_a_trial_that_raises_is_a_failure_with_its_reason(error: Exception, reason: str):
    def trial(sample: dict[str, Any]) -> float:
        raise error

    outcome = Attempt(trial)({})
    assert (outcome.value, outcome.reason, outcome.repeats) == (None, reason, None)
    assert outcome.seconds is not None


@pytest.mark.parametrize(
    ("value", "reason"), [("nan", "its value is nan"), ("-inf", "its value is -inf"), (torch.tensor(2.0), None)]
)
def test_a_value_that_is_not_finite_is_a_failure(value, reason):
    outcome = Attempt(lambda sample: value)({})
    assert (outcome.value, outcome.reason) == (None if reason else 2.0, reason)


def test_a_trial_without_a_value_is_a_failure():
    assert str(Attempt(lambda sample: None)({}).reason).startswith("TypeError: float() argument")  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_failures_are_recorded_and_not_fatal(strategy, asynchronous):
    def trial(sample: dict[str, Any]) -> float:
        if sample["x"] != 3:
            raise Diverged("loss is inf")
        return value_of(sample)

    history = search(TinySpace(), trial, config(strategy, 60, asynchronous=asynchronous))
    assert len(history) == 60
    for each in history:
        assert (each.value, each.reason) == (
            (value_of(each.sample), None) if each.sample["x"] == 3 else (None, "loss is inf")
        )
    scored = [each for each in history if each.sample["x"] == 3]
    assert best(history, 99) == sorted(scored, key=lambda each: -value_of(each.sample))
    assert best(history, 2) == best(history, 99)[:2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_in_which_all_fails_ends(strategy):
    history = search(TinySpace(), lambda sample: float("nan"), config(strategy, 30, batch=10))
    assert [each.reason for each in history] == ["its value is nan"] * 30
    assert best(history) == []


class Troubled(ModelSpace):
    """Networks of which some cannot be built, some fit into no memory, and some, at their rate, do not learn."""

    def __init__(self) -> None:
        super().__init__()
        width, groups = nni.choice("width", [8, 2**44]), nni.choice("groups", [1, 3])
        self.add_mutable(nni.choice("rate", [0.05, 1e30]))
        self.body = nn.Sequential(MutableConv2d(1, 8, 3, groups=groups), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(MutableLinear(8 * 6 * 6, width), MutableLinear(width, 3))

    def forward(self, images):
        return self.head(self.body(images))


def test_a_model_that_cannot_be_built_one_that_diverges_and_one_out_of_memory_are_recorded(tmp_path: Path):
    space, source = Troubled(), blobs()
    ds = distill(method("random", recipe={"network": "convnet-1-w4", "epochs": 4}), source, Size(ipc=2))

    def trial(sample: dict[str, Any]) -> float:
        recipe = ds.manifest.recipe.model_copy(update={"learning_rate": sample["rate"]})
        return DistilledProxy(ds, source, recipe=recipe).score(spaces.build(space, sample, seed=0), seed=0).value

    again: dict[str, Any] = {"journal": tmp_path, "identity": IDENTITY}
    history = search(space, trial, config("grid", 8), **again)
    reasons = {tuple(each.sample[name] for name in ("groups", "width", "rate")): each.reason for each in history}
    assert len(reasons) == 8
    assert reasons.pop((1, 8, 0.05)) is None
    assert re.fullmatch(r"training loss is (nan|inf); [^\n]+", str(reasons.pop((1, 8, 1e30))))
    for (groups, _, _), reason in reasons.items():
        start = "ValueError: " if groups == 3 else "out of memory: "
        assert re.fullmatch(rf"{start}[^\n]+", str(reason))
    (winner,) = best(history, 8)
    assert 0 < (winner.value or 0) <= 1
    assert [each.value for each in history if each.reason] == [None] * 7
    counted = Counted()
    assert plain(search(space, counted, config("grid", 8), **again)) == plain(history)
    assert counted.calls.total() == 0


def test_an_interruption_is_no_failure():
    def trial(sample: dict[str, Any]) -> float:
        raise Interrupted("stopped", 15)

    with pytest.raises(Interrupted):
        search(TinySpace(), trial, config())


# --- samples that come again -------------------------------------------------------------------------------------

AGAIN = [{"x": x, "y": 1, "z": 2} for x in (0, 1, 0, 3, 1, 0)]


@pytest.mark.parametrize("kind", [PoolExecutionEngine, StreamingEngine])
@pytest.mark.parametrize("batch", [1, 2, 4, 6])
def test_a_sample_that_was_tried_is_not_tried_again(kind, batch: int):
    trial = Counted()
    engine = run(Script(AGAIN), trial, kind=kind, batch=batch)
    assert {*trial.calls.values()} == {1}
    outcomes = [outcome for _, outcome in engine.trials()]
    assert [(outcome.value, outcome.repeats) for outcome in outcomes] == [
        (-9.0, None),
        (-4.0, None),
        (-9.0, 0),
        (0.0, None),
        (-4.0, 1),
        (-9.0, 0),
    ]
    assert [outcome.seconds for outcome in outcomes if outcome.repeats is not None] == [0.0] * 3
    history = [Trial(index, "", sample, **vars(outcome)) for index, (sample, outcome) in enumerate(engine.trials())]
    assert [each.index for each in best(history, 5)] == [3, 1, 0]


@pytest.mark.parametrize("kind", [PoolExecutionEngine, StreamingEngine])
def test_a_noisy_trial_is_tried_again(kind):
    trial = Counted()
    engine = run(Script(AGAIN), trial, kind=kind, batch=2, noisy=True)
    assert sorted(trial.calls.values()) == [1, 2, 3]
    assert [outcome.repeats for _, outcome in engine.trials()] == [None] * 6


def test_a_failure_that_comes_again_is_the_same_failure():
    engine = run(Script([BEST, BEST]), lambda sample: 1 / 0)
    assert len(engine.list_models(ModelStatus.Failed)) == 2
    assert [(outcome.reason, outcome.repeats) for _, outcome in engine.trials()] == [
        ("ZeroDivisionError: division by zero", None),
        ("ZeroDivisionError: division by zero", 0),
    ]


@pytest.mark.parametrize("kind", [PoolExecutionEngine, StreamingEngine])
def test_an_outcome_that_is_remembered_is_not_computed(kind):
    class Memory(Ledger):
        """Remembers two trials, and not in which order they ended."""

        def recall(self, index: int, sample: dict[str, Any]) -> Outcome | None:
            return Outcome(5.0) if index in (0, 3) else None

    trial = Counted()
    engine = run(Script([{"x": x, "y": 1, "z": 2} for x in range(4)]), trial, kind=kind, batch=3, ledger=Memory())
    assert [outcome.value for _, outcome in engine.trials()] == [5.0, -4.0, -1.0, 5.0]
    assert [model.metric for model in engine.list_models()] == [5.0, -4.0, -1.0, 5.0]
    assert trial.calls.total() == 2


# --- going on ----------------------------------------------------------------------------------------------------


def test_a_journal_without_identity_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"^journal needs identity: all that determines the values of a trial$"):
        search(TinySpace(), value_of, config(), journal=tmp_path / "run")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("asynchronous", "pool"), [(False, Pool), (False, Backwards), (True, Pool)])
def test_an_interrupted_search_goes_on_as_if_nothing_had_been(strategy, asynchronous, pool, tmp_path: Path):
    whole = plain(search(TinySpace(), value_of, config(strategy, asynchronous=asynchronous)))
    for stop in (0, 5, 17):
        trial, folder = Counted(stop=stop), tmp_path / str(stop)
        again: dict[str, Any] = {"journal": folder, "identity": IDENTITY, "workers": pool()}
        with pytest.raises(KeyboardInterrupt):
            search(TinySpace(), trial, config(strategy, asynchronous=asynchronous), **again)
        with open(folder / "records.jsonl", "a") as file:
            file.write('{"index": 5, "archi')  # a kill while a line was written
        trial.stop = None
        assert plain(search(TinySpace(), trial, config(strategy, asynchronous=asynchronous), **again)) == whole
        assert plain(search(TinySpace(), trial, config(strategy, asynchronous=asynchronous), **again)) == whole
        assert {*trial.calls.values()} == {1}
        assert len((folder / "records.jsonl").read_text().splitlines()) == 30


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_goes_on_with_more_trials(strategy, tmp_path: Path):
    whole = plain(search(TinySpace(), value_of, config(strategy, 30)))
    trial = Counted()
    for count in (6, 19, 30, 10):
        history = search(TinySpace(), trial, config(strategy, count), journal=tmp_path, identity=IDENTITY)
        assert plain(history) == whole[:count]
    assert trial.calls.total() == 30


def test_a_search_that_heard_results_as_they_came_goes_on_in_that_order(tmp_path: Path):
    tried = config(EVOLUTION, 24, batch=3, asynchronous=True)
    stop = threading.Event()

    def slow(sample: dict[str, Any]) -> float:
        stop.wait(0.02 * (sample["x"] != 3))
        return value_of(sample)

    again: dict[str, Any] = {"journal": tmp_path, "identity": IDENTITY, "workers": Threads()}
    first = search(TinySpace(), slow, tried, **again)
    order = [json.loads(line)["index"] for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert order != sorted(order) == [*range(24)]
    trial = Counted()
    assert plain(search(TinySpace(), trial, tried, **again)) == plain(first)
    assert trial.calls.total() == 0


def test_repeats_are_recorded_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dd_apps.nas.search.proposer", lambda config, seed: Script(AGAIN))
    for noisy in (False, True):
        trial, again = Counted(), {"journal": tmp_path / str(noisy), "identity": IDENTITY}
        first = search(TinySpace(), trial, config(noisy=noisy), **again)
        assert [each.repeats for each in first] == ([None] * 6 if noisy else [None, None, 0, None, 1, 0])
        assert trial.calls.total() == (6 if noisy else 3)
        assert plain(search(TinySpace(), trial, config(noisy=noisy), **again)) == plain(first)
        assert trial.calls.total() == (6 if noisy else 3)


def test_trials_that_run_when_another_is_interrupted_are_recorded(tmp_path: Path):
    calls, three = iter(range(3)), threading.Barrier(3)

    def trial(sample: dict[str, Any]) -> float:
        index = next(calls)
        three.wait(10)
        if index == 1:
            raise KeyboardInterrupt
        time.sleep(0.1)
        return value_of(sample)

    tried, again = config(max_trials=5, batch=3, asynchronous=True), {"journal": tmp_path, "identity": IDENTITY}
    with pytest.raises(KeyboardInterrupt):
        search(TinySpace(), trial, tried, workers=Threads(), **again)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 2
    counted = Counted()
    assert len(search(TinySpace(), counted, tried, workers=Threads(), **again)) == 5
    assert counted.calls.total() == 3


def test_progress_counts_what_was_done_before(tmp_path: Path):
    stages: list[Any] = []

    class Ear(Silent):
        def stage(self, name: str, *, total: int, first: int = 0):
            stages.append((name, total, first))
            return super().stage(name, total=total, first=first)

        def advance(self, metrics=None) -> None:
            stages.append(metrics)

    def trial(sample: dict[str, Any]) -> float:
        return -1.0 if len(stages) < 3 else float("nan")

    for count in (2, 3, 1):
        search(
            *(TinySpace(), trial, config("grid", count, batch=1)),
            **{"journal": tmp_path, "identity": IDENTITY, "reporter": Ear()},
        )
    value = {"value": -1.0}
    assert stages == [("grid search", 2, 0), value, value, ("grid search", 3, 2), None, ("grid search", 1, 1)]


@pytest.mark.parametrize(
    ("change", "space", "identity", "line"),
    [
        ({"batch": 5}, {}, {}, "batch: 4 -> 5"),
        ({"seed": 1}, {}, {}, "seed: 0 -> 1"),
        ({"noisy": True}, {}, {}, "noisy: False -> True"),
        ({"asynchronous": True}, {}, {}, "asynchronous: False -> True"),
        ({"strategy": "grid"}, {}, {}, r"strategy.name: 'random' -> 'grid'; strategy.shuffle: None -> True"),
        ({}, {"size": 4}, {}, r"space.arguments.size: '5' -> '4'; space.choices.x: "),
        ({}, {}, {"proxy": "snip"}, "trial.proxy: 'distance' -> 'snip'"),
    ],
)
def test_a_journal_of_another_search_is_refused(change, space, identity, line: str, tmp_path: Path):
    search(TinySpace(size=5), value_of, config(max_trials=3), journal=tmp_path, identity=IDENTITY)
    other: dict[str, Any] = {"journal": tmp_path, "identity": {**IDENTITY, **identity}}
    with pytest.raises(UserError, match=rf"^\S+: holds a search with other settings \({line}[^\n]*; use another jou"):
        search(TinySpace(**{"size": 5, **space}), value_of, config(**{"max_trials": 3, **change}), **other)
    history = search(
        TinySpace(**{"size": 5, **space}), value_of, config(**{"max_trials": 3, **change}), fresh=True, **other
    )
    assert len(history) == len((tmp_path / "records.jsonl").read_text().splitlines()) == 3


def test_a_function_among_the_choices_is_itself_in_the_next_process(tmp_path: Path):
    class Functions(ModelSpace):
        """A space of functions."""

        def __init__(self, functions) -> None:
            super().__init__()
            self.add_mutable(nni.choice("f", functions))

    def fresh_functions() -> list[Any]:
        def first() -> None: ...
        def second() -> None: ...

        return [first, second]

    kept, others = fresh_functions(), fresh_functions()
    for functions in (kept, others):
        history = search(Functions(functions), lambda sample: 0, config("grid", 2), journal=tmp_path, identity=IDENTITY)
        assert {trial.sample["f"] for trial in history} == {*functions}


def test_a_record_that_does_not_fit_is_refused(tmp_path: Path):
    again: dict[str, Any] = {"journal": tmp_path, "identity": IDENTITY}
    search(TinySpace(), value_of, config(max_trials=3), **again)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    other = {**json.loads(lines[1]), "sample": {"x": 9, "y": 9, "z": 9}, "architecture": "another"}
    for record, line in (
        (other, r"^\S+: its trial 1 is of another, but this search proposes x=\d,y=\d,z=\d; use another journal"),
        ({**other, "value": None}, r"^\S+: a trial ends with a value or with a reason$"),
        ({**other, "reason": "it failed"}, r"^\S+: a trial ends with a value or with a reason$"),
        ({**other, "index": -1}, r"^\S+: index: [^\n]*$"),
    ):
        (tmp_path / "records.jsonl").write_text("\n".join([lines[0], json.dumps(record), lines[2]]) + "\n")
        with pytest.raises(UserError, match=line):
            search(TinySpace(), value_of, config(max_trials=3), **again)


def test_a_folder_that_is_no_journal_or_in_use_is_refused(tmp_path: Path):
    again: dict[str, Any] = {"journal": tmp_path, "identity": IDENTITY}
    search(TinySpace(), value_of, config(max_trials=3), **again)
    with (
        FileLock(tmp_path / "lock"),
        pytest.raises(UserError, match=r"^\S+: another search is at work here; wait for it, or use another journal$"),
    ):
        search(TinySpace(), value_of, config(max_trials=3), **again)
    (tmp_path / "identity.json").write_text("[]")
    with pytest.raises(UserError, match=r"^\S+: its identity\.json is no JSON object; use another journal"):
        search(TinySpace(), value_of, config(max_trials=3), **again)
    (tmp_path / "identity.json").unlink()
    with pytest.raises(
        UserError, match=r"^\S+: holds records\.jsonl and no identity\.json that says what they are; use"
    ):
        search(TinySpace(), value_of, config(max_trials=3), **again)


# --- settings ----------------------------------------------------------------------------------------------------


def test_strategies_by_name_and_their_defaults():
    assert config("evolution").strategy == EvolutionConfig(population_size=20, sample_size=5, mutation_prob=0.05)
    assert config({"name": "tpe", "startup": 3}).strategy == TPEConfig(startup=3)
    assert config("tpe").strategy == TPEConfig(startup=20)
    assert config("random", 3).batch == 4


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"strategy": "evolutoin"}, "unknown search strategy 'evolutoin'; did you mean 'evolution'"),
        ({"strategy": {"name": "evolution", "sample_size": 21}}, "sample_size 21 is more than population_size 20"),
        ({"strategy": {"name": "evolution", "mutation_prob": 0.0}}, "greater than 0"),
        ({"strategy": {"name": "grid", "startup": 2}}, "startup"),
        ({"max_trials": 0}, "greater than or equal to 1"),
        ({"batch": 0}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, line: str):
    with pytest.raises(UserError, match=line):
        SearchConfig(**{"max_trials": 3, **fields})


def test_a_search_shows_its_progress_where_it_is_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dd_core.system.progress.LINE_SECONDS", 0.0)
    how = config(EvolutionConfig(population_size=4, sample_size=2), 5, batch=1, seed=7)
    plain = search(TinySpace(), value_of, how)
    capfd.readouterr()
    told = search(TinySpace(), value_of, how, progress=True)
    lines = [line for line in capfd.readouterr().err.splitlines() if " search: " in line]
    assert [line.split(",")[0] for line in lines] == [f"evolution search: {done} of 5" for done in range(1, 6)]
    assert [trial.value for trial in told] == [trial.value for trial in plain]
