"""stdout and stderr as a shell may leave them: files are kept, and the exit code says what became of the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dd_core import store
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.recipe import Recipe

ROOT = Path(__file__).parents[2]
DISTILL = "distill random --data digits --ipc 1 --out set.safetensors"


@pytest.fixture
def shell(tmp_path: Path):
    """Run a line of bash in which `dd-apps` is ours, in an empty folder: (exit code, stdout, stderr)."""

    def run(line: str, **environment: str) -> tuple[int, bytes, bytes]:
        paths = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DD_APPS_CACHE": str(tmp_path / "cache")}
        own |= {"PYTHONUNBUFFERED": ""}  # as usual, what is printed waits in a buffer
        define = f'dd-apps() {{ "{sys.executable}" -m dd_apps.cli "$@"; }}; '
        words = ["bash", "-c", define + line]
        done = subprocess.run(words, capture_output=True, cwd=tmp_path, env={**os.environ, **own, **environment})
        return done.returncode, done.stdout, done.stderr

    return run


def two_images() -> tuple[np.ndarray, np.ndarray, Manifest]:
    pixels = Pixels(space="raw", mean=(0.5,), std=(0.25,))
    manifest = Manifest(classes=("a", "b"), pixels=pixels, recipe=Recipe(network="lenet"))
    return np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]), manifest


FULL = b"error: stdout: No space left on device; the answer is lost, and what was written to files is kept\n"


@pytest.mark.parametrize("words", ["artefacts list", "artefacts list --json", "--help"])
def test_a_full_disk_under_stdout_is_one_line(shell, words: str):
    assert shell(f"dd-apps {words} > /dev/full") == (4, b"", FULL)


def test_the_set_is_kept_where_the_answer_is_lost(shell, tmp_path: Path):
    code, _, err = shell(f"dd-apps {DISTILL} --json > /dev/full")
    assert (code, err) == (4, FULL)
    assert len(store.read_set(tmp_path / "set.safetensors")) == 10
    assert (tmp_path / "set.run/run.json").exists()


def test_closed_streams_cost_nothing_and_no_file_takes_their_place(shell, tmp_path: Path):
    store.write_set(tmp_path / "a.safetensors", DistilledSet(*two_images()))
    assert shell("dd-apps inspect a.safetensors --png a.png")[0] == 0
    drawn = (tmp_path / "a.png").read_bytes()
    assert shell("dd-apps inspect a.safetensors --png a.png --json <&- >&- 2>&-") == (0, b"", b"")
    assert (tmp_path / "a.png").read_bytes() == drawn


@pytest.mark.parametrize("streams", [">&- 2>&-", "2> /dev/full"])
def test_what_was_wrong_is_in_the_exit_code_without_stderr(shell, streams: str):
    code, out, _ = shell(f"dd-apps verify none.safetensors {streams}")
    assert (code, out) == (2, b"")


def test_an_error_is_not_printed_to_stdout_where_stderr_is_closed(shell):
    assert shell("dd-apps verify none.safetensors 2>&-")[:2] == (2, b"")


def test_a_run_outlives_the_reader_of_its_progress(shell, tmp_path: Path):
    """`| head -1` of stdout and stderr together ends before the run does."""
    settings = "--set steps=3 --set batch_real=4 --set recipe.network=convnet-1-w4"
    line = f"dd-apps {DISTILL.replace('random', 'dm')} {settings} 2>&1 | true; exit ${{PIPESTATUS[0]}}"
    assert shell(line)[0] == 0
    assert len(store.read_set(tmp_path / "set.safetensors")) == 10


def test_the_next_line_can_be_pasted_in_a_locale_without_its_letters(shell, tmp_path: Path):
    code, out, err = shell(f"dd-apps {DISTILL.replace('set.safe', 'café€.safe')}", PYTHONIOENCODING="ascii")
    assert code == 0, err
    (line,) = [line for line in out.decode("ascii").splitlines() if line.startswith("next")]
    code, out, err = shell(f"{line.removeprefix('next').partition(';')[0].strip()} --json")
    assert code == 0, err
    assert json.loads(out)["images"] == 10
    assert (tmp_path / "images.png").exists()
