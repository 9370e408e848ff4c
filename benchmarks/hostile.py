"""What refusing a hostile file costs: count, time, bytes read, tensors touched and peak memory for each kind.

    python benchmarks/hostile.py [--fuzzed 10000] [--first 0]

The files are those of tests/reliability/hostile_files.py, without the command line around them, and then so many that
tests/reliability/fuzzing.py makes by chance: sets, checkpoints, artefacts, banks and imports, the same number of each,
whose seeds are (kind, number) from --first on. Appends a line for each kind and one for all to
benchmarks/results/hostile.jsonl; the exit code is 1 where a file does what it should not, and its seed is printed.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import tracemalloc
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import record

HERE = Path(__file__).resolve().parent
RESULTS = record.RESULTS / "hostile.jsonl"
sys.path.insert(0, str(HERE.parent / "tests" / "reliability"))


class CountingFile(io.BufferedReader):
    """A file that counts the bytes read from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.bytes_read, self.tensors = 0, 0

    def read(self, size: int | None = -1) -> bytes:
        """Read, and count."""
        found = super().read(size)
        self.bytes_read += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """Read a tensor, and count."""
        count = super().readinto(buffer)
        self.bytes_read, self.tensors = self.bytes_read + count, self.tensors + 1
        return count


def main() -> None:
    """Read all of them and append to the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fuzzed", type=int, default=10_000, help="random files, of all kinds together")
    options.add_argument("--first", type=int, default=0, help="number of the first random file of each kind")
    given = options.parse_args()
    began = record.now()
    well = [catalogued(began), fuzzed(began, files=given.fuzzed, first=given.first)]
    sys.exit(0 if all(well) else 1)


def catalogued(began: str) -> bool:
    """Read the files that are hostile for one reason each; returns whether all were refused."""
    from hostile_files import catalogue

    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        canary = Path(folder) / "canary"
        for one in catalogue(canary):
            path = Path(folder) / "hostile.safetensors"
            one.write(path)
            kinds[one.kind].append(cost(path))
        executed = canary.exists()
    facts = record.facts("hostile", {}, run=began, data="files of tests/reliability/hostile_files.py")
    everything = [row for rows in kinds.values() for row in rows]
    summaries = [summary(kind, rows) for kind, rows in kinds.items()]
    summaries.append({**summary("all", everything), "canary_executed": executed})
    for figures in summaries:
        print(json.dumps(figures))
        record.append(RESULTS, facts | figures)
    return not executed and summaries[-1]["refused"] == len(everything)


def fuzzed(began: str, *, files: int, first: int) -> bool:
    """Read the random files; returns whether each was refused in one line or read as what it says."""
    from fuzzing import KINDS, PEAK_BYTES, outcome

    each = -(-files // len(KINDS))
    settings = {"fuzzed": files, "first": first}
    facts = record.facts("hostile", settings, run=began, data="files of tests/reliability/fuzzing.py")
    well = True
    for kind, good in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="fuzzed-") as place:
            folder, canary = Path(place) / "files", Path(place) / "canary"
            folder.mkdir()
            good.write(folder)
            pristine = good.read(folder)
            verdicts, slowest, peak = Counter[str](), 0.0, 0
            for number in range(first, first + each):
                begun = time.perf_counter()
                one = outcome(kind, number, folder, canary, pristine)
                slowest, peak = max(slowest, time.perf_counter() - begun), max(peak, one.peak)
                verdicts[one.verdict] += 1
                if one.verdict not in ("refused", "read"):
                    well = False
                    print(f"{kind} {number}: {one.verdict}: {one.line}", file=sys.stderr)
        figures = {
            **{"kind": f"fuzzed {kind}", "files": each, "refused": verdicts["refused"], "read": verdicts["read"]},
            **{name: verdicts[name] for name in ("differs", "no line", "traceback", "executed", "too much memory")},
            **{"peak_bytes": peak, "peak_limit_bytes": PEAK_BYTES, "slowest_seconds": round(slowest, 4)},
        }
        print(json.dumps(figures))
        record.append(RESULTS, facts | figures)
    return well


def cost(path: Path) -> dict[str, Any]:
    """The cost of refusing one file: a first pass counts reads, a second takes the time."""
    from dd_core import store
    from dd_core.errors import UserError

    tracemalloc.start()
    with CountingFile(path) as file, suppress(UserError):
        store.parse_set(file, name="hostile")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    begun = time.perf_counter()
    try:
        store.read_set(path)
        refused = False
    except UserError:
        refused = True
    seconds = time.perf_counter() - begun
    row = {"refused": refused, "seconds": seconds, "peak": peak, "size": path.stat().st_size}
    return row | {"read": file.bytes_read, "tensors": file.tensors}


def summary(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the results."""
    return {
        "kind": kind,
        "files": len(rows),
        "refused": sum(row["refused"] for row in rows),
        "largest_file_bytes": max(row["size"] for row in rows),
        "most_bytes_read": max(row["read"] for row in rows),
        "most_tensors_touched": max(row["tensors"] for row in rows),
        "peak_bytes": max(row["peak"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 4),
        "slowest_seconds": round(max(row["seconds"] for row in rows), 4),
    }


if __name__ == "__main__":
    main()
