"""Whether two checkouts compute the same, to the bit, on the same machine.

    git worktree add DIR COMMIT
    python benchmarks/nothing_moved.py --old DIR [PART|CASE ...] # appends to benchmarks/results/nothing_moved.jsonl

`--old` is a checkout of another commit; the new one is that where this file lies. A PART is one of

- `sets`: a small set of each method and of each way to make one, an interrupted run, an export and its import;
- `experts`: expert trajectories, starting weights and whitenings, as they lie in the cache;
- `scores`: small sets under each protocol, on networks of each kind, from each start, by one process and by two, and
  the weights of networks that were trained on them (`dd_core.train`), which say more than accuracies;
- `continual-small`: both tables of class-incremental learning, with few epochs;
- `quickstart`: both tables of the quickstart, which takes two minutes a side;

none: all. `moved_cases.py` has the cases; one alone, by its name, runs with the sets that it scores. Modules and names
of Python may differ between the checkouts: a case is a few command lines (`dd-apps ...`), each in a process with that
side's code on PYTHONPATH, one thread, and a folder and an empty cache of the case. Both sides run the files that lie
here, with the packages of the new side's environment.

Compared are the arrays and manifests of sets, logged losses, the tensors of artefacts, trained weights, and the figures
of `--json` and results.json. Not compared are seconds, machines, versions, sentences, the digests that name artefacts,
and what only the new side has: a new field has a default under which the others mean what they meant.

A case is `same`, or it has MOVED, or it is only in one checkout, because its commands fail in the other. One that fails
in both proves nothing, and counts as moved. The exit code is 1 where anything moved. Networks with dropout are exempt:
where in an epoch their draws are seeded may change. The case that has one is shown, and changes no exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import moved_side
from moved_cases import CASES, PARTS, Case, write_given
from moved_side import Record
from record import RESULTS, append, facts, now
from steps import commit

from dd_core import UserError

NEW = Path(__file__).resolve().parents[1]
UNCOMPARED = frozenset(
    (
        *("seconds", "hardware", "environment", "peak_memory_bytes"),  # of the machine
        *("path", "report", "figures", "pictures", "files", "sha256"),  # a file's digest covers its versions
        *("tables", "notes", "warnings", "test", "data", "lost"),  # sentences
    )
)
GONE = " is gone"
SHOWN = 3  # differences of a case in the table; the record has all


# --- a side ------------------------------------------------------------------------------------------------------


class Side:
    """The process that runs cases by the code of a checkout, each in a folder of its own in `folder`."""

    def __init__(self, name: str, checkout: Path, folder: Path) -> None:
        self.name, self.checkout, self.folder = name, checkout, folder
        code = os.pathsep.join(map(str, (checkout / "core", checkout)))
        env = {**os.environ, "PYTHONPATH": code, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, moved_side.__file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def check(self) -> None:
        """Wait for it; raises `UserError` where it has imported another checkout's code."""
        for file in self._answer():
            if not Path(file).resolve().is_relative_to(self.checkout):
                raise UserError(f"the {self.name} side has imported {file}, which is not in {self.checkout}")

    def run(self, case: Case) -> Record:
        """The results of a case, or `failure`."""
        assert self.process.stdin is not None
        print(json.dumps([case.name, str(self.folder / case.name)]), file=self.process.stdin, flush=True)
        found: Record = self._answer()
        if "failure" in found:  # without anybody's path
            line = found["failure"].replace(str(self.checkout), "DIR").replace(str(self.folder.parent), "TMP")
            return {"failure": line}
        return found

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the {self.name} side has ended with exit code {self.process.wait()}")
        return json.loads(line)


# --- comparing ---------------------------------------------------------------------------------------------------


def verdict(case: Case, old: Record, new: Record) -> Record:
    """The verdict on a case, whether it changes the exit code, and the names of what differs."""
    failures = {side: found["failure"] for side, found in (("old", old), ("new", new)) if "failure" in found}
    what, added = [f"{side}: {line}" for side, line in failures.items()], list[str]()
    if len(failures) == 2:
        word = "FAILED"
    elif failures:
        word = f"only in {'new' if 'old' in failures else 'old'}"
    else:
        what = differences(old, new)
        added = [line.removesuffix(GONE) for line in differences(new, old) if line.endswith(GONE)]
        word = "MOVED" if what else "same"
    return {"word": word, "counts": word != "same" and not case.exempt, "what": what, "only_in_new": added}


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The dotted names of values that differ between `old` and `new`; a value that only `new` has is no difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        compared = [key for key in old if key not in UNCOMPARED]
        return [line for key in compared for line in _of_item(old[key], new, key, f"{where}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [f"{where}: {len(old)} of them, now {len(new)}"]
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{where}[{index}]")]
    return [] if json.dumps(old) == json.dumps(new) else [where]  # as text: 0.0 is not -0.0, and NaN is itself


def _of_item(value: Any, new: Record, key: str, where: str) -> list[str]:
    return differences(value, new[key], where) if key in new else [f"{where}{GONE}"]


# --- the command -------------------------------------------------------------------------------------------------


def main() -> None:
    """Every case that is asked for, then a table of all; a mistake is one line."""
    try:
        sys.exit(run(parse()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def parse() -> argparse.Namespace:
    """The parsed options of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("named", nargs="*", metavar="PART|CASE", help=f"{', '.join(PARTS)}, or a case; none: all")
    parser.add_argument("--old", type=Path, metavar="DIR", help="a checkout of another commit")
    return parser.parse_args()


def run(options: argparse.Namespace) -> int:
    """Run, compare and record; the exit code. Raises `UserError` for what cannot be asked for."""
    if options.old is None:
        raise UserError("--old DIR is missing: a checkout of another commit (git worktree add DIR COMMIT)")
    checkouts = {"old": options.old.resolve(), "new": NEW}
    commits = {side: commit(checkout, ("core", "dd_apps")) for side, checkout in checkouts.items()}
    cases = chosen(options.named)
    begun, started = now(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nothing-moved-") as root, ExitStack() as stack:
        sides = [Side(name, checkout, Path(root) / name) for name, checkout in checkouts.items()]
        for side in sides:
            stack.callback(side.end)
        for side in sides:
            side.check()
        write_given(Path(root) / "given")
        verdicts = {case.name: compared(case, sides) for case in cases}
    found = {"commits": commits, "seconds": round(time.monotonic() - started), "cases": verdicts}
    words = Counter(each["word"] for each in verdicts.values())
    told = facts("nothing-moved", {"old": "DIR"}, run=begun, data="digits of scikit-learn, and noise")
    told["command"] = told["command"].replace("BENCH_ARGS='", f"BENCH_ARGS='{' '.join([*options.named, ''])}", 1)
    append(RESULTS / "nothing_moved.jsonl", {**told, "words": words, **found})
    print("\n".join([*table(cases, verdicts), f"{', '.join(f'{n} {word}' for word, n in words.items())}"]))
    return int(any(each["counts"] for each in verdicts.values()))


def chosen(named: Sequence[str]) -> list[Case]:
    """The cases of these names and parts, and those whose sets they score; raises `UserError` for what is none."""
    for name in named:
        if not any(name in (case.part, case.name) for case in CASES):
            raise UserError(f"unknown part or case '{name}' (parts: {', '.join(PARTS)})")
    wanted = {case.name for case in CASES if not named or {case.part, case.name} & {*named}}
    made = {case: {Path(word).parent.name for words in case.commands for word in words} for case in CASES}
    wanted |= {name for case, names in made.items() if case.name in wanted for name in names}
    return [case for case in CASES if case.name in wanted]


def compared(case: Case, sides: Sequence[Side]) -> Record:
    """The verdict on a case; both sides at once, unless it takes several processes itself."""
    print(case.name, file=sys.stderr, flush=True)
    with ThreadPoolExecutor(1 if case.processes > 1 else len(sides)) as both:
        old, new = both.map(lambda side: side.run(case), sides)
    return verdict(case, old, new)


def table(cases: Sequence[Case], verdicts: dict[str, Record]) -> list[str]:
    """A line for each case."""
    width = max(len(case.name) for case in cases)
    return [f"{case.name:<{width}}  {said(case, verdicts[case.name])}" for case in cases]


def said(case: Case, found: Record) -> str:
    """A verdict in words."""
    lines, more = found["what"][:SHOWN], len(found["what"]) - SHOWN
    where = f" ({'; '.join(lines)}{f'; and {more} more' if more > 0 else ''})" if lines else ""
    return f"{found['word']}{where}" + (f" [exempt: {case.exempt}]" if case.exempt else "")


if __name__ == "__main__":
    main()
