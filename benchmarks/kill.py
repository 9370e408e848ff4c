"""kill -9 the real command line again and again: is the file the same as that of an uninterrupted run?

    python benchmarks/kill.py                 # 5 files, 4 kills each; then the other parts
    python benchmarks/kill.py --only search   # one part alone; see kill_search.py
    python benchmarks/kill.py --only stages   # the stages of SRe2L, bank of labels included; see kill_stages.py
    python benchmarks/kill.py --only continual  # a continual-learning run; see kill_continual.py
    python benchmarks/kill.py --only everything  # every method and task, 100 kills; see kill_everything.py

Half of the kills come at a random time, from outside. The other half are aimed at the save: the process kills
itself before, within or after the n-th open, write, fsync or rename of its store (`tests/reliability/faulty_disk.py`).
A negative control shows that another seed gives another file. Appends a line to benchmarks/results/kill.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill_continual
import kill_everything
import kill_search
import kill_stages
import record

HERE = Path(__file__).resolve().parent
RESULTS = record.RESULTS / "kill.jsonl"
STEPS = 40
SETTINGS = [
    "--data",
    "digits",
    "--ipc",
    "1",
    "--set",
    f"steps={STEPS}",
    "--set",
    "batch_real=32",
    "--checkpoint-seconds",
    "0",
]


def main() -> None:
    """Kill, resume, compare, and say how many files differ."""
    if sys.argv[1:2] == ["--aimed"]:
        aimed(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {
        "files": files_part,
        "search": search_part,
        "stages": stages_part,
        "continual": continual_part,
        "everything": everything_part,
    }
    parser.add_argument("--only", choices=parts, help="run this part only")
    parser.add_argument("--files", type=int, default=5, help="files to make")
    parser.add_argument("--kills", type=int, default=4, help="kills of each file")
    parser.add_argument("--search-kills", type=int, default=10, help="kills of a search")
    parser.add_argument("--stage-kills", type=int, default=10, help="kills of SRe2L's stages")
    parser.add_argument("--continual-kills", type=int, default=10, help="kills of a continual-learning run")
    parser.add_argument("--everything-kills", type=int, default=100, help="kills of all methods and tasks together")
    parser.add_argument(
        "--jobs", nargs="+", choices=kill_everything.JOBS, help="run these jobs of --only everything alone"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills")
    options = parser.parse_args()
    failed = [part for name, part in parts.items() if options.only in (None, name) and not part(options)]
    if failed:
        sys.exit(1)


def files_part(options: argparse.Namespace) -> bool:
    """Kill distillations; whether each file is that of an undisturbed run."""
    given = {"only": "files", "files": options.files, "kills": options.kills, "seed": options.seed}
    figures = recorded(given, lambda folder: measure(options, folder), data="digits of scikit-learn, 8x8")
    return not figures["differing"] and figures["control_differs"]


def search_part(options: argparse.Namespace) -> bool:
    """Kill searches; whether each history is that of an undisturbed search, no trial lost or run twice."""
    given = {"only": "search", "search_kills": options.search_kills, "seed": options.seed}
    data = "none: a trial's value is a digest of its sample"
    figures = recorded(given, lambda folder: kill_search.measure(options.search_kills, options.seed, folder), data=data)
    wrong = any(figures[name] for name in ("differing", "lost", "run_again"))
    return not wrong and figures["control_differs"]


def stages_part(options: argparse.Namespace) -> bool:
    """Kill squeezing, recovering and relabelling; whether each set and bank is that of undisturbed commands."""
    given = {"only": "stages", "stage_kills": options.stage_kills, "seed": options.seed}
    data = "digits of scikit-learn, 8x8"
    figures = recorded(given, lambda folder: kill_stages.measure(options.stage_kills, options.seed, folder), data=data)
    return not figures["differing"] and figures["control_differs"]


def continual_part(options: argparse.Namespace) -> bool:
    """Kill continual-learning runs; whether each run's tables and memories are those of an undisturbed run."""
    given = {"only": "continual", "continual_kills": options.continual_kills, "seed": options.seed}
    data = "digits of scikit-learn, 8x8"
    kills = options.continual_kills
    figures = recorded(given, lambda folder: kill_continual.measure(kills, options.seed, folder), data=data)
    return not (figures["differing"] or figures["lost"]) and figures["control_differs"]


def everything_part(options: argparse.Namespace) -> bool:
    """Kill every method and task; whether all that is left is what undisturbed commands leave."""
    kills = options.everything_kills
    given = {"only": "everything", "everything_kills": kills, "jobs": options.jobs, "seed": options.seed}
    data = "digits of scikit-learn, 8x8"
    figures = recorded(
        given, lambda folder: kill_everything.measure(kills, options.seed, folder, options.jobs or ()), data=data
    )
    return not (figures["differing"] or figures["leftovers"]) and figures["control_differs"]


def recorded(given: dict[str, Any], part: Callable[[Path], dict[str, Any]], *, data: str) -> dict[str, Any]:
    """The figures of a part, which are printed and kept."""
    began = record.now()
    with tempfile.TemporaryDirectory(prefix="kill-") as folder:
        figures = part(Path(folder))
    record.append(RESULTS, record.facts("kill", given, run=began, data=data) | {"what": given["only"]} | figures)
    print(json.dumps(figures))
    return figures


def aimed(moment: int, arguments: list[str]) -> None:
    """Run the command line in this process, which kills itself at its write number `moment`."""
    sys.path.insert(0, str(HERE.parent / "tests" / "reliability"))
    from faulty_disk import KillAt, watched

    from dd_apps.cli import main as dd_apps

    with watched(KillAt(moment)):
        sys.exit(dd_apps(arguments))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The outcome of all runs."""
    from dd_core import store

    begun = time.monotonic()
    draw = random.Random(options.seed)
    whole = finish(folder / "whole.safetensors")
    other = finish(folder / "other.safetensors", seed=1)
    kills: list[dict[str, Any]] = []
    differing = 0
    for number in range(options.files):
        out = folder / f"set-{number}.safetensors"
        while sum(kill["file"] == number for kill in kills) < options.kills and not out.exists():
            how = "aimed" if len(kills) % 2 else "random"
            step = kill_aimed(out, draw) if how == "aimed" else kill_at_random(out, draw)
            if step is not None:
                kills.append({"file": number, "how": how, "step": step})
                print(f"kill {len(kills)}: {how}, after {step} steps", file=sys.stderr, flush=True)
        differing += finish(out) != whole
        lines = store.read_lines(out.with_suffix(".run") / "metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(STEPS)), "a step is missing or there twice"
        assert not list(folder.rglob(".*.tmp")), "a temporary file is left"
    return {
        "killed": " ".join(["dd-apps distill dm", *SETTINGS]),
        "kills": len(kills),
        "aimed": sum(kill["how"] == "aimed" for kill in kills),
        "after_steps": [kill["step"] for kill in kills],
        "files": options.files,
        "differing": differing,
        "control_differs": other != whole,
        "sha256": whole,
        "seconds": round(time.monotonic() - begun, 1),
    }


def words(out: Path, *, seed: int = 0) -> list[str]:
    """The arguments of `dd-apps`."""
    return ["distill", "dm", *SETTINGS, "--seed", str(seed), "--out", str(out)]


def finish(out: Path, *, seed: int = 0) -> str:
    """Run to the end; the sha256 that the command line reports."""
    done = subprocess.run(
        [sys.executable, "-m", "dd_apps.cli", *words(out, seed=seed), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"a run failed with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)["sha256"]


def kill_at_random(out: Path, draw: random.Random) -> int | None:
    """Start, kill from outside a few steps on; how many steps were logged, or None where it ended before."""
    target = steps_done(out) + draw.randrange(1, 5)
    process = subprocess.Popen([sys.executable, "-m", "dd_apps.cli", *words(out)], stderr=subprocess.DEVNULL)
    while process.poll() is None and steps_done(out) < target:
        time.sleep(0.002)
    time.sleep(draw.random() * 0.1)
    process.send_signal(signal.SIGKILL)
    return steps_done(out) if process.wait() == -signal.SIGKILL else None


def kill_aimed(out: Path, draw: random.Random) -> int | None:
    """Start, and let it kill itself at one of its next writes."""
    command = [sys.executable, __file__, "--aimed", str(draw.randrange(80)), *words(out)]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    return steps_done(out) if done.returncode == -signal.SIGKILL else None


def steps_done(out: Path) -> int:
    """Lines in the log."""
    log = out.with_suffix(".run") / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


if __name__ == "__main__":
    main()
