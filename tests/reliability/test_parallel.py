"""Who runs the jobs changes nothing: this process, local processes, or a real local Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs_for_workers import interrupted, pow_of_two, refused, uneven

from dd_core import artefacts
from dd_core.distilled import Size
from dd_core.errors import Interrupted, UserError
from dd_core.evaluation import evaluate
from dd_core.methods import method
from dd_core.recipe import Recipe, StartingPool
from dd_core.runner import distill
from dd_core.system import parallel
from dd_core.system.parallel import Workers
from dd_core.testing import blobs
from dd_core.training.starts import spec_of


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


def raises_what_a_job_raises(workers: Workers) -> None:
    with pytest.raises(UserError) as caught:
        list(parallel.run(refused, range(4), workers=workers, uses_torch=False))
    assert str(caught.value) == "job 2 is refused"
    with pytest.raises(Interrupted) as stopped:
        list(parallel.run(interrupted, range(2), workers=workers, uses_torch=False))
    assert (str(stopped.value), stopped.value.exit_code) == ("stopped after step 3; to go on: again", 143)


def test_jobs_come_back_in_order_and_with_the_threads_asked_for(here: dict[str, object]):
    results = here["results"]
    assert isinstance(results, list)
    assert [(index, threads) for index, threads, _ in results] == [(index, 1) for index in range(7)]


def test_processes_change_nothing(here: dict[str, object], tmp_path: Path):
    workers = Workers(count=2)
    assert everything(workers, tmp_path) == here
    raises_what_a_job_raises(workers)


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
    squares = list(parallel.run(pow_of_two, range(5), workers=workers, uses_torch=False))
    assert squares == [1, 2, 4, 8, 16]
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
from dd_core.system.parallel import Workers
list(parallel.run(endless, [Path(sys.argv[1])] * 2, workers=Workers(count=2), uses_torch=False))
"""


def is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_die_with_their_parent(tmp_path: Path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    patience = time.monotonic() + 60
    try:
        while any(map(is_running, workers)):
            assert time.monotonic() < patience, "orphans go on"
            time.sleep(0.05)
    finally:
        for number in filter(is_running, workers):
            os.kill(number, signal.SIGKILL)
