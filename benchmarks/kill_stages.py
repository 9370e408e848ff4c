"""kill -9 SRe2L's three stages again and again: are the set and the bank of labels those of undisturbed commands?

`kill.py` runs this. `dd-apps distill sre2l` squeezes a teacher and recovers images, and `dd-apps relabel` has that
teacher label views, in parts of two epochs (of this size here alone: parts have up to 64 MiB). After each kill the same
commands run again. Half of the kills come at a random time, from outside; the other half are aimed at the save, as
those of `kill.py`. A negative control shows that another seed gives another set and another bank.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

STAGES = ("squeeze", "recover", "relabel")
IPC, EPOCHS = 2, 12
PART_BYTES = 2 * 10 * IPC * 45  # of a bank, so that it has six parts of two epochs
SET = ["--data", "digits", "--ipc", str(IPC), "--checkpoint-seconds", "0", "--device", "cpu"]
SET += [
    word
    for setting in (
        "teacher.network=convnet-2-w8-batchnorm",
        "teacher.epochs=6",
        "recover.iterations=60",
        "recover.batch_size=5",
        "recipe.epochs=12",
    )
    for word in ("--set", setting)
]
NEVER = 10**9  # a write that a process does not come to


def measure(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """The outcome of pipelines that were killed `kills` times in all."""
    begun, draw = time.monotonic(), random.Random(seed)
    whole, lasted = _timed(folder / "whole")
    other, _ = _timed(folder / "other", seed=1)
    killed: list[tuple[str, str]] = []
    pipelines = differing = 0
    while len(killed) < kills:
        place = folder / f"pipeline-{pipelines}"
        pipelines += 1
        while len(killed) < kills and not _ended(place):
            how = "aimed" if len(killed) % 2 else "random"
            moment, seconds = (draw.randrange(90), None) if how == "aimed" else (NEVER, lasted * draw.uniform(0.6, 1))
            if _run(place, moment=moment, seconds=seconds) == -signal.SIGKILL:
                killed.append((how, stage := _stage(place)))
                print(f"kill {len(killed)}: {how}, before the end of {stage}", file=sys.stderr, flush=True)
        differing += _timed(place)[0] != whole
        assert not list(place.rglob(".*.tmp")), "a temporary file is left"
    stages = Counter(stage for _, stage in killed)
    return {
        "killed": "dd-apps distill sre2l, then dd-apps relabel: the digits, 2 a class, a bank of 6 parts",
        "kills": len(killed),
        "aimed": sum(how == "aimed" for how, _ in killed),
        "stages": {stage: stages[stage] for stage in STAGES},
        "pipelines": pipelines,
        "differing": differing,
        "control_differs": all(other[name] != whole[name] for name in whole),
        "sha256": whole,
        "seconds": round(time.monotonic() - begun, 1),
    }


def _timed(place: Path, *, seed: int = 0) -> tuple[dict[str, str], float]:
    """Run to the end; digests of the set and of the bank, and the seconds that it took."""
    begun = time.monotonic()
    if code := _run(place, seed=seed):
        sys.exit(f"a run failed with {code}")
    bank = hashlib.sha256()
    for part in sorted(_bank(place).rglob("part-*")):
        bank.update(part.read_bytes())
    found = {"set": hashlib.sha256(_set(place).read_bytes()).hexdigest(), "bank": bank.hexdigest()}
    return found, time.monotonic() - begun


def _run(place: Path, *, seed: int = 0, moment: int = NEVER, seconds: float | None = None) -> int:
    """Both commands in a process that may kill itself at a write, or be killed; its exit status."""
    place.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, __file__, str(place), str(seed), str(moment)],
        env={**os.environ, "DD_APPS_CACHE": str(place / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


def _set(place: Path) -> Path:
    return place / "set.safetensors"


def _bank(place: Path) -> Path:
    return place / "cache" / "artefacts" / "bank"


def _stage(place: Path) -> str:
    """The stage that is not done yet."""
    if _set(place).exists():
        return "relabel"
    return "recover" if list((place / "cache").rglob("teacher/*/part-0*")) else "squeeze"


def _ended(place: Path) -> bool:
    return len(list(_bank(place).rglob("part-*"))) == EPOCHS // 2


def main() -> None:
    """Run both commands in this process, which kills itself at the given write."""
    place, seed, moment = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
    from faulty_disk import KillAt, watched

    from dd_apps.cli import main as dd_apps
    from dd_core.training import bank

    bank.PART_BYTES = PART_BYTES
    commands = [
        ["distill", "sre2l", *SET, "--seed", seed, "--out", str(_set(place))],
        ["relabel", str(_set(place)), "--data", "digits", "--device", "cpu", "--seed", seed],
    ]
    with watched(KillAt(moment)):
        sys.exit(next((code for words in commands if (code := dd_apps(words))), 0))


if __name__ == "__main__":
    main()
