"""kill -9 every method and task again and again: is all that they leave what undisturbed commands leave?

`kill.py` runs this. Each job of `kill_jobs.py` has a folder and a cache of its own. Half of the kills come at a random
time, from outside; the other half are aimed: the process kills itself before, within or after one of its store's writes
(`tests/reliability/faulty_disk.py`). After each kill the same commands run again, until they end. Then the sets, every
part of every artefact, and all that was printed or reported, but for clocks, are compared with what one undisturbed run
left. A negative control has another seed.

Processes are forked from a server that has imported everything, so that a start takes no seconds; in all else they are
the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import os
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from kill_jobs import JOBS, Job

from dd_core import store

NEVER = 10**9  # a write that a process does not come to
KILLED = -9
# keys of what no two runs have alike: times, and the memory of a process
CLOCK = re.compile(
    r"second|minute|peak_memory|^(distilling|making( a set)?|storing|training|times real|when)$|^time\b|\btime$"
)


def measure(kills: int, seed: int, folder: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """What became of all jobs, which were killed `kills` times in all."""
    begun, draw, server = time.monotonic(), random.Random(seed), _server()
    chosen = {name: JOBS[name] for name in names or JOBS}
    each = math.ceil(kills / len(chosen))
    rows: dict[str, dict[str, Any]] = {}
    for number, (name, job) in enumerate(chosen.items()):
        rows[name] = _killed(job, each, draw, folder / f"{number:02d}", server)
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    total = {
        key: sum(row[key] for row in rows.values()) for key in ("kills", "aimed", "runs", "differing", "leftovers")
    }
    return {
        "killed": "each method and task in a small form, on the digits",
        **total,
        "control_differs": all(row["control_differs"] for row in rows.values()),
        "jobs": rows,
        "seconds": round(time.monotonic() - begun, 1),
    }


def _killed(job: Job, kills: int, draw: random.Random, folder: Path, server: ForkServerContext) -> dict[str, Any]:
    """One job, killed so many times; an interrupted run goes on until it ends, and then another one begins."""
    whole, moments = _finished(job, folder / "whole", server)
    begun = time.monotonic()
    other, _ = _finished(job, folder / "other", server, seed=1)
    lasted = time.monotonic() - begun  # of the second run: the server may have started for the first
    counts = {"kills": 0, "aimed": 0, "runs": 0, "differing": 0, "leftovers": 0}
    while counts["kills"] < kills:
        place = folder / f"run-{counts['runs']}"
        counts["runs"] += 1
        while counts["kills"] < kills:
            aimed = counts["kills"] % 2 == 1
            how = {"moment": draw.randrange(moments)} if aimed else {"seconds": lasted * draw.uniform(0.05, 0.95)}
            if _process(job, place, server, **how) != KILLED:
                break
            counts["kills"] += 1
            counts["aimed"] += aimed
        found, _ = _finished(job, place, server)
        counts["differing"] += found != whole
        counts["leftovers"] += len([*place.rglob(".*.tmp")])
    return {**counts, "files": len(whole), "moments": moments, "control_differs": other != whole}


def _finished(job: Job, place: Path, server: ForkServerContext, *, seed: int = 0) -> tuple[dict[str, str], int]:
    """Run to the end; what was left, and how many moments of writing there were."""
    if code := _process(job, place, server, seed=seed):
        sys.exit(f"{job.commands} failed with {code}: {(place / 'errors.txt').read_text()}")
    return outcome(place), int((place / "moments.txt").read_text())


def outcome(place: Path) -> dict[str, str]:
    """Digests of the sets, of the parts of artefacts, of what was printed and of what a task found, but for clocks."""
    left = {path for path in place.rglob("*.safetensors") if ".run" not in str(path.relative_to(place))}
    digests = {str(path.relative_to(place)): _digest(path) for path in sorted(left)}
    for path in (*place.glob("printed-*.json"), *place.rglob("results.json")):
        digests[str(path.relative_to(place))] = _sum(timeless(json.loads(path.read_text())))
    return digests


def _digest(path: Path) -> str:
    """Of a file; of a part of an artefact, which may say how long it took, of what else it says.

    A part has the checksums of its arrays, which reading the part verifies.
    """
    if not path.name.startswith("part-"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    _, body = store.read_container(path, store.ARTEFACT)
    return _sum(timeless(body))


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def timeless(value: Any) -> Any:
    """What was found, without how long it took and what memory."""
    if isinstance(value, Mapping):
        return {key: timeless(part) for key, part in value.items() if not CLOCK.search(key)}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def _server() -> ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["preload_everything"])
    return server


def _process(
    job: Job,
    place: Path,
    server: ForkServerContext,
    *,
    seed: int = 0,
    moment: int = NEVER,
    seconds: float | None = None,
) -> int | None:
    """The commands in a process that may kill itself at a moment of writing, or be killed; its exit status."""
    place.mkdir(parents=True, exist_ok=True)
    process: ForkServerProcess = server.Process(target=_commands, args=(job, place, seed, moment))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode


def _commands(job: Job, place: Path, seed: int, moment: int) -> None:
    """All commands, in this process, until it has written so many times."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
    from faulty_disk import KillAt, watched

    from dd_apps.cli import main as dd_apps

    os.chdir(place)
    os.environ["DD_APPS_CACHE"] = str(place / "cache")
    Path("job.toml").write_text(job.scenario)
    kill, code = KillAt(moment), 0
    with open("errors.txt", "w", buffering=1) as errors, contextlib.redirect_stderr(errors), watched(kill):
        for number, command in enumerate(job.commands):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                code = dd_apps(command.format(seed=seed).split())
            if "--json" in command:
                Path(f"printed-{number}.json").write_text(printed.getvalue())
            if code:
                break
    Path("moments.txt").write_text(str(moment - kill.left))
    sys.exit(code)
