"""The cost of a step on a CPU by the engines of two checkouts, which take turns: old over new.

    git worktree add DIR COMMIT
    python benchmarks/steps.py --old DIR [--rounds 5] [CASE ...]      # appends to benchmarks/results/steps.jsonl

`--old` is a checkout of another commit; the new engine is that of the checkout where this file lies. A CASE is the name
of a case or its beginning (`mtt`, `expert-gsam-w128`); none: all, which takes some nine minutes. The cases, on noise of
32x32 pixels in ten classes, ConvNet-3 of widths 32 and 128:

- an outer step of a method, with the published settings of CIFAR-10 but few inner steps (N, in the record), few real
  images, no whitening, and one short expert: from where a student starts does not change what its steps cost;
- `expert`: an epoch of an expert under DSA, by SGD and by GSAM: four mini-batches of 256 images, at width 128 one;
- `evaluation`: a network's training by protocol `dm-1000` for a few epochs (`fit`), then its accuracy (`accuracy`).

Each case has a process of its own for each side, with that side's `core` on PYTHONPATH, one thread, and the
surroundings of the engine's runs (`parallel.computing`). Both run this file, and the packages are those of the new
side's environment. After a repetition that does not count, the sides take turns, old, new, old, new, `--rounds` times
each, so that what else the machine does hits both alike. A record has the least and the median of the seconds of the
process on the CPU and of those on the clock, the peak of the process's memory in excess of the loaded interpreter, and
old over new of each: above 1, the new engine takes less. Requirements on the new engine are about the medians of CPU
time at width 128.

A case that fails has its reason in the record, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path

from record import RESULTS, append, facts, now
from step_cases import CASES, Record

from dd_core.errors import DDError, UserError, unknown_name

HERE = Path(__file__).resolve()
NEW = HERE.parents[1]
SIDES = ("old", "new")
ASKED = {"mtt": 1.1, "tesla": 1.2, "expert": 1.15, "evaluation": 1.2}  # old over new, by what a case's name begins with
ASKED_OF = "-w128"


# --- a worker ----------------------------------------------------------------------------------------------------


def work(name: str, cache: Path) -> None:
    """One case: says that it is ready, answers each line with the seconds of a repetition, and ends with the input."""
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # the answers go to the other process, and nothing else does

        def answer(said: Record) -> None:
            print(json.dumps(said), file=answers, flush=True)

        try:
            import torch

            import dd_core
            from dd_core import training, unroll  # noqa: F401 (loaded before memory is read)
            from dd_core.system import device

            try:
                from dd_core.system.threads import computing
            except ImportError:  # an older checkout
                from dd_core.system.parallel import computing

            cpu = torch.device("cpu")
            before = device.peak_memory_bytes(cpu)
            with computing(1):
                parts = CASES[name].ready(cache)
                answer({"engine": dd_core.__file__})
                for _ in sys.stdin:
                    seconds = {part: timed(run) for part, run in parts.items()}
                    answer({"parts": seconds, "excess_mib": (device.peak_memory_bytes(cpu) - before) / 2**20})
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:  # an older engine may lack what a case asks for
            answer({"reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"})


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of the process on the CPU, and on the clock."""
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - clock}


# --- the two sides -----------------------------------------------------------------------------------------------


class Failed(Exception):
    """A case cannot be measured."""


class Worker:
    """A case's process of one side."""

    def __init__(self, side: str, checkout: Path, name: str, cache: Path) -> None:
        self.side, self.core = side, (checkout / "core").resolve()
        env = {**os.environ, "PYTHONPATH": str(self.core), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE), "--work", name, str(cache)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.peak = 0.0

    def ready(self) -> None:
        """Wait for it; raises `UserError` where the engine it has is not that of its checkout."""
        engine = Path(self._answer()["engine"]).resolve()
        if not engine.is_relative_to(self.core):
            raise UserError(f"the {self.side} side has imported another checkout's dd_core")

    def repeat(self) -> dict[str, dict[str, float]]:
        """One repetition; seconds of each part."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # that it has ended is told by its answer
            print("go", file=self.process.stdin, flush=True)
        found = self._answer()
        self.peak = found["excess_mib"]
        return found["parts"]

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Record:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.side}: ended with exit code {self.process.wait()}")
        found = json.loads(line)
        if "reason" in found:
            reason = found["reason"].replace(str(self.core.parent), "DIR").replace(tempfile.gettempdir(), "TMP")
            raise Failed(f"{self.side}: {reason}")
        return found


@contextmanager
def workers(name: str, checkouts: Mapping[str, Path]) -> Iterator[dict[str, Worker]]:
    """A case's processes by side, ready and warm.

    They start together: of two that started one after the other, the first was 2 to 4 % slower in every repetition.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found: dict[str, Worker] = {}
        for side, checkout in checkouts.items():
            found[side] = worker = Worker(side, checkout, name, Path(folder) / side)
            stack.callback(worker.end)
        for worker in found.values():
            worker.ready()
        for worker in found.values():
            worker.repeat()
        yield found


def measured(name: str, checkouts: Mapping[str, Path], rounds: int) -> list[Record]:
    """A record for each part of a case. Raises `Failed`."""
    with workers(name, checkouts) as both:
        turns = [{side: worker.repeat() for side, worker in both.items()} for _ in range(rounds)]
        peaks = {side: worker.peak for side, worker in both.items()}
    records: list[Record] = []
    for part in turns[0]["new"]:
        sides: dict[str, Record] = {}
        for side in SIDES:
            times = {unit: [turn[side][part][unit] for turn in turns] for unit in ("cpu_seconds", "seconds")}
            sides[side] = {unit: least_and_median(values) for unit, values in times.items()}
            sides[side]["excess_mib"] = round(peaks[side], 1)
        records.append({"what": name, "part": part, **sides, **compared(name, sides["old"], sides["new"])})
    return records


def least_and_median(values: list[float]) -> dict[str, float]:
    """Of some seconds."""
    return {"min": round(min(values), 5), "median": round(statistics.median(values), 5)}


def compared(name: str, old: Record, new: Record) -> Record:
    """Old over new of each, and whether it is at least the required ratio."""
    ratios: Record = {
        unit: {which: round(old[unit][which] / new[unit][which], 3) for which in ("min", "median")}
        for unit in ("cpu_seconds", "seconds")
    }
    ratios["excess_mib"] = round(old["excess_mib"] / new["excess_mib"], 3) if new["excess_mib"] else None
    asked = ASKED.get(name.partition("-")[0]) if name.endswith(ASKED_OF) else None
    claim = {} if asked is None else {"asked": asked, "met": ratios["cpu_seconds"]["median"] >= asked}
    return {"old_over_new": ratios, **claim}


# --- the command -------------------------------------------------------------------------------------------------


def main() -> None:
    """Every case that is asked for, then a table of all; a failure is one line."""
    options = parse()
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    try:
        sys.exit(run(options))
    except DDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, or their beginnings; none: all")
    parser.add_argument("--old", type=Path, metavar="DIR", help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each side that a median is of")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(options: argparse.Namespace) -> int:
    """Measure and record; the exit code. Raises `UserError` for what cannot be asked for."""
    if options.old is None:
        raise UserError("--old DIR is missing: a checkout of another commit (git worktree add DIR COMMIT)")
    if options.rounds < 1:
        raise UserError(f"--rounds: at least 1, not {options.rounds}")
    names, checkouts = chosen(options.cases), dict(zip(SIDES, (options.old, NEW), strict=True))
    commits = {side: commit(checkout) for side, checkout in checkouts.items()}
    records: list[Record] = []
    begun = now()
    write = partial(written, named=options.cases, rounds=options.rounds, commits=commits, begun=begun)
    for name in names:
        print(name, file=sys.stderr, flush=True)
        try:
            found = measured(name, checkouts, options.rounds)
        except Failed as failure:
            found = [{"what": name, "reason": str(failure)}]
        for record in found:
            write(record)
        records += found
    print("\n".join(table(records)))
    return int(any("reason" in record for record in records))


def chosen(given: list[str]) -> list[str]:
    """The cases that are meant, in their order; raises `UserError` for what none is named like."""
    for start in given:
        if not any(is_named(name, start) for name in CASES):
            raise unknown_name("case", start, CASES)
    return [name for name in CASES if not given or any(is_named(name, start) for start in given)]


def is_named(name: str, start: str) -> bool:
    """Whether a case's name is `start`, or begins with it and a hyphen."""
    return f"{name}-".startswith(f"{start}-")


def commit(checkout: Path, code: Sequence[str] = ("core",)) -> Record:
    """A checkout's commit, and whether its folders `code` have changes that are in none; raises `UserError`."""
    if not (checkout / "core" / "dd_core" / "__init__.py").is_file():
        raise UserError(f"{checkout}: no checkout of this project (it has no core/dd_core)")
    found: list[str] = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *code]):
        try:
            ended = subprocess.run(["git", "-C", str(checkout), *command], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise UserError("git is not installed, and says which commits are compared") from None
        except subprocess.CalledProcessError as error:
            raise UserError(f"{checkout}: {error.stderr.strip().partition(chr(10))[0]}") from None
        found.append(ended.stdout.strip())
    return {"commit": found[0], "dirty": bool(found[1])}


def written(record: Record, *, named: list[str], rounds: int, commits: Mapping[str, Record], begun: str) -> None:
    """Append a record to the results, with what was measured and where."""
    told = facts("steps", {"old": "DIR", "rounds": rounds}, run=begun, data="noise")
    told["command"] = told["command"].replace("BENCH_ARGS='", f"BENCH_ARGS='{' '.join([*named, ''])}", 1)
    append(RESULTS / "steps.jsonl", {**told, "commits": commits, "settings": CASES[record["what"]].settings, **record})


def table(records: list[Record]) -> list[str]:
    """A line for each record; ratios are old over new."""
    head = (
        "case",
        "old CPU s",
        "new CPU s",
        "old/new",
        "of least",
        "of clock",
        "old MiB",
        "new MiB",
        "old/new",
        "asked",
    )
    rows = [head]
    for record in records:
        name = f"{record['what']} {record.get('part', '')}".strip()
        if "reason" in record:
            rows.append((name, record["reason"], *("",) * (len(head) - 2)))
            continue
        old, new, ratios = record["old"], record["new"], record["old_over_new"]
        asked = f"{record['asked']:.2f} {'met' if record['met'] else 'NOT MET'}" if "asked" in record else ""
        seconds = (f"{side['cpu_seconds']['median']:.4f}" for side in (old, new))
        times = (ratios["cpu_seconds"]["median"], ratios["cpu_seconds"]["min"], ratios["seconds"]["median"])
        memory = (f"{old['excess_mib']:.0f}", f"{new['excess_mib']:.0f}", f"{ratios['excess_mib'] or 0:.2f}")
        rows.append((name, *seconds, *(f"{ratio:.3f}" for ratio in times), *memory, asked))
    whole = [row for row in rows if row[2]]
    widths = [max(len(row[column]) for row in (rows if column == 0 else whole)) for column in range(len(head))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


if __name__ == "__main__":
    main()
