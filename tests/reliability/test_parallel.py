"""Who runs the jobs changes nothing: this process, local processes, or a real local Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jobs_for_workers import Mortal, deadly, interrupted, pow_of_two, refused, slot, slow_pow_of_two, uneven

from dd_apps.nas.search import search
from dd_apps.nas.strategies import EvolutionConfig, SearchConfig
from dd_core import artefacts
from dd_core.distilled import Size
from dd_core.errors import Interrupted, OutOfResources, UserError
from dd_core.evaluation import evaluate
from dd_core.methods import method
from dd_core.recipe import Recipe, StartingPool
from dd_core.runner import distill
from dd_core.system import parallel
from dd_core.system.parallel import Pool, Workers, slots
from dd_core.testing import blobs
from dd_core.training.starts import spec_of

import nni  # isort: skip (search imports it without its warnings)
from nni.nas.nn.pytorch import ModelSpace  # isort: skip


def everything(workers: Workers, folder: Path) -> dict[str, object]:
    """What the three engines are compared in."""
    weights = spec_of(
        Recipe(network="convnet-1-w4"), (1, 8, 8), 3, StartingPool(distribution="default", count=3, seed=1)
    )
    recipe = Recipe(network="convnet-1-w8", epochs=4, batch_size=2, augmentation="color_crop")
    source = blobs()
    ds = distill(method("average", recipe=recipe.model_dump()), source, Size(ipc=2))
    score = evaluate(ds, train=source, test=source, nets=3, workers=workers)
    return {
        "results": list(parallel.run(uneven, range(7), workers=workers)),
        "artefact": artefacts.get(weights, workers=workers, cache=folder).content,
        "networks": score.accuracy.per_network,
        "twins": score.random_real.per_network,
    }


@pytest.fixture(autouse=True)
def _workers_find_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return everything(Workers(), tmp_path_factory.mktemp("here"))


class Few(Sequence[int]):
    """Jobs 0 to 59, which note that they are taken."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def __len__(self) -> int:
        return 60

    def __getitem__(self, at: Any) -> Any:
        if at >= 60:
            raise IndexError
        self.taken.append(at)
        return at


@pytest.mark.parametrize("count", [1, 2])
def test_jobs_of_a_sequence_are_taken_as_workers_come_to_need_them(count: int):
    jobs, ahead = Few(), list[int]()
    with Pool(Workers(count=count), uses_torch=False) as pool:
        for finished, (index, result) in enumerate(pool.as_finished(slow_pow_of_two, jobs), start=1):
            assert result == 2**index
            ahead.append(len(jobs.taken) - finished)
    assert sorted(jobs.taken) == list(range(60))
    assert max(ahead) <= (0 if count == 1 else 10)  # of 60


class Failing(Few):
    """Jobs of which the third cannot be taken."""

    def __getitem__(self, at: int) -> int:
        if at == 2:
            raise IndexError("there is no such image")
        return super().__getitem__(at)


@pytest.mark.parametrize("count", [1, 2])
def test_a_job_that_cannot_be_taken_is_no_end_of_the_jobs(count: int):
    with pytest.raises(IndexError, match="no such image"):
        list(parallel.run(pow_of_two, Failing(), workers=Workers(count=count), uses_torch=False))


class Slow(Few):
    """Jobs that take long to be taken; the first one is interrupted meanwhile."""

    def __getitem__(self, at: int) -> int:
        if at == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(at)


def test_a_signal_while_jobs_are_taken_does_not_wait():
    jobs = Slow()
    with pytest.raises(KeyboardInterrupt):
        list(parallel.run(pow_of_two, jobs, workers=Workers(count=2), uses_torch=False))
    assert len(jobs.taken) <= 1


def raises_what_a_job_raises(workers: Workers) -> None:
    with pytest.raises(UserError) as caught:
        list(parallel.run(refused, range(4), workers=workers, uses_torch=False))
    assert str(caught.value) == "job 2 is refused"
    with pytest.raises(Interrupted) as stopped:
        list(parallel.run(interrupted, range(2), workers=workers, uses_torch=False))
    assert (str(stopped.value), stopped.value.exit_code) == ("stopped after step 3; to go on: again", 143)


def survives_deaths(workers: Workers, folder: Path) -> None:
    """A job whose worker dies goes again; one that is lost is told, or ends in one line; the others are right."""

    def runs(name: str) -> int:
        return len([*(folder / "lost").glob(f"{name}-*")])

    for place in ("once", "lost", "ended"):
        (folder / place).mkdir()
    with Pool(workers, uses_torch=False) as pool:
        jobs = [(folder / "once", name) for name in ("a", "once", "b", "c")]
        assert list(pool.run(deadly, jobs)) == ["a", "once", "b", "c"]
        assert len([*(folder / "once").glob("once-*")]) == 2
        jobs = [(folder / "lost", name) for name in ("a", "bad", "b", "c", "d")]
        results = pool.run(deadly, jobs, lost=lambda job: f"{job[1]} is lost")
        assert list(results) == ["a", "bad is lost", "b", "c", "d"]
        assert 2 <= runs("bad") <= 3
        assert all(1 <= runs(name) <= 3 for name in "abcd")
        with pytest.raises(
            OutOfResources, match=r"^a job's worker process died at every attempt, most likely for lack of memory"
        ) as caught:
            list(pool.run(deadly, [(folder / "ended", name) for name in ("bad", "a")]))
        assert str(caught.value).isprintable()
        assert list(pool.run(pow_of_two, range(3))) == [1, 2, 4]


class Plane(ModelSpace):
    """A space of 36 samples."""

    def __init__(self) -> None:
        super().__init__()
        for label in "xy":
            self.add_mutable(nni.choice(label, [*range(6)]))


def searches_as_here(pool: Pool, folder: Path) -> set[int]:
    """A search has the history of this process, whether a worker dies or not; how often the other trials ran."""
    strategy = EvolutionConfig(population_size=6, sample_size=3, mutation_prob=0.4)
    config = SearchConfig(strategy=strategy, max_trials=16, seed=3)

    def history(where: Path, workers: Pool | None, bad: Any = None) -> list[Any]:
        where.mkdir(parents=True)
        trials = search(Plane(), Mortal(where, bad), config, workers=workers)
        return [(trial.index, trial.sample, trial.value, trial.reason, trial.repeats) for trial in trials]

    here = history(folder / "here", None)
    bad = here[7][1]
    assert history(folder / "there", pool) == here
    assert history(folder / "deaths", pool, bad) == here
    runs = Counter(path.name.rpartition("-")[0] for path in (folder / "deaths").iterdir())
    assert runs.pop(f"x{bad['x']}-y{bad['y']}") == 2
    return {*runs.values()}


def test_jobs_come_back_in_order_and_with_the_threads_asked_for(here: dict[str, object]):
    results = here["results"]
    assert isinstance(results, list)
    assert [(index, threads) for index, threads, _ in results] == [(index, 1) for index in range(7)]


def test_processes_change_nothing(here: dict[str, object], tmp_path: Path):
    workers = Workers(count=2)
    assert everything(workers, tmp_path) == here
    raises_what_a_job_raises(workers)


def test_a_process_that_dies_costs_a_second_run(tmp_path: Path):
    survives_deaths(Workers(count=2), tmp_path)
    with Pool(Workers(count=2), uses_torch=False) as pool:
        assert searches_as_here(pool, tmp_path / "searches") <= {1, 2}, "those that ran beside it too"


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_as_they_finish_with_their_positions(count: int):
    with Pool(Workers(count=count), uses_torch=False) as pool:
        assert sorted(pool.as_finished(pow_of_two, [3, 1, 2])) == [(0, 8), (1, 2), (2, 4)]


def test_workers_that_live_at_the_same_time_have_a_slot_each(tmp_path: Path):
    with Pool(Workers(count=2), uses_torch=False) as pool:
        told = set(pool.run(slot, [(tmp_path, slots.folder())] * 4))
    assert sorted(number for _, number in told) == [0, 1]
    assert len({process for process, _ in told}) == 2


def test_a_dask_worker_that_dies_costs_a_second_run(tmp_path: Path):
    pytest.importorskip("distributed", reason="needs the extra: pip install 'dd-apps[dask]'")
    jobs = [(tmp_path, name) for name in ("a", "once", "b")]
    results = parallel.run(deadly, jobs, workers=Workers(count=2, engine="dask"), uses_torch=False)
    assert list(results) == ["a", "once", "b"]
    assert len([*tmp_path.glob("once-*")]) == 2


def test_dask_changes_nothing(here: dict[str, object], tmp_path: Path):
    pytest.importorskip("distributed", reason="needs the extra: pip install 'dd-apps[dask]'")
    workers = Workers(count=2, engine="dask")
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        assert everything(workers, tmp_path) == here
        raises_what_a_job_raises(workers)


def test_ray_changes_nothing(here: dict[str, object], tmp_path: Path):
    ray = pytest.importorskip("ray", reason="needs the extra: pip install 'dd-apps[ray]'")
    workers = Workers(count=2, engine="ray")
    with Pool(workers, uses_torch=False) as pool:
        assert list(pool.run(pow_of_two, range(5))) == [1, 2, 4, 8, 16]
        assert list(parallel.run(pow_of_two, range(2), workers=workers, uses_torch=False)) == [1, 2]
        assert ray.is_initialized(), "a pool within it leaves its Ray alone"
        survives_deaths(workers, tmp_path)
        assert searches_as_here(pool, tmp_path / "searches") == {1}, "only the trial whose worker died runs again"
    assert not ray.is_initialized(), "the Ray that was started for these jobs is gone"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert everything(workers, tmp_path) == here
        raises_what_a_job_raises(workers)
        assert ray.is_initialized(), "somebody else's Ray goes on"
    finally:
        ray.shutdown()


PARENT = """
import sys
from pathlib import Path
from jobs_for_workers import endless
from dd_core.system import parallel
from dd_core.system.parallel import Pool, Workers, slots
list(parallel.run(endless, [Path(sys.argv[1])] * 2, workers=Workers(count=2), uses_torch=False))
"""


def workers_of(session: int) -> list[str]:
    """The worker processes that were started in a session."""
    shown = subprocess.run(
        ["ps", "-A", "-ww", "-o", "sess=,pid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [row.split(maxsplit=3) for row in shown.stdout.splitlines()]
    return [pid for group, pid, state, words in rows if group == str(session) and state[0] != "Z" and "Loky" in words]


@pytest.mark.parametrize("begun", [0, 2])
def test_workers_die_with_their_parent(begun: int, tmp_path: Path):
    """With no job begun, a worker may get none any more, and nobody who would tell it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], start_new_session=True)
    while not workers_of(parent.pid) or len(list(tmp_path.iterdir())) < begun:
        assert parent.poll() is None
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    patience = time.monotonic() + 60
    while orphans := workers_of(parent.pid):
        if time.monotonic() > patience:
            os.killpg(parent.pid, signal.SIGKILL)
            pytest.fail(f"orphans go on: {orphans}")
        time.sleep(0.05)
