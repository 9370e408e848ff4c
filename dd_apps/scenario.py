"""Scenarios: one TOML file per experiment -> a typed value -> a run.

The key `task` chooses the application; everything else in the file is decoded, once and strictly, by that
application's own model, after `--set key=value` has been merged in. Applications are imported when a
scenario asks for them.
"""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_apps.report.tables import Table, Unit
from dd_core.config import decode, plain
from dd_core.errors import Interrupted, UserError, unknown_name
from dd_core.methods import decode_method
from dd_core.store import disk_errors

if TYPE_CHECKING:
    from dd_apps.continual.config import ContinualScenario
    from dd_apps.distillation import DistillScenario
    from dd_apps.study import StudyScenario
    from dd_core.distilled import DistilledSet
    from dd_core.runner import RunOptions

_SUFFIX = ".toml"
_TASKS = {
    "continual": "dd_apps.continual.config:ContinualScenario",
    "distill": "dd_apps.distillation:DistillScenario",
    "study": "dd_apps.study:StudyScenario",
}


@dataclass(frozen=True)
class Scenario:
    """A decoded scenario: the file it is in, its task, its typed values, and what `--set` changed, as it was typed."""

    path: Path
    task: str
    values: ContinualScenario | DistillScenario | StudyScenario
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return self.path.stem

    @property
    def origin(self) -> str:
        """Which file the values come from and which of them `--set` gave, in words."""
        changes = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["scenario", self.name, *changes])

    @property
    def workers(self) -> int | None:
        """How many jobs at the same time the scenario asks for, where it says so."""
        return getattr(self.values, "workers", None)

    def plain(self) -> dict[str, Any]:
        """Everything that determines its results, for JSON."""
        return {"task": self.task, **plain(self.values)}


def load(wanted: str, *, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario called `wanted`, or in the file `wanted` where that ends in .toml.

    `overrides` are `key.path=value` texts. Raises `UserError` in one line naming file and key.
    """
    path = find(wanted)
    where = wanted if wanted.endswith(_SUFFIX) else path.name
    table = read(path)
    for override in overrides:
        assign(table, override)
    task = table.pop("task", None)
    if not isinstance(task, str):
        raise UserError(f"{where}: task: required; one of {', '.join(_TASKS)}")
    if task not in _TASKS:
        raise UserError(f"{where}: task: {unknown_name('task', task, _TASKS)}")
    values = decode(_attribute(_TASKS[task]), table, where=where)
    if "method" in table:
        # a task's model keeps the method's options as they are: which ones there are, its name decides
        decode_method(table["method"], where=where)
    return Scenario(path, task, values, tuple(overrides))


def _attribute(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


# --- running -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a run found: tables for people, distilled sets to be drawn and kept, and all the figures for JSON.

    `drawn`: what is to be drawn only, such as a memory of real images; `plots`: PNG files by name.
    """

    tables: Sequence[Table]
    sets: Mapping[str, DistilledSet]
    details: Mapping[str, Any]
    drawn: Mapping[str, DistilledSet] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)


def run(scenario: Scenario, *, folder: Path, options: RunOptions) -> Outcome:
    """Run it; what can be resumed is kept in `folder`. Raises `UserError` where an extra is not installed."""
    try:
        if scenario.task == "continual":
            return _continual(scenario, folder, options)
        if scenario.task == "study":
            return _study(scenario, folder, options)
        return _distill(scenario, folder, options)
    except UserError as error:
        raise UserError(_in_keys(str(error))) from error


def _in_keys(advice: str) -> str:
    """The engine's advice names options of other verbs; here they are keys of the scenario."""
    advice = advice.replace("--skip-corrupt", "--set skip_corrupt=true")
    return re.sub(r"--image-size (\d+)", r"--set image_size=\1", advice)


def _continual(scenario: Scenario, folder: Path, options: RunOptions) -> Outcome:
    from dd_apps.continual import ContinualScenario
    from dd_apps.continual import run as run_continual

    assert isinstance(scenario.values, ContinualScenario)
    try:
        results = run_continual(
            scenario.values,
            workers=options.workers,
            reporter=options.reporter,
            folder=folder,
            device=options.device,
        )
    except Interrupted as error:  # one of its jobs was; the command that it names is not the user's
        raise Interrupted(f"interrupted; to go on: {options.resume_command}", error.exit_code - 128) from None
    tables = [
        Table(title, rows, units=_units(rows), notes=results.notes[title]) for title, rows in results.tables.items()
    ]
    # a memory of real images was not made by a run, and is no distilled set
    kept = {name: ds for name, ds in results.memories.items() if ds.manifest.provenance is not None}
    drawn = {name: ds for name, ds in results.memories.items() if name not in kept}
    verdicts = {
        table: {row: {other: asdict(verdict) for other, verdict in against.items()} for row, against in rows.items()}
        for table, rows in results.verdicts.items()
    }
    return Outcome(tables, kept, {"matrices": results.matrices, "verdicts": verdicts}, drawn)


def _units(rows: Sequence[Mapping[str, Any]]) -> dict[str, Unit]:
    """Accuracies and what is made of them are the columns with a mean and a std; bytes and seconds say so."""
    spreads = {column for row in rows for column, value in row.items() if isinstance(value, Mapping)}
    units: dict[str, Unit] = dict.fromkeys(spreads, "percent")
    return {**units, "bytes": "bytes", "seconds": "seconds"}


def _distill(scenario: Scenario, folder: Path, options: RunOptions) -> Outcome:
    from dd_apps import distillation
    from dd_apps.report.scores import figures, score_table

    assert isinstance(scenario.values, distillation.DistillScenario)
    ds, scored = distillation.run(scenario.values, out=folder / "distilled.safetensors", options=options)
    table = score_table(scored.evaluations, title="accuracy on test images")
    return Outcome([table], {"distilled": ds}, {"evaluations": [figures(one) for one in scored.evaluations]})


def _study(scenario: Scenario, folder: Path, options: RunOptions) -> Outcome:
    from dd_apps import study
    from dd_apps.report.scores import figures, study_plot, study_table

    assert isinstance(scenario.values, study.StudyScenario)
    cells = study.run(scenario.values, folder=folder, options=options)
    places = [(cell.classes, cell.label_noise, cell.evaluation) for cell in cells]
    return Outcome(
        [study_table(places)],
        {cell.name: cell.ds for cell in cells},
        {
            "evaluations": [
                {"classes": cell.classes, "label_noise": cell.label_noise, **figures(cell.evaluation)} for cell in cells
            ]
        },
        plots={"accuracy": study_plot(places)},
    )


# --- finding and reading -------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """The scenarios that come with the package: the file of each, by the shortest name that means it alone.

    That is the name of the file, and `task/name` where files of two tasks share it.
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


def find(wanted: str) -> Path:
    """The file of a scenario, which is called `task/name`, or `name` where only one task has such a file.

    Raises `UserError` for an unknown name, and for one that two tasks have.
    """
    if wanted.endswith(_SUFFIX):
        return Path(wanted)
    known = shipped()
    files = {_full_name(path): path for path in known.values()} | known
    if wanted in files:
        return files[wanted]
    several = sorted(name for name in known if name.endswith(f"/{wanted}"))
    if several:
        raise UserError(f"scenario '{wanted}': {' or '.join(several)}? Give the task as well")
    raise unknown_name("scenario", wanted, known)


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file; raises `UserError` naming file and line."""
    with disk_errors(path), open(path, "rb") as file:
        content = file.read()
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


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
