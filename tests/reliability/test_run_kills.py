"""Worker processes of the command line: they end with it, and the same command again finds what nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dd_apps import scenario
from dd_apps.cli import main
from dd_apps.continual import ContinualScenario, run
from dd_core import store
from dd_core.runner import RunOptions
from dd_core.system.parallel import Workers

SCENARIO = """
task = "continual"
data = "digits"
experiences = 2
orders = 2
network = "convnet-1-w4"
rows = ["distilled"]

[method]
name = "dm"
steps = 150
batch_real = 6
recipe.network = "convnet-1-w4"

[retraining]
epochs = 2

[replay]
epochs = 1
"""
COMPARE = """
task = "compare"
data = "digits"
ipcs = [1]
networks = ["convnet-1-w4"]
seeds = 4
baselines = ["random", "average"]
[methods.dm]
steps = 2
batch_real = 8
recipe = { network = "convnet-1-w4", epochs = 60 }
"""
DD_APPS = [sys.executable, "-m", "dd_apps.cli"]
COMMAND = ["run", "tiny.toml", "--workers", "2", "--json"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SCENARIO)


def under_way() -> set[Path]:
    """The sets that are a few steps along."""
    logs = Path("runs/tiny/work").rglob("metrics.jsonl")
    return {log.parent for log in logs if len(store.read_lines(log)) >= 3}


def figures(tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [{**row, "seconds": None} for row in rows] for name, rows in tables.items()}


def start(words: list[str]) -> subprocess.Popen[str]:
    """A command line in a session of its own, to which its workers will belong."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*DD_APPS, *words], start_new_session=True, **pipes)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


def processes_of(session: int) -> list[str]:
    """The numbers of the processes that were started in a session."""
    shown = subprocess.run(["ps", "-A", "-o", "sess=,pid=,stat="], capture_output=True, text=True, check=True)
    rows = [row.split() for row in shown.stdout.splitlines()]
    return [number for group, number, state in rows if group == str(session) and not state.startswith("Z")]


def require_no_orphans(process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + 60
    while orphans := processes_of(process.pid):
        if time.monotonic() > patience:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"orphans go on: {orphans}")
        time.sleep(0.05)


def test_the_same_command_goes_on_after_a_kill(tmp_path: Path):
    killed = start(COMMAND)
    wait_until(lambda: len(under_way()) >= 2, killed)  # of four: a look may come after the third has begun
    killed.kill()
    killed.wait()
    require_no_orphans(killed)
    done = subprocess.run([*DD_APPS, *COMMAND], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = scenario.load("tiny.toml").values
    assert isinstance(values, ContinualScenario)
    undisturbed = run(values, folder=tmp_path / "other", workers=Workers(count=1))
    found = json.loads(done.stdout)["results"]
    assert figures({table: found[table] for table in undisturbed.tables}) == figures(undisturbed.tables)


def test_finished_jobs_of_a_continual_run_are_kept_and_the_others_go_on_after_a_kill(tmp_path: Path):
    rows = 'rows = ["distilled", "er", "der"]\nworkers = 1\n[row.er]\nmemory = "reservoir"\n'
    rows += '[row.der]\nmemory = "class-balanced"\nstrategy = "der"\nimages_per_class = 3\n'
    text = SCENARIO.replace('rows = ["distilled"]\n', rows)
    for before, after in (("steps = 150", "steps = 3"), ("orders = 2", "orders = 1"), ("epochs = 2", "epochs = 40")):
        text = text.replace(before, after)
    (tmp_path / "tiny.toml").write_text(text)
    killed, kept = start([*COMMAND[:-3], "--json"]), lambda: sorted(Path("runs/tiny/work").rglob("job-*.json"))
    wait_until(lambda: len(kept()) >= 1, killed)
    killed.kill()
    killed.wait()
    require_no_orphans(killed)
    before = {path: path.stat().st_mtime_ns for path in kept()}
    assert 1 <= len(before) < 3, "three rows"
    done = subprocess.run([*DD_APPS, *COMMAND], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(kept()) == 3
    values = scenario.load("tiny.toml").values
    assert isinstance(values, ContinualScenario)
    undisturbed = run(values, folder=tmp_path / "other", workers=Workers(count=1))
    found = json.loads(done.stdout)["results"]
    assert figures({table: found[table] for table in undisturbed.tables}) == figures(undisturbed.tables)


def test_the_cells_of_a_comparison_are_kept_after_a_kill_and_workers_change_no_figure(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(COMPARE)
    journal = Path("runs/tiny") / "work" / "cells" / "records.jsonl"
    killed = start(COMMAND)
    wait_until(lambda: len(store.read_lines(journal)) >= 3, killed)
    killed.kill()
    killed.wait()
    require_no_orphans(killed)
    before = store.read_lines(journal)
    assert 3 <= len(before) < 12, "twelve cells"
    done = subprocess.run([*DD_APPS, *COMMAND], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"12 cells to score (1 method x 3 rows x 1 size x 1 network x 4 seeds), {len(before)} kept" in done.stderr
    after = store.read_lines(journal)
    assert (after[: len(before)], len(after)) == (before, 12)
    values = scenario.load("tiny.toml").values
    undisturbed = values.run(tmp_path / "other", RunOptions(device="cpu", threads=1))
    found = json.loads(done.stdout)["results"]
    assert {table.title: table.plain() for table in undisturbed.tables[:2]} == {
        table.title: found[table.title] for table in undisturbed.tables[:2]
    }


def test_an_evaluation_goes_on_after_a_kill_from_the_networks_that_were_finished(capsys):
    words = ["distill", "random", "--data", "digits", "--ipc", "5", "--set", "recipe.network=convnet-1-w8"]
    assert main([*words, "--set", "recipe.epochs=20", "--out", "a.safetensors"]) == 0
    words = ["evaluate", "a.safetensors", "--nets", "4", "--json"]
    killed = start([*words, "--workers", "2"])
    wait_until(lambda: len([*Path("cache/scores").glob("*.json")]) >= 2, killed)
    killed.kill()
    killed.wait()
    require_no_orphans(killed)
    before = {path: path.stat().st_mtime_ns for path in Path("cache/scores").glob("*.json")}
    done = subprocess.run([*DD_APPS, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 8 are kept from an earlier call" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    capsys.readouterr()
    assert main([*words, "--fresh"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(done.stdout)


def test_sigterm_ends_the_workers_too():
    assert main(["distill", "random", "--data", "digits", "--ipc", "1", "--out", "a.safetensors"]) == 0
    words = ["evaluate", "a.safetensors", "--nets", "1000", "--workers", "2", "--json"]
    stopped = start(words)
    wait_until(lambda: len(processes_of(stopped.pid)) >= 3, stopped)
    stopped.send_signal(signal.SIGTERM)
    stopped.wait(60)
    require_no_orphans(stopped)
    out, err = stopped.communicate()
    line = f"interrupted; to go on: dd-apps {' '.join(words)}"
    assert (stopped.returncode, json.loads(out)) == (143, {"error": line, "exit_code": 143})
    # joblib's resource tracker, a process of its own, may still write its warning after our line
    assert err.splitlines().count(f"error: {line}") == 1
    assert "please report" not in err
