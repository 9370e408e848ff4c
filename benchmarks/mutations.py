"""Plant faults in the code, one at a time: do the tests notice?

    python benchmarks/mutations.py [--only training | --again] [--workers 2]

Every line of `benchmarks/mutations.txt` is a fault: a file, a piece of its text that occurs once, what replaces the
piece, and the tests that have to fail. The checkout is never touched: each fault is planted in a copy of it, with a
cache and temporary files of its own, and the copy's code comes first on `PYTHONPATH`, so that child processes of a test
import the fault too. Verdicts:

- `caught`: a named test fails. `timed out`: one does not end, and in the copy without a fault it ends soon.
- `survived`: all named tests pass.
- `stale`: the text does not occur exactly once.
- `broken`: pytest cannot run the tests, because the fault is no Python, say, or a test is named that is not there.

The last three are failures: the exit code is 1. A run of the whole list takes hours; it appends a record to
benchmarks/results/mutations.jsonl, as a run of another list does; Ctrl-C ends it early, with a record of what was
planted until then. With `--again` those faults are planted that no test noticed when they were last planted, and those
that never were.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from record import append, facts, now

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mutations.jsonl"
IMPORTED_FROM = ("core", ".")  # of the tree, as pyproject.toml tells pytest
QUICK = 100.0  # seconds that a test may take without a fault
SLOW = 300.0  # seconds after which a test with a fault does not end
HANGING = 1800.0  # seconds after which even pytest does not end
NOTICED = ("caught", "timed out")


@dataclass(frozen=True)
class Fault:
    """One line of the list: `new` replaces `old` in `file`, and `tests` (files or node ids) have to notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @staticmethod
    def parse(line: str) -> Fault:
        r"""The fault of a line `file ||| old ||| new ||| tests`; in the texts, `\n` is a line break and `\\` is `\`.

        Raises ValueError for a line of another form.
        """
        fields = [field.strip() for field in line.split("|||")]
        if len(fields) != 4 or not (fields[0] and fields[1] and fields[3]) or fields[1] == fields[2]:
            raise ValueError(f"not 'file ||| old ||| new ||| tests': {line}")
        file, old, new, tests = fields
        return Fault(file, _unescaped(old), _unescaped(new), tuple(tests.split()))

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"

    @property
    def digest(self) -> str:
        """The fault in a record: 12 hexadecimal digits of the sha256 over file, texts and tests."""
        return hashlib.sha256(f"{self} {' '.join(self.tests)}".encode()).hexdigest()[:12]

    def plant(self, tree: Path) -> bool:
        """Replace the text in a tree; False, and nothing done, where it does not occur exactly once."""
        path = tree / self.file
        text = path.read_text() if path.is_file() else ""
        if text.count(self.old) != 1:
            return False
        path.write_text(text.replace(self.old, self.new))
        return True


def _unescaped(text: str) -> str:
    return re.sub(r"\\([n\\])", lambda match: "\n" if match[1] == "n" else "\\", text)


def faults_of(path: Path) -> list[Fault]:
    """The faults of a list; empty lines and lines that begin with # are passed over. Raises ValueError."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [Fault.parse(line) for line in lines if line and not line.startswith("#")]


def main() -> None:
    """Plant all that are asked for, print the verdicts, and record a whole run."""
    options = parse()
    faults = [fault for fault in faults_of(options.list) if options.only in " ".join((fault.file, *fault.tests))]
    if not faults:
        sys.exit(f"error: {options.list} has no fault whose file or tests contain '{options.only}'")
    known = noticed_before() if options.again else frozenset[str]()
    earlier = {fault for fault in faults if fault.digest in known}
    begun, started = now(), time.monotonic()
    verdicts = run([fault for fault in faults if fault not in earlier], options.root, workers=options.workers)
    counts = Counter(verdicts.values())
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in counts), f"of {len(verdicts)} faults")
    if not options.only:
        told = {"workers": options.workers, "again": options.again}
        record(faults, verdicts, earlier, told, begun=begun, seconds=time.monotonic() - started)
    sys.exit(any(verdicts.get(fault) not in NOTICED for fault in faults if fault not in earlier))


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description="Plant faults in the code, one at a time: do the tests notice?")
    parser.add_argument("--only", default="", help="faults whose file or tests contain this; none: all, and a record")
    parser.add_argument("--again", action="store_true", help="faults that no test noticed when last planted")
    parser.add_argument("--workers", type=int, default=2, help="faults planted at the same time, each in a copy")
    parser.add_argument("--list", type=Path, default=HERE / "mutations.txt", help="list of faults")
    parser.add_argument("--root", type=Path, default=HERE.parent, help="git checkout that is copied")
    return parser.parse_args()


def run(faults: Sequence[Fault], root: Path, *, workers: int) -> dict[Fault, str]:
    """The verdict on each fault, printed as it is known. SystemExit where a named test fails without any fault."""
    if not faults:
        return {}
    tests = sorted({test for fault in faults for test in fault.tests})
    with copied(root) as scratch:
        words = ["-n", str(workers), "--dist", "loadfile", f"--timeout={QUICK}", *tests]
        verdict, output = tested(scratch, words)
    if verdict != "survived":
        sys.exit(f"{output}\nerror: the tests of the list must pass before a fault is planted; these do not: {verdict}")
    verdicts: dict[Fault, str] = {}
    parallel = Parallel(n_jobs=workers, backend="threading", return_as="generator")
    try:
        for fault, verdict in zip(faults, parallel(delayed(judged)(fault, root) for fault in faults), strict=True):
            verdicts[fault] = verdict
            print(f"{verdict:10}{fault}", flush=True)
    except KeyboardInterrupt:
        print("interrupted: --again goes on", flush=True)
    return verdicts


def judged(fault: Fault, root: Path) -> str:
    """The verdict on one fault, planted in a copy of `root`."""
    with copied(root) as scratch:
        if not fault.plant(scratch / "tree"):
            return "stale"
        return tested(scratch, ["-x", f"--timeout={SLOW}", *fault.tests])[0]


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A temporary folder with a copy of what git tracks or would add (`tree`), a cache and temporary files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                target = Path(folder, "tree", name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, target)
        for name in ("cache", "tmp"):
            Path(folder, name).mkdir()
        yield Path(folder)


def tested(scratch: Path, words: Sequence[str]) -> tuple[str, str]:
    """The verdict of pytest in a copy, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    printed = scratch / "printed"  # a pipe would stay open as long as any process that a test left behind
    with open(printed, "w") as file:
        options: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT, "timeout": HANGING}
        try:
            code = subprocess.run(
                command, cwd=scratch / "tree", env=environment(scratch), check=False, **options
            ).returncode
        except subprocess.TimeoutExpired:
            return "timed out", printed.read_text()
    output = printed.read_text()
    if code == 1:
        return ("timed out" if "from pytest-timeout" in output else "caught"), output
    return ("survived" if code == 0 else "broken"), output


def environment(scratch: Path) -> Mapping[str, str]:
    """The variables of a test run: the copy's code before any installed, and nothing shared with other runs."""
    tree = scratch / "tree"
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str((tree / folder).resolve()) for folder in IMPORTED_FROM),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "DD_APPS_CACHE": str(scratch / "cache"),
        "TMPDIR": str(scratch / "tmp"),
    }


def noticed_before() -> frozenset[str]:
    """Digests of the faults that a test noticed when they were last planted."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return frozenset(last_verdicts([json.loads(line) for line in lines])[0])


def last_verdicts(lines: Sequence[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """Digests of the faults that were noticed, and of those that were not, when they were last planted."""
    noticed: set[str] = set()
    missed: set[str] = set()
    for line in lines:  # records of the first days do not have `missed`
        noticed = (noticed | set(line["noticed"])) - set(line.get("missed", ()))
        missed = (missed | set(line.get("missed", ()))) - set(line["noticed"])
    return noticed, missed


def record(
    faults: Sequence[Fault],
    verdicts: Mapping[Fault, str],
    earlier: Set[Fault],
    told: Mapping[str, Any],
    *,
    begun: str,
    seconds: float,
) -> None:
    """Append what was found: the verdicts of this run, and which faults it noticed, or an `earlier` one did."""
    noticed = {fault for fault, verdict in verdicts.items() if verdict in NOTICED} | earlier
    missed = {fault: verdict for fault, verdict in verdicts.items() if verdict not in NOTICED}
    found = {"faults": len(faults), "planted": len(verdicts), "verdicts": Counter(verdicts.values())}
    common = facts("mutations", told, run=begun, data="none: the project's own code")
    listed = {"not_noticed": [f"{verdict}: {fault}" for fault, verdict in missed.items()]}
    listed |= {"missed": sorted(fault.digest for fault in missed), "noticed": sorted(each.digest for each in noticed)}
    append(RESULTS, {**common, **found, **listed, "seconds": round(seconds)})


if __name__ == "__main__":
    main()
