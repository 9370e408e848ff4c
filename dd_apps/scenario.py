"""Scenarios: one TOML file per experiment -> a typed value -> a run.

The key `task` chooses the application; everything else in the file is decoded, once and strictly, by that
application's own model, after `--set key=value` has been merged in. Applications are imported when a
scenario asks for them.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd_core.config import Config, decode, plain
from dd_core.errors import UserError, unknown_name
from dd_core.methods import decode_method
from dd_core.store import disk_errors

_TASKS = {
    "continual": "dd_apps.continual.config:ContinualScenario",
    "distill": "dd_apps.distillation:DistillScenario",
}


@dataclass(frozen=True)
class Scenario:
    """A decoded scenario: the file it is in, its task, and its typed values."""

    path: Path
    task: str
    values: Config

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return self.path.stem

    def plain(self) -> dict[str, Any]:
        """Everything that determines its results, for JSON."""
        return {"task": self.task, **plain(self.values)}


def load(wanted: str, *, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario called `wanted`, or in the file `wanted` where that ends in .toml.

    `overrides` are `key.path=value` texts. Raises `UserError` in one line naming file and key.
    """
    path = find(wanted)
    table = read(path)
    for override in overrides:
        assign(table, override)
    task = table.pop("task", None)
    if not isinstance(task, str):
        raise UserError(f"{path.name}: task: required; one of {', '.join(_TASKS)}")
    if task not in _TASKS:
        raise UserError(f"{path.name}: task: {unknown_name('task', task, _TASKS)}")
    values = decode(_attribute(_TASKS[task]), table, where=path.name)
    if "method" in table:
        # a task's model keeps the method's options as they are: which ones there are, its name decides
        decode_method(table["method"], where=path.name)
    return Scenario(path, task, values)


def _attribute(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


# --- finding and reading -------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """The scenarios that come with the package, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def _folder() -> Path:
    """`dd_apps/_scenarios` in an installed wheel, `scenarios/` beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "_scenarios"
    return installed if installed.is_dir() else package.parent / "scenarios"


def find(wanted: str) -> Path:
    """The file of a scenario; raises `UserError` for an unknown name."""
    if wanted.endswith(".toml"):
        return Path(wanted)
    known = shipped()
    if wanted not in known:
        raise unknown_name("scenario", wanted, known)
    return known[wanted]


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file; raises `UserError` naming file and line."""
    with disk_errors(path), open(path, "rb") as file:
        content = file.read()
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not valid TOML: {error}") from None


def summary(path: Path) -> str:
    """What a scenario is, from the comment on its first line."""
    with disk_errors(path), open(path, encoding="utf-8") as file:
        first = file.readline()
    return first.lstrip("# ").strip() if first.startswith("#") else ""


# --- key=value -----------------------------------------------------------------------------------------------


def assign(table: dict[str, Any], override: str) -> None:
    """Put `key.path=value` into nested tables. The value is TOML; what is not TOML is taken as a word.

    Raises `UserError` for a text without `=` and for a path through something that is no table.
    """
    dotted, equals, text = override.partition("=")
    path = [part.strip() for part in dotted.split(".")]
    if not equals or not all(path):
        raise UserError(f"--set {override}: expected key=value, as in --set method.steps=200")
    for depth, part in enumerate(path[:-1], start=1):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {'.'.join(path[:depth])} is {inner!r} and has no keys")
        table = inner
    table[path[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
