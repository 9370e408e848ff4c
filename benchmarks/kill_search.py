"""kill -9 an architecture search with a journal again and again: is its history that of an undisturbed search?

`kill.py` runs this. The search is in a process of its own, with two workers: regularized evolution over the 720
ConvNets, whose trials note in a file that they have ended. Half of the kills come at a random time, from outside; the
other half are aimed at the journal: the process kills itself before, within or after the n-th open, write, fsync or
rename. A trial that is in the journal must stay there and never run again. One that ended in its worker before the
journal had it does run again, which is counted apart. A negative control shows that another seed gives another history.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dd_core import store

RELIABILITY = Path(__file__).resolve().parents[1] / "tests" / "reliability"
TRIALS, BATCH, WORKERS = 40, 4, 2
MOMENTS = 32  # of the kills that are aimed: the start of a journal has 12 moments, and each record 4

Line = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What the disk holds when all processes of a search are gone: the journal's records, and the samples that ended.

    cut: whether the journal ends within a line.
    """

    records: Sequence[Line]
    ended: Sequence[Line]
    cut: bool = False

    def samples(self) -> set[str]:
        """The samples of the records."""
        return {_text(record["sample"]) for record in self.records}


def measure(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """The outcome of searches that were killed `kills` times in all."""
    begun, draw = time.monotonic(), random.Random(seed)
    whole = finish(folder / "whole")
    other = finish(folder / "other", seed=1)
    killed: list[Line] = []
    searches, counts = 0, Counter[str](lost=0, run_again=0, ended_unrecorded=0, differing=0)
    while len(killed) < kills:
        search = folder / f"search-{searches}"
        searches += 1
        states = [State((), ())]
        while len(killed) < kills and not _history(search).exists():
            how = "aimed" if len(killed) % 2 else "random"
            if kill_aimed(search, draw) if how == "aimed" else kill_at_random(search, draw):
                states.append(state(search))
                killed.append({"how": how, "trials": len(states[-1].records), "cut": states[-1].cut})
                print(f"kill {len(killed)}: {how}, after {killed[-1]['trials']} trials", file=sys.stderr, flush=True)
        counts["differing"] += finish(search) != whole
        counts.update(judged([*states, state(search)]))
    return {
        "killed": f"a search by evolution, {TRIALS} trials in batches of {BATCH}, {WORKERS} workers",
        "kills": len(killed),
        "aimed": sum(kill["how"] == "aimed" for kill in killed),
        "after_trials": [kill["trials"] for kill in killed],
        "cut_lines": sum(kill["cut"] for kill in killed),
        "searches": searches,
        **counts,
        "control_differs": other != whole,
        "seconds": round(time.monotonic() - begun, 1),
    }


def judged(states: Sequence[State]) -> dict[str, int]:
    """What went wrong from each state of a search to the next: records that are lost, and recorded trials that ran.

    ended_unrecorded: trials that had ended before a kill, ran again after it, and were in no record between.
    """
    lost = run_again = ended_unrecorded = 0
    for before, after in pairwise(states):
        lost += sum(record not in after.records for record in before.records)
        ran = [_text(sample) for sample in after.ended[len(before.ended) :]]
        run_again += sum(sample in before.samples() for sample in ran)
        ended = {_text(sample) for sample in before.ended} - before.samples()
        ended_unrecorded += sum(sample in ended for sample in ran)
    return {"lost": lost, "run_again": run_again, "ended_unrecorded": ended_unrecorded}


def _text(sample: object) -> str:
    return json.dumps(sample, sort_keys=True)


# --- the search ------------------------------------------------------------------------------------------------------


def run(folder: Path, *, seed: int, moment: int | None) -> None:
    """The search in this process, which with a `moment` kills itself when the journal has come to it."""
    sys.path.insert(0, str(RELIABILITY))
    from faulty_disk import KillAt, watched
    from killed_trials import Trial

    from dd_apps.nas import spaces
    from dd_apps.nas.search import search
    from dd_apps.nas.strategies import EvolutionConfig, SearchConfig
    from dd_core.system.parallel import Pool, Workers

    space = spaces.ConvNetSpace(in_channels=1, classes=10, image_size=(32, 32))
    strategy = EvolutionConfig(population_size=10, sample_size=4, mutation_prob=0.3)
    config = SearchConfig(strategy=strategy, max_trials=TRIALS, batch=BATCH, seed=seed)
    trial, identity = Trial(str(folder / "ended.jsonl")), {"value": "digest of the sample"}
    disk = nullcontext() if moment is None else watched(KillAt(moment))
    with disk, Pool(Workers(count=WORKERS), uses_torch=False) as pool:
        history = search(space, trial, config, workers=pool, journal=folder / "journal", identity=identity)
    fields = ("index", "sample", "value", "reason", "repeats")
    trials = [{name: getattr(trial, name) for name in fields} for trial in history]
    store.write_json(_history(folder), trials)


def finish(folder: Path, *, seed: int = 0) -> list[Line]:
    """Search to the end: the history, all but the seconds."""
    if code := start(folder, seed=seed).wait():
        sys.exit(f"a search failed with {code}: {(folder / 'errors.txt').read_text()}")
    return store.read_json(_history(folder))


def kill_at_random(folder: Path, draw: random.Random) -> bool:
    """Start, kill from outside a few trials on; False where the search ended before."""
    target = len(recorded(folder)) + draw.randrange(1, 5)
    process = start(folder)
    while process.poll() is None and len(recorded(folder)) < target:
        time.sleep(0.002)
    time.sleep(draw.random() * 0.1)
    process.send_signal(signal.SIGKILL)
    return was_killed(process)


def kill_aimed(folder: Path, draw: random.Random) -> bool:
    """Start, and let the search kill itself at one of its next moments of writing."""
    return was_killed(start(folder, moment=draw.randrange(MOMENTS)))


def start(folder: Path, *, seed: int = 0, moment: int | None = None) -> subprocess.Popen[bytes]:
    """The search in a session of its own, to which its workers will belong."""
    folder.mkdir(exist_ok=True)
    words = [str(folder), "--seed", str(seed), *([] if moment is None else ["--moment", str(moment)])]
    with open(folder / "errors.txt", "w") as errors:
        command = [sys.executable, __file__, *words]
        return subprocess.Popen(command, stderr=errors, stdout=subprocess.DEVNULL, start_new_session=True)


def was_killed(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the search and for its workers, which may end a trial yet; whether it was killed."""
    process.wait()
    while _session(process.pid):
        time.sleep(0.02)
    return process.returncode == -signal.SIGKILL


def _session(number: int) -> list[str]:
    """The processes of a session."""
    shown = subprocess.run(["ps", "-A", "-o", "sess=,stat="], capture_output=True, text=True, check=True)
    return [row for row in shown.stdout.splitlines() if row.split()[0] == str(number) and row.split()[1][0] != "Z"]


# --- what is on disk -------------------------------------------------------------------------------------------------


def state(folder: Path) -> State:
    """What the disk holds."""
    path = _journal(folder)
    cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    return State(recorded(folder), store.read_lines(folder / "ended.jsonl"), cut)


def recorded(folder: Path) -> list[Line]:
    """The records of the journal."""
    return store.read_lines(_journal(folder))


def _journal(folder: Path) -> Path:
    return folder / "journal" / "records.jsonl"


def _history(folder: Path) -> Path:
    return folder / "history.json"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The search that is killed.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moment", type=int)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run(given.folder, seed=given.seed, moment=given.moment)
