"""Where the time of a repetition goes, on both sides of a case of `peers.py`: the share of each kind of operation.

    python benchmarks/peers_profile.py [CASE ...]    # appends to benchmarks/results/peers_profile.jsonl

No CASE: those of whose newest record in peers.jsonl something was asked that is not met. Each side has a process of its
own with one thread; after a repetition that does not count, torch's profiler watches five. A share is of the time that
operations take by themselves. For the exact adjoint a record also has the shares of its two sweeps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from blocks_peers import measured
from peer_cases import PEERS
from peers import SIDES, named
from record import RESULTS, append, facts, now
from step_cases import Record

from dd_core.errors import UserError

HERE = Path(__file__).resolve()
REPETITIONS = 5
KINDS = {
    "convolution": ("convolution", "im2col", "col2im", "_Convolve", "_Gradients"),
    "norm": ("group_norm", "_Norm", "_Slope"),
    "ReLU": ("clamp_min", "relu", "threshold_backward"),
    "pooling": ("pool", "_Pool", "_Spread"),
    "matrix product": ("aten::bmm", "aten::mm", "aten::addmm"),
    "copy": ("aten::copy_", "aten::cat", "aten::index", "aten::fill_", "aten::zero_"),
    "arithmetic": ("aten::add", "aten::mul", "aten::sub", "aten::div", "aten::sum", "aten::lerp", "aten::mean"),
}
SWEEPS = ("ahead", "back")


def kind_of(operation: str) -> str:
    """The kind of an operation of torch's profiler; "other" for what has none."""
    return next((kind for kind, parts in KINDS.items() if any(part in operation for part in parts)), "other")


def shares(times: dict[str, float]) -> dict[str, float]:
    """The share of each kind, largest first, of the times that operations take by themselves."""
    found: dict[str, float] = defaultdict(float)
    for operation, time in times.items():
        found[kind_of(operation)] += time
    whole = sum(found.values())
    return {kind: round(time / whole, 3) for kind, time in sorted(found.items(), key=lambda entry: -entry[1])}


def work(name: str, side: str, folder: Path) -> Record:
    """The shares of one side's repetitions."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from dd_core.system.threads import computing
    from dd_core.unroll.gradients import Rebuilt

    for sweep in SWEEPS:
        taken = getattr(Rebuilt, sweep)
        setattr(Rebuilt, sweep, record_function(sweep)(taken))
    torch.set_num_threads(1)
    with computing(1):
        parts = getattr(PEERS[name], side)(folder)
        for run in parts.values():
            run()
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            for _ in range(REPETITIONS):
                for run in parts.values():
                    run()
    events = list(watched.key_averages())
    ranges = {event.key: event.cpu_time_total for event in events if event.key in SWEEPS}
    times = {event.key: event.self_cpu_time_total for event in events if event.key not in SWEEPS}
    whole = sum(event.self_cpu_time_total for event in events)
    swept = {"sweeps": {sweep: round(time / whole, 3) for sweep, time in ranges.items()}} if ranges else {}
    return {"shares": shares(times), **swept}


def profiled(name: str, side: str) -> Record:
    """`work` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DD_APPS_CACHE": f"{folder}/cache"}
        command = [sys.executable, str(HERE), "--work", name, side, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def short() -> list[str]:
    """The cases of whose newest record something that was asked is not met."""
    return list(dict.fromkeys(line["case"] for line in measured() if not line.get("met", True)))


def main() -> None:
    """Every case that is named, or all that fall short."""
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(work(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a case's name, or how it begins; none: what is short")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = now()
    for name in named(options.cases) if options.cases else short():
        sides = {side: profiled(name, side) for side in SIDES}
        record = {"case": name, "what": PEERS[name].what, **sides}
        append(options.results / "peers_profile.jsonl", facts("peers-profile", {}, run=run, data="noise") | record)
        for side, found in sides.items():
            told = ", ".join(f"{kind} {share:.0%}" for kind, share in found["shares"].items())
            print(f"{name:14} {side:6} {told}  {found.get('sweeps', '')}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
