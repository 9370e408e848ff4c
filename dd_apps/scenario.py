"""Scenarios: one TOML file per experiment -> a typed value -> a run.

The key `task` chooses the application; everything else in the file is decoded, once and strictly, by that
application's own model, after `--set key=value` has been merged in. Applications are imported when a
scenario asks for them.
"""

from __future__ import annotations

import importlib
import shlex
import tomllib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_apps.task import Outcome, TaskScenario
from dd_core.config import decode, plain
from dd_core.errors import Option, UserError, unknown_name
from dd_core.lazy import offers
from dd_core.methods import decode_method
from dd_core.store import disk_errors
from dd_core.system import parallel

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

_SUFFIX = ".toml"
NO_IDENTITY = ("workers",)  # keys that no result depends on
TASKS = {
    "compare": "dd_apps.compare.config:CompareScenario",
    "continual": "dd_apps.continual.config:ContinualScenario",
    "distill": "dd_apps.distillation:DistillScenario",
    "nas-rank": "dd_apps.nas.config:RankScenario",
    "nas-search": "dd_apps.nas.config:SearchScenario",
    "study": "dd_apps.study:StudyScenario",
    "transfer": "dd_apps.transfer.config:TransferScenario",
}


@dataclass(frozen=True)
class Scenario:
    """A decoded scenario: the file it is in, its task, its typed values, and what `--set` changed, as it was typed."""

    path: Path
    task: str
    values: TaskScenario
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return self.path.stem

    @property
    def results_name(self) -> str:
        """Default name of the results folder: the scenario's name, or TASK-NAME where two tasks share the name."""
        names = {path: name for name, path in shipped().items()}
        return names.get(self.path, self.name).replace("/", "-")

    @property
    def origin(self) -> str:
        """`scenario NAME --set key=value ...`: where the values come from, as the report says it."""
        changes = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["scenario", self.name, *changes])

    @property
    def workers(self) -> int | None:
        """Number of parallel jobs that the scenario asks for; None if the scenario does not say."""
        return getattr(self.values, "workers", None)

    def plain(self) -> dict[str, Any]:
        """The task and every value, for JSON."""
        return {"task": self.task, **plain(self.values)}


def identity_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `Scenario.plain` that determine the results."""
    return {name: value for name, value in values.items() if name not in NO_IDENTITY}


def load(wanted: str, *, overrides: Sequence[str] = (), of: str | None = None) -> Scenario:
    """Load the scenario called `wanted`, or the file `wanted` if that name ends in .toml.

    of: the task whose scenario is taken if two tasks share the name. overrides: `key.path=value` texts.
    Raises `UserError` in one line naming file and key.
    """
    path = find(wanted, of=of)
    where = wanted if wanted.endswith(_SUFFIX) else path.name
    table = read(path)
    for override in overrides:
        assign(table, override)
    task = table.pop("task", None)
    if not isinstance(task, str):
        raise UserError(f"{where}: task: required; one of {', '.join(task_names())}")
    try:
        model = load_task(task)
    except UserError as error:
        raise UserError(f"{where}: task: {error}") from None
    values = decode(model, table, where=where)
    if "method" in table:
        # a task's model takes any options of a method: the method's own model checks them
        decode_method(table["method"], where=where)
    return Scenario(path, task, values, tuple(overrides))


def task_names() -> list[str]:
    """Every task that a scenario can ask for, other packages' (entry points `dd_apps.tasks`) included."""
    return sorted({*TASKS, *offers("dd_apps.tasks")})


def load_task(name: str) -> type[TaskScenario]:
    """The scenario class of a task; imports the module of that task only. Raises `UserError` for an unknown name."""
    target = TASKS.get(name)
    if target is None:
        others = offers("dd_apps.tasks")
        if name not in others:
            raise unknown_name("task", name, task_names())
        return others[name].load()
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


# --- running -------------------------------------------------------------------------------------------------


def run(scenario: Scenario, *, folder: Path, options: RunOptions) -> Outcome:
    """Run a scenario, resuming from `folder`. Raises `UserError`, also where an extra is not installed."""
    try:
        with parallel.Pool(options.workers):  # one pool of workers for the whole task
            return scenario.values.run(folder, options)
    except UserError as error:
        raise UserError(error.spelled(partial(_as_key, type(scenario.values).model_fields))) from error


def _as_key(keys: Container[str], option: Option) -> str:
    """Spell an option in an error's text as a key of the scenario; an option that is no key keeps its own spelling."""
    if option.name not in keys or option.name in NO_IDENTITY:
        return str(option)
    if option.value is None:
        return option.name
    value = str(option.value).lower() if isinstance(option.value, bool) else option.value  # as TOML has it
    return f"--set {option.name}={value}"


# --- finding and reading -------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """The files of the scenarios that come with the package, by name.

    The name is the file's, without `.toml`; it is `task/name` where the files of two tasks have the same name.
    """
    paths = sorted(_folder().glob(f"*/*{_SUFFIX}"), key=lambda path: (path.stem, path.parent.name))
    stems = Counter(path.stem for path in paths)
    return {path.stem if stems[path.stem] == 1 else _full_name(path): path for path in paths}


def _full_name(path: Path) -> str:
    """`task/name`: the folder of a shipped scenario is its task."""
    return f"{path.parent.name}/{path.stem}"


def _folder() -> Path:
    """`dd_apps/_scenarios` in an installed wheel, `scenarios/` beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "_scenarios"
    return installed if installed.is_dir() else package.parent / "scenarios"


def find(wanted: str, *, of: str | None = None) -> Path:
    """The file of the scenario `wanted`: `task/name`, `name`, or the path of a .toml file.

    `name` alone means the scenario of the task `of`, if that task has a scenario of this name.
    Raises `UserError` for an unknown name, and for a name that two tasks share.
    """
    if wanted.endswith(_SUFFIX):
        return Path(wanted)
    known = shipped()
    files = {_full_name(path): path for path in known.values()} | known
    for name in (f"{of}/{wanted}", wanted):
        if name in files:
            return files[name]
    several = sorted(name for name in known if name.endswith(f"/{wanted}"))
    if several:
        raise UserError(f"scenario '{wanted}': {' or '.join(several)}? Give the task as well")
    raise unknown_name("scenario", wanted, known)


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file; raises `UserError` naming file and line."""
    with disk_errors(path), open(path, "rb") as file:
        content = file.read()
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def summary(path: Path) -> str:
    """The comment on the first line of a scenario's file, which says what the scenario is; "" without a comment."""
    with disk_errors(path), open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    return first.lstrip("# ").strip() if first.startswith("#") else ""


# --- key=value -----------------------------------------------------------------------------------------------


def assign(table: dict[str, Any], override: str) -> None:
    """Put `key.path=value` into nested tables. The value is read as TOML; a value that is not TOML is a string.

    Raises `UserError` for a text without `=` and for a path through a value that is no table.
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
