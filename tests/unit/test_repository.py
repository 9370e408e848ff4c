"""What holds for every tracked file: nothing unsafe, nothing tied to one machine, nothing loaded twice."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("core/", "dd_apps/", "benchmarks/")
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|https?://[^\s\"']*/simple\b")
UNPICKLERS = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}


def tracked() -> list[str]:
    """Every file that git tracks or would add, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def text_of(name: str) -> str:
    return (ROOT / name).read_bytes().decode("utf-8", errors="replace")


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted name of every module that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def imports_of_core(tree: ast.AST) -> list[str]:
    return [name for name in imported(tree) if name.split(".")[0] == "core"]


def _is_true(call: ast.Call, keyword: str) -> bool:
    """Whether `call` is given `keyword=True`, written out."""
    given = {word.arg: word.value for word in call.keywords}.get(keyword)
    return isinstance(given, ast.Constant) and given.value is True


def unsafe_loading(tree: ast.AST) -> list[str]:
    """Every construct that reads text as Python, or with which a file could run somebody else's code."""
    found = [name for name in imported(tree) if name.split(".")[0] in UNPICKLERS]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        unsafe_torch = name == "torch.load" and not _is_true(call, "weights_only")
        if (
            name in {"eval", "exec", "ast.literal_eval", "joblib.load"}
            or unsafe_torch
            or _is_true(call, "allow_pickle")
        ):
            found.append(ast.unparse(call))
    return found


def offences(scan: Callable[[ast.AST], list[str]], *folders: str) -> list[str]:
    """What `scan` finds in the tracked Python files of `folders`, each with its file."""
    files = [name for name in tracked() if name.endswith(".py") and name.startswith(folders)]
    assert files
    return [f"{name}: {found}" for name in files for found in scan(ast.parse(text_of(name)))]


def test_no_file_names_a_package_registry():
    """A lock or a script that names one installs nowhere else."""
    assert [name for name in tracked() if REGISTRY.search(text_of(name))] == []


def test_the_only_lock_is_requirements_lock():
    names = tracked()
    assert "requirements.lock" in names
    assert [name for name in names if Path(name).name in {"uv.lock", "poetry.lock", "Pipfile.lock"}] == []


def test_every_locked_package_is_pinned_with_a_hash():
    entries = re.split(r"^(?=[A-Za-z0-9])", text_of("requirements.lock"), flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert [e.splitlines()[0] for e in entries if "==" not in e or "--hash=sha256:" not in e] == []


def test_nothing_imports_the_folder_core():
    assert offences(imports_of_core, "core/", "dd_apps/", "benchmarks/", "tests/") == []


def test_only_device_says_cuda():
    sources = [name for name in tracked() if name.startswith(("core/", "dd_apps/")) and name.endswith(".py")]
    allowed = {"core/dd_core/system/device.py"}
    assert {name for name in sources if "cuda" in text_of(name)} <= allowed


def test_nothing_shipped_loads_code_from_data():
    assert offences(unsafe_loading, *SHIPPED) == []


@pytest.mark.parametrize("line", ["import core", "import core.dd_core.store as s", "from core.dd_core import store"])
def test_the_scan_sees_an_import_of_core(line: str):
    assert imports_of_core(ast.parse(line))
    assert not imports_of_core(ast.parse(line.replace("core.dd_core", "dd_core").replace("import core", "import x")))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "def f(p):\n    return torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "np.load(p, allow_pickle=True)",
        "joblib.load(p)",
        "x = eval(text)",
        "x = ast.literal_eval(text)",
    ],
)
def test_the_scan_sees_unsafe_loading(line: str):
    assert unsafe_loading(ast.parse(line))


def test_the_scan_lets_safe_loading_pass():
    assert not unsafe_loading(ast.parse("torch.load(p, weights_only=True)\nnet.eval()\nnp.load(p)"))


@pytest.mark.parametrize("host", ["https://files.python" + "hosted.org/x", "https://mirror.example/root/" + "simple/"])
def test_the_scan_sees_a_registry(host: str):
    assert REGISTRY.search(f"--extra-index-url {host}")
