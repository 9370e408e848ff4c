"""`benchmarks/mutations.py` on a project of three lines, and whether its own list fits the code."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
CODE = "def double(x):\n    return 2 * x\n"
TESTS = """
import subprocess, sys, toy
def test_three(): assert toy.double(3) == 6
def test_child(tmp_path):
    ask = "import toy; assert toy.double(3) == 6"
    assert subprocess.run([sys.executable, "-c", ask], cwd=tmp_path).returncode == 0
def test_nothing(): pass
"""

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not shipped")


@pytest.fixture
def mutations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("mutations")


def planted(folder: Path, *lines: str) -> tuple[int, str]:
    """Exit code and output of the tool for a list of faults in the toy project."""
    tree = folder / "tree"
    tree.mkdir()
    (tree / "toy.py").write_text(CODE)
    (tree / "test_toy.py").write_text(TESTS)
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
    (folder / "list.txt").write_text("# a comment\n\n" + "\n".join(lines))
    command = [sys.executable, str(BENCHMARKS / "mutations.py"), "--only", "toy"]
    command += ["--root", str(tree), "--list", str(folder / "list.txt")]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=plain)
    assert (tree / "toy.py").read_text() == CODE, "the checkout is never touched"
    return done.returncode, done.stdout


def test_every_fault_has_its_verdict_and_child_processes_see_it(tmp_path: Path):
    code, output = planted(
        tmp_path,
        "toy.py ||| 2 * x ||| 3 * x ||| test_toy.py::test_three",
        "toy.py ||| 2 * x ||| 3 * x ||| test_toy.py::test_child",
        "toy.py ||| 2 * x ||| 3 * x ||| test_toy.py::test_nothing",
        "toy.py ||| 4 * x ||| 3 * x ||| test_toy.py::test_three",
        r"toy.py ||| :\n    return 2 ||| ;\n    return 2 ||| test_toy.py",
    )
    verdicts = [line.split()[0] for line in output.splitlines() if "toy.py: " in line]
    assert verdicts == ["caught", "caught", "survived", "stale", "broken"], output
    assert "2 caught, 1 survived, 1 stale, 1 broken of 5 faults" in output
    assert code == 1


def test_faults_that_are_all_noticed_are_a_success(tmp_path: Path):
    code, output = planted(tmp_path, "toy.py ||| 2 * x ||| 2 * x + 1 ||| test_toy.py")
    assert (code, "1 caught of 1 faults" in output) == (0, True), output


def test_no_fault_is_planted_where_the_tests_fail_without(tmp_path: Path):
    code, output = planted(tmp_path, "toy.py ||| 2 * x ||| 3 * x ||| test_toy.py::test_five")
    assert code == 1
    assert "must pass before a fault is planted" in output
    assert "toy.py: " not in output


def test_a_line_says_file_texts_and_tests(mutations: ModuleType):
    fault = mutations.Fault.parse(r"a.py ||| x\n  y = '\\n' ||| ||| tests/a.py tests/b.py::test_c")
    assert (fault.file, fault.old, fault.new) == ("a.py", "x\n  y = '\\n'", "")
    assert fault.tests == ("tests/a.py", "tests/b.py::test_c")
    for line in ("a.py ||| x ||| y", "a.py ||| ||| y ||| t.py", "a.py ||| x ||| x ||| t.py", "a.py ||| x ||| y |||"):
        with pytest.raises(ValueError, match="not 'file"):
            mutations.Fault.parse(line)


def test_every_fault_of_the_list_can_be_planted(mutations: ModuleType):
    faults = mutations.faults_of(BENCHMARKS / "mutations.txt")
    assert len(set(faults)) == len(faults)
    stale = [str(fault) for fault in faults if (ROOT / fault.file).read_text().count(fault.old) != 1]
    absent = [test for fault in faults for test in fault.tests if not (ROOT / test.partition("::")[0]).is_file()]
    assert (stale, absent) == ([], [])


def test_a_record_knows_what_was_noticed_so_that_another_run_can_go_on(
    mutations: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(mutations, "RESULTS", tmp_path / "mutations.jsonl")
    faults = [mutations.Fault("a.py", "x", new, ("t.py",)) for new in ("y", "z", "q", "w")]
    assert mutations.noticed_before() == frozenset()
    caught, survived, old, _ = faults
    verdicts = {caught: "caught", survived: "survived"}
    mutations.record(faults, verdicts, {old}, {"again": True}, begun="now", seconds=1.0)
    assert mutations.noticed_before() == {caught.digest, old.digest}
    line = json.loads((tmp_path / "mutations.jsonl").read_text())
    assert (line["faults"], line["planted"]) == (4, 2)
    assert line["not_noticed"] == [f"survived: {survived}"]
    assert line["missed"] == [survived.digest]
    assert len({fault.digest for fault in faults}) == 4
    # another list later: what was noticed stays so, and each fault has its last verdict
    mutations.record([survived, old], {survived: "caught", old: "survived"}, set(), {}, begun="now", seconds=1.0)
    assert mutations.noticed_before() == {caught.digest, survived.digest}
    lines = [json.loads(line) for line in (tmp_path / "mutations.jsonl").read_text().splitlines()]
    assert mutations.last_verdicts(lines) == ({caught.digest, survived.digest}, {old.digest})
