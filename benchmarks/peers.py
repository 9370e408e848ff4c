"""The engine beside plain references, in turns, on one core: how fast is it, and how much memory does it take?

    python benchmarks/peers.py [--processes 3] [--rounds 4] [CASE ...]      # appends to benchmarks/results/peers.jsonl

A plain reference (`peer_references.py`) is the same algorithm from its paper's mathematics in PyTorch's ordinary way,
on as many images (`peer_cases.py`). A CASE is a case's name or how it begins; none: all. Each side of a case has a
process of its own with one thread. After a repetition that does not count they take turns, ours, plain, ours, plain.
Then other processes do the same, because the same code took a third longer in one process than in the next. A record
has the least and the median of each side's seconds on the CPU, the peak of its memory above what it has loaded, and
plain over ours of both: above 1, the engine takes less. What is asked of a case is asked of the medians; the table can
be lost, and says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from peer_cases import PEERS
from record import RESULTS, append, facts, now
from step_cases import Record
from steps import Failed, Worker, least_and_median, timed

from dd_core.errors import UserError, unknown_name

HERE = Path(__file__).resolve()
SIDES = ("ours", "plain")


def work(name: str, side: str, cache: Path) -> None:
    """One side of a case: says that it is ready, answers each line with the seconds of a repetition."""
    import json

    answers = sys.stdout
    with redirect_stdout(sys.stderr):

        def answer(told: Record) -> None:
            print(json.dumps(told), file=answers, flush=True)

        try:
            import torch
            import torch._dynamo  # optimisers import it: part of the interpreter, and not of what is measured

            from dd_core.system import device
            from dd_core.system.threads import computing

            if side == "ours":
                from dd_core import datasets, training, unroll  # noqa: F401 (loaded before memory is read)
            else:
                import peer_references  # noqa: F401
                import torchvision  # noqa: F401
            torch.set_num_threads(1)
            cpu = torch.device("cpu")
            before = device.peak_memory_bytes(cpu)
            with computing(1) if side == "ours" else ExitStack():
                parts = getattr(PEERS[name], side)(cache)
                answer({})
                for _ in sys.stdin:
                    seconds = {part: timed(run) for part, run in parts.items()}
                    answer({"parts": seconds, "excess_mib": (device.peak_memory_bytes(cpu) - before) / 2**20})
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            answer({"reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"})


class Side(Worker):
    """The process of one side of a case."""

    def __init__(self, name: str, side: str, cache: Path) -> None:
        cache.mkdir()
        self.side, self.core, self.peak = side, HERE.parents[1] / "core", 0.0
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DD_APPS_CACHE": str(cache / "cache")}
        command = [sys.executable, str(HERE), "--work", name, side, str(cache)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ready(self) -> None:
        """Wait until the side is ready."""
        self._answer()


def measured(name: str, rounds: int, processes: int) -> list[Record]:
    """A record for each part of a case, of several pairs of processes. Raises `Failed`."""
    turns, peaks = list[Record](), dict[str, list[float]]((side, []) for side in SIDES)
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            both = {side: Side(name, side, Path(folder) / side) for side in SIDES}
            for worker in both.values():
                stack.callback(worker.end)
            for worker in both.values():
                worker.ready()
                worker.repeat()
            turns += [{side: worker.repeat() for side, worker in both.items()} for _ in range(rounds)]
            for side, worker in both.items():
                peaks[side].append(worker.peak)
    middle = {side: statistics.median(several) for side, several in peaks.items()}
    return [{"case": name, "part": part, **_compared(name, part, turns, middle)} for part in turns[0]["ours"]]


def _compared(name: str, part: str, turns: list[Record], peaks: Record) -> Record:
    """Both sides' figures, plain over ours, and what was asked."""
    sides: Record = {
        side: {
            "cpu_seconds": least_and_median([turn[side][part]["cpu_seconds"] for turn in turns]),
            "excess_mib": round(peaks[side], 1),
        }
        for side in SIDES
    }
    ours, plain = (sides[side] for side in SIDES)
    ratios = {
        "cpu": round(plain["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"], 3),
        "cpu_min": round(plain["cpu_seconds"]["min"] / ours["cpu_seconds"]["min"], 3),
        "memory": round(plain["excess_mib"] / max(ours["excess_mib"], 0.1), 3),
    }
    asked = PEERS[name].asked
    met = {"met": all(ratios[key] >= least for key, least in asked.items())} if asked else {}
    return {"what": PEERS[name].what, **sides, "plain_over_ours": ratios, "asked": asked, **met}


def main() -> None:
    """Every case that is named, or all."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a case's name, or how it begins; none: all")
    parser.add_argument("--processes", type=int, default=3, help="pairs of processes, one after the other")
    parser.add_argument("--rounds", type=int, default=4, help="repetitions of each side in each pair")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    run, failed = now(), False
    for name in named(options.cases):
        try:
            records = measured(name, options.rounds, options.processes)
        except Failed as error:
            records, failed = [{"case": name, "reason": str(error)}], True
        for record in records:
            kept = (
                facts("peers", {"rounds": options.rounds, "processes": options.processes}, run=run, data="noise")
                | record
            )
            append(options.results / "peers.jsonl", kept)
            print(line(record), flush=True)
    sys.exit(1 if failed else 0)


def named(cases: list[str]) -> list[str]:
    """The cases that are asked for; raises `UserError` for a name that is none's beginning."""
    for given in cases:
        if not any(name.startswith(given) for name in PEERS):
            raise unknown_name("case", given, PEERS)
    return [name for name in PEERS if not cases or name in cases or any(name.startswith(given) for given in cases)]


def line(record: Record) -> str:
    """A record for the terminal."""
    if "reason" in record:
        return f"{record['case']:14} failed: {record['reason']}"
    ratios = record["plain_over_ours"]
    seconds = [f"{record[side]['cpu_seconds']['median']:8.3f} s" for side in SIDES]
    memory = [f"{record[side]['excess_mib']:7.0f} MiB" for side in SIDES]
    asked = "".join(f", asked {key} {least:g}" for key, least in record["asked"].items())
    lost = "" if record.get("met", True) else ": LOST"
    cells = [f"{record['case']:14} {record['part']:20}", *seconds, f"x{ratios['cpu']:.2f}", *memory]
    return "  ".join([*cells, f"x{ratios['memory']:.2f}{asked}{lost}"])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
