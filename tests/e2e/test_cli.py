"""The command line as a user meets it: a process of its own. Few, because each imports torch anew."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dd_core import store
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.recipe import Recipe

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "avalanche", "nni", "timm", "matplotlib", "sklearn", "ray", "joblib", "scipy")
ASK = """
import json, sys
from dd_apps.cli import main
commands, heavy = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = []
for command in commands:
    code = main(command)
    found.append([command, code, [name for name in heavy if name in sys.modules]])
print(json.dumps(found), file=sys.stderr)
"""
DD_APPS = [sys.executable, "-m", "dd_apps.cli"]


@pytest.fixture(autouse=True)
def _one_thread_and_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DD_APPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "core"), str(ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def write_a_set(path: Path) -> None:
    pixels = Pixels(space="raw", mean=(0.5,), std=(0.25,))
    manifest = Manifest(classes=("a", "b"), pixels=pixels, recipe=Recipe(network="lenet"))
    store.write_set(path, DistilledSet(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]), manifest))


def test_light_verbs_load_nothing_heavy(tmp_path: Path):
    write_a_set(tmp_path / "a.safetensors")
    commands = [
        ["--help"],
        ["distill", "--help"],
        *(["list", kind] for kind in ("datasets", "methods", "networks", "protocols", "scenarios")),
        ["list", "methods", "dm"],
        ["list", "scenarios", "quickstart"],
        ["inspect", "a.safetensors", "--png", "a.png"],
        ["inspect", "a.safetensors", "--json"],
        ["verify", "a.safetensors"],
        ["artefacts", "list"],
        ["artefacts", "prune"],
    ]
    asked = [sys.executable, "-c", ASK, json.dumps(commands), json.dumps(HEAVY)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    found = json.loads(done.stderr.splitlines()[-1])
    assert found == [[command, 0, []] for command in commands]
    assert (tmp_path / "a.png").exists()


def test_mistakes_found_before_torch_is_needed(tmp_path: Path):
    (tmp_path / "mine.toml").write_text(
        'task = "distill"\ndata = "digits"\nipc = 1\n[method]\nname = "dm"\nsyn_stps = 1\n'
    )
    write_a_set(tmp_path / "a.safetensors")
    commands = [
        ["distil"],
        ["run", "mine.toml"],
        ["run", "nothing"],
        ["distill", "dm", "--data", "digits", "--ipc", "1", "--out", "b.safetensors", "--set", "stps=1"],
        ["evaluate", "a.safetensors", "--protocol", "none"],
        ["evaluate", "a.safetensors", "--network", "none"],
    ]
    asked = [sys.executable, "-c", ASK, json.dumps(commands), json.dumps(HEAVY)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    *lines, found = done.stderr.splitlines()
    assert json.loads(found) == [[command, 2, []] for command in commands]
    assert len(lines) == len(commands)
    assert all(line.startswith("error: ") for line in lines)
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["list", "networks"], ["list", "networks", "--json"], ["--help"]])
def test_output_cut_short_is_no_error(words: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([*DD_APPS, *words], stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no address space")
def test_a_process_that_may_take_too_little_memory_says_so():
    command = [sys.executable, "-m", "dd_apps", "--version"]

    def limited(mebi: int) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-c", f'ulimit -v {mebi * 1024} && exec "$@"', "bash", *command]
        return subprocess.run(words, capture_output=True, text=True)

    done = limited(80)
    line = "error: this process may take 80 MiB of memory (`ulimit -v`), and dd-apps needs 200 MiB to start\n"
    assert (done.returncode, done.stdout, done.stderr) == (4, "", line)
    done = limited(1024)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dd-apps ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_and_the_command_to_resume_is_printed(tmp_path: Path, number: signal.Signals, code: int):
    command = ["distill", "dm", "--data", "digits", "--ipc", "1", "--out", "a set.safetensors"]
    command += ["--set", "recipe.network=convnet-1-w8", "--set", "batch_real=8", "--set", "steps=100000"]
    running = subprocess.Popen([*DD_APPS, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "a set.run" / "metrics.jsonl"
    while running.poll() is None and len(store.read_lines(metrics)) < 3:
        time.sleep(0.01)
    running.send_signal(number)
    out, err = running.communicate()
    assert (running.returncode, out) == (code, "")
    line = err.splitlines()[-1]
    assert line.startswith("error: stopped after step ")
    assert shlex.split(line.partition("; to go on: ")[2]) == ["dd-apps", *command]
    assert list((tmp_path / "a set.run").glob("checkpoint-*.safetensors"))


def test_a_small_quickstart(tmp_path: Path):
    settings = ["orders=1", "experiences=2", 'rows=["distilled", "k-means", "real"]', "method.steps=1"]
    settings += ["retraining.epochs=1", "replay.epochs=1", "network=convnet-2-w8", "method.recipe.network=convnet-2-w8"]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [*DD_APPS, "run", "quickstart", *words, "--workers", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [*found["results"]][:2] == ["retraining", "replay"]
    assert [row["row"] for row in found["results"]["replay"]] == ["dm", "k-means", "real"]
    report = Path(found["report"]).read_text()
    assert all(heading in report for heading in ("## retraining", "## replay", "![dm](dm.png)"))
    plots = {f"{table}-{kind}.png" for table in ("retraining", "replay") for kind in ("matrices", "curves", "bytes")}
    assert {Path(picture).name for picture in found["pictures"]} == {"k-means.png", "dm.png", "real.png", *plots}
    assert all((tmp_path / picture).stat().st_size > 0 for picture in found["pictures"])
    kept = store.read_set(Path(found["report"]).with_name("dm.safetensors"))
    assert kept.images.dtype == np.uint8
    assert store.read_json(Path(found["figures"]))["scenario"]["orders"] == 1
