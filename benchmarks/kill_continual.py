"""kill -9 a continual-learning run again and again: are tables, matrices and memories those of an undisturbed run?

`kill.py` runs this: `dd-apps run` of the scenario below, seven memories and strategies in two class orders. Half of the
kills come at a random time, from outside, to two workers at once. The other half are aimed: one process does all the
work, and kills itself before, within or after the n-th open, write, fsync or rename of its store. After each kill the
same command runs again. The undisturbed run has one worker. A negative control shows that another seed gives other
tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kill_search import was_killed

ROWS = 7
SCENARIO = """
task = "continual"
data = "digits"
experiences = 3
orders = 2
images_per_class = 2
network = "convnet-1-w8"
rows = ["distilled", "hybrid", "soft", "again", "real", "der", "er-ace"]

[method]
name = "dm"
steps = 30
batch_real = 16
recipe.network = "convnet-1-w8"

[row]
hybrid = { memory = "hybrid" }
soft = { labels = "network", budget = "images" }
again = { adaptive = true, shrinking = "distil" }
der = { memory = "class-balanced", strategy = "der", budget = "images" }
er-ace = { strategy = "er-ace", training = { tuning_epochs = 2 } }

[retraining]
epochs = 20

[replay]
epochs = 2
"""
CLOCKS = ("seconds", "distilling", "storing", "training", "times real")  # columns that no two runs have alike
MOMENTS = 400  # of the kills that are aimed: a run has about as many
NEVER = 10**9  # a write that a process does not come to


def measure(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """The outcome of runs that were killed `kills` times in all."""
    begun, draw = time.monotonic(), random.Random(seed)
    whole, lasted = _finished(folder / "whole")
    other, _ = _finished(folder / "other", seed=1)
    killed: list[tuple[str, int]] = []
    runs = differing = lost = 0
    while len(killed) < kills:
        place = folder / f"run-{runs}"
        runs += 1
        kept = 0
        while len(killed) < kills and not _results(place).exists():
            how = "aimed" if len(killed) % 2 else "random"
            moment, seconds = (draw.randrange(MOMENTS), None) if how == "aimed" else (NEVER, lasted * draw.random())
            if not _run(place, moment=moment, seconds=seconds, workers=1 if how == "aimed" else 2):
                continue
            jobs = len([*place.rglob("job-*.json")])
            lost, kept = lost + (jobs < kept), jobs
            killed.append((how, jobs))
            print(f"kill {len(killed)}: {how}, after {jobs} of {2 * ROWS} jobs", file=sys.stderr, flush=True)
        differing += _finished(place)[0] != whole
        assert not list(place.rglob(".*.tmp")), "a temporary file is left"
    return {
        "killed": f"dd-apps run: the digits in 3 experiences, {ROWS} rows, 2 class orders",
        "kills": len(killed),
        "aimed": sum(how == "aimed" for how, _ in killed),
        "after_jobs": [jobs for _, jobs in killed],
        "runs": runs,
        "lost": lost,
        "differing": differing,
        "control_differs": other["tables"] != whole["tables"],
        "seconds": round(time.monotonic() - begun, 1),
    }


def outcome(folder: Path) -> dict[str, Any]:
    """The results of a run without its seconds: tables, accuracy matrices, and a digest of each memory."""
    found = json.loads(_results(folder).read_text())
    tables = {
        name: [{column: value for column, value in row.items() if column not in CLOCKS} for row in rows]
        for name, rows in found["results"].items()
    }
    memories = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    return {"tables": tables, "matrices": found["matrices"], "memories": memories}


def _results(folder: Path) -> Path:
    return folder / "results.json"


def _finished(folder: Path, *, seed: int = 0) -> tuple[Mapping[str, Any], float]:
    """Run to the end; what was found, and the seconds that it took."""
    begun = time.monotonic()
    if _run(folder, seed=seed) or not _results(folder).exists():
        sys.exit(f"a run failed: {_errors(folder).read_text()}")
    return outcome(folder), time.monotonic() - begun


def _errors(folder: Path) -> Path:
    return folder.with_suffix(".errors")


def _run(folder: Path, *, seed: int = 0, moment: int = NEVER, seconds: float | None = None, workers: int = 1) -> bool:
    """The command in a session of its own, which may kill itself at a write, or be killed; whether it was killed."""
    scenario = folder.with_suffix(".toml")
    scenario.write_text(SCENARIO)
    with open(_errors(folder), "w") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, str(moment), str(scenario), str(folder), str(seed), str(workers)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        return was_killed(process)


def main() -> None:
    """Run the command line in this process, which kills itself at the given write."""
    moment, scenario, folder, seed, workers = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
    from faulty_disk import KillAt, watched

    from dd_apps.cli import main as dd_apps

    with watched(KillAt(int(moment))):
        sys.exit(dd_apps(["run", scenario, "--out", folder, "--set", f"seed={seed}", "--workers", workers]))


if __name__ == "__main__":
    main()
