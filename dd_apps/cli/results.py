"""The folder of a run: what is written into it, found complete there, and removed from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_apps.report.pictures import contact_sheet, png_bytes
from dd_apps.report.scores import machine
from dd_apps.report.tables import Table, markdown, printable
from dd_core import store
from dd_core.config import plain
from dd_core.errors import UserError

if TYPE_CHECKING:
    from dd_apps.scenario import Scenario
    from dd_apps.task import Outcome
    from dd_core.system.environment import Environment

WORK = "work"
_FIGURES = "results.json"
_REPORT = "report.md"


@dataclass(frozen=True)
class Results:
    """What a folder holds: tables for people, and the fields of `--json`."""

    tables: Sequence[Table]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds, the machine, and what can change the last bits of its figures."""

    seconds: float
    hardware: Mapping[str, Any]
    environment: Environment


def write(folder: Path, loaded: Scenario, outcome: Outcome, cost: Cost) -> Results:
    """Write figures, sets, pictures and report."""
    clear(folder)
    pictures = {f"{name}.png": ds for name, ds in {**outcome.sets, **outcome.drawn}.items()}
    plots = {f"{name}.png": content for name, content in outcome.plots.items()}
    figures = {
        **outcome.details,
        "scenario": loaded.plain(),
        "results": {table.title: table.plain() for table in outcome.tables},
        "tables": [_layout(table) for table in outcome.tables],
        "seconds": round(cost.seconds, 3),
        "hardware": dict(cost.hardware),
        "environment": plain(cost.environment),
        "files": [_REPORT, *plots, *pictures, *(f"{name}.safetensors" for name in outcome.sets)],
    }
    # first, because it lists the others: the folder is complete when all of them are there
    store.write_json(folder / _FIGURES, figures)
    for name, ds in outcome.sets.items():
        store.write_set(folder / f"{name}.safetensors", ds)
    for name, content in plots.items():
        store.write_bytes(folder / name, content)
    for name, ds in pictures.items():
        store.write_bytes(folder / name, png_bytes(contact_sheet(ds)))
    store.write_bytes(folder / _REPORT, _report(loaded, outcome, list(plots), list(pictures), cost.hardware).encode())
    return _results(folder, figures)


def complete(folder: Path, environment: Environment) -> Results | None:
    """What an earlier run left here, if it is all there and was computed in this environment."""
    figures = _read(folder)
    if figures.get("environment") != plain(environment):
        return None
    return _results(folder, figures) if all(path.exists() for path in _files(folder, figures)) else None


def clear(folder: Path, *, work: bool = False) -> None:
    """Remove what a run wrote into its folder, and with `work` what it would resume from."""
    with store.disk_errors(folder):
        for path in (*_files(folder, _read(folder)), folder / _REPORT, folder / _FIGURES):
            path.unlink(missing_ok=True)
        if work and (folder / WORK).exists():
            shutil.rmtree(folder / WORK)


def _read(folder: Path) -> dict[str, Any]:
    """The figures; nothing where there are none that can be read."""
    try:
        figures = store.read_json(folder / _FIGURES)
    except UserError:
        return {}
    return figures if isinstance(figures, dict) else {}


def _files(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    # the name alone: nothing outside the folder is ever meant
    return [folder / Path(name).name for name in figures.get("files", ())]


def _layout(table: Table) -> dict[str, Any]:
    """What a table says beside its rows; JSON does not keep the order of columns."""
    return {
        "title": table.title,
        "columns": table.columns(),
        "units": dict(table.units),
        "notes": list(table.notes),
    }


def _results(folder: Path, figures: Mapping[str, Any]) -> Results:
    tables = [_table(layout, figures["results"][layout["title"]]) for layout in figures["tables"]]
    fields = {
        "results": {table.title: table.plain() for table in tables},
        "seconds": figures["seconds"],
        "hardware": figures["hardware"],
        "report": str(folder / _REPORT),
        "figures": str(folder / _FIGURES),
        "pictures": [str(folder / name) for name in figures["files"] if name.endswith(".png")],
    }
    return Results(tables, fields)


def _table(layout: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    ordered = [{column: row[column] for column in layout["columns"] if column in row} for row in rows]
    return Table(layout["title"], ordered, units=layout["units"], notes=layout["notes"])


def _report(
    loaded: Scenario, outcome: Outcome, plots: Sequence[str], pictures: Sequence[str], hardware: Mapping[str, Any]
) -> str:
    # of the values alone: what the file says of itself need not be true of what --set made of it
    parts = [f"# {printable(loaded.values.title)}\n", f"{printable(loaded.origin)}\n"]
    parts += [markdown(table) for table in outcome.tables]
    parts += [f"![{Path(name).stem}]({name})\n" for name in plots]
    parts += [f"## images: {Path(name).stem}\n\n![{Path(name).stem}]({name})\n" for name in pictures]
    parts.append(f"## machine\n\n{machine(hardware)}\n")
    return "\n".join(parts)
