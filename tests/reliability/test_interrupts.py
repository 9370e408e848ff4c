"""SIGTERM and Ctrl-C: the step finishes, the state is kept, the resume command is said, the exit code is right."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from killing import INTERRUPTED_AT_ONCE, Server, command, ended, patient, stoppable, wait_for

from dd_core import store

LONG: dict[str, Any] = {"name": "dm", "steps": 150, "batch_real": 6, "recipe": {"network": "convnet-1-w4"}}
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("undisturbed") / "set.safetensors"
    assert server.run(stoppable, out, LONG, out.with_name("said")) == 0
    return store.file_sha256(out)


def steps_done(out: Path) -> list[int]:
    return [record["step"] for record in store.read_lines(out.with_suffix(".run") / "metrics.jsonl")]


def interrupted(process: ForkServerProcess, out: Path, number: int) -> int:
    """The exit code of a process that gets a signal once it has done a few steps."""
    wait_for(lambda: len(steps_done(out)) >= 3, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    return ended(process)


@pytest.mark.parametrize("number", CODES)
def test_a_signal_stops_a_run_at_a_steps_end(server: Server, tmp_path: Path, undisturbed: str, number: int):
    out, said = tmp_path / "set.safetensors", tmp_path / "said"
    assert interrupted(server.start(stoppable, out, LONG, said), out, number) == CODES[signal.Signals(number)]
    done = steps_done(out)
    assert 3 <= len(done) < LONG["steps"]
    assert said.read_text() == f"stopped after step {len(done)} of 150; to go on: the very same command"
    checkpoints = [path.name for path in out.with_suffix(".run").glob("checkpoint-*")]
    assert checkpoints == [f"checkpoint-{len(done):08d}.safetensors"]
    assert server.run(stoppable, out, LONG, said) == 0
    assert store.file_sha256(out) == undisturbed
    assert steps_done(out) == list(range(150))


def test_a_second_ctrl_c_does_not_wait_for_the_step(server: Server, tmp_path: Path):
    begun, never = tmp_path / "begun", tmp_path / "never"
    process = server.start(patient, tmp_path / "set.safetensors", begun, never, tmp_path / "said")
    wait_for(begun.exists, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(0.5)
    assert process.is_alive(), "the first Ctrl-C lets the step finish"
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == INTERRUPTED_AT_ONCE


@pytest.mark.parametrize("number", CODES)
def test_the_command_line_says_how_to_go_on(server: Server, tmp_path: Path, number: int):
    out = tmp_path / "a folder" / "set.safetensors"
    settings = ["--set", "steps=100000", "--set", "batch_real=8", "--set", "recipe.network=convnet-1-w4"]
    words = ["distill", "dm", "--data", "digits", "--ipc", "1", *settings, "--fresh", "--out", str(out)]
    stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
    process = server.start(command, words, tmp_path / "cache", stdout, stderr)
    assert interrupted(process, out, number) == CODES[signal.Signals(number)]
    last = stderr.read_text().splitlines()[-1]
    assert last.startswith(f"error: stopped after step {len(steps_done(out))} of 100000; to go on: dd-apps distill dm")
    assert last.endswith(f"--out '{out}'")
    assert "--fresh" not in last
    assert stdout.read_text() == ""


@pytest.mark.parametrize("number", CODES)
def test_a_signal_outside_the_loop_is_answered_in_one_line(server: Server, tmp_path: Path, number: int):
    out, stdout, stderr = tmp_path / "a set.safetensors", tmp_path / "stdout", tmp_path / "stderr"
    made = ["distill", "random", "--data", "digits", "--ipc", "1", "--out", str(out)]
    assert server.run(command, made, tmp_path / "cache", tmp_path / "made", tmp_path / "said") == 0
    words = ["evaluate", str(out), "--nets", "1000", "--json"]
    process = server.start(command, words, tmp_path / "cache", stdout, stderr)
    wait_for(lambda: stderr.exists() and "random real images\n" in stderr.read_text(), process)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert ended(process) == CODES[signal.Signals(number)]
    line = f"interrupted; to go on: dd-apps evaluate '{out}' --nets 1000 --json"
    assert stderr.read_text().splitlines()[-1] == f"error: {line}"
    assert json.loads(stdout.read_text()) == {"error": line, "exit_code": CODES[signal.Signals(number)]}


CONTINUAL = """
task = "continual"
data = "digits"
orders = 1
network = "convnet-1-w4"
rows = ["distilled"]
method = {name = "dm", steps = 100000, batch_real = 6, recipe.network = "convnet-1-w4"}
"""


def test_a_signal_in_a_job_of_a_run_names_the_users_own_command(server: Server, tmp_path: Path):
    (tmp_path / "mine.toml").write_text(CONTINUAL)
    words = ["run", f"{tmp_path}/mine.toml", "--out", f"{tmp_path}/here", "--workers", "1"]
    process = server.start(command, words, tmp_path / "cache", tmp_path / "stdout", tmp_path / "stderr")
    wait_for(lambda: any((tmp_path / "here").rglob("metrics.jsonl")), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 143
    last = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert last == f"error: interrupted; to go on: dd-apps {' '.join(words)}"
