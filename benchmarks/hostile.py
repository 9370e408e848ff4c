"""What refusing a hostile file costs: count, time, bytes read, tensors touched and peak memory for each kind.

    python benchmarks/hostile.py

The files are those of tests/reliability/hostile_files.py, without the command line around them. Appends a line
for each kind and one for all to benchmarks/results/hostile.jsonl.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import record

HERE = Path(__file__).resolve().parent
RESULTS = record.RESULTS / "hostile.jsonl"
sys.path.insert(0, str(HERE.parent / "tests" / "reliability"))


class CountingFile(io.BufferedReader):
    """A file that counts what is read of it."""

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
    from hostile_files import catalogue

    began = record.now()
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
    if executed or summaries[-1]["refused"] != len(everything):
        sys.exit(1)


def cost(path: Path) -> dict[str, Any]:
    """Of refusing one file: once counted and without the clock, then with it."""
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
