"""The folder of a run's results: write it, recognise a complete one, and clear it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_apps.report.latex import latex
from dd_apps.report.page import html_page, markdown_page
from dd_apps.report.scores import machine
from dd_apps.report.sections import Picture, Section, Text
from dd_apps.report.tables import Table, csv_text
from dd_core import store
from dd_core.config import plain
from dd_core.distilled.pictures import contact_sheet, png_bytes
from dd_core.errors import UserError

if TYPE_CHECKING:
    from dd_apps.scenario import Scenario
    from dd_apps.task import Outcome
    from dd_core.system.environment import Environment

WORK = "work"
_FIGURES = "results.json"
_REPORT, _PAGE = "report.md", "report.html"


@dataclass(frozen=True)
class Results:
    """The results in a folder: tables for people, and the fields of `--json`."""

    tables: Sequence[Table]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """The cost of a run: its seconds, the machine, and the software, which can change the last bits of figures."""

    seconds: float
    hardware: Mapping[str, Any]
    environment: Environment


def write(folder: Path, loaded: Scenario, outcome: Outcome, cost: Cost) -> Results:
    """Write figures, sets, pictures, tables and report."""
    clear(folder)
    sections = [*outcome.sections, *_sheets(outcome), Text("machine", machine(cost.hardware))]
    files = {**_pictures(sections), **_table_files(outcome.tables)}
    figures = {
        **outcome.details,
        "scenario": loaded.plain(),
        "results": {table.title: table.plain() for table in outcome.tables},
        "tables": [_layout(table) for table in outcome.tables],
        "seconds": round(cost.seconds, 3),
        "hardware": dict(cost.hardware),
        "environment": plain(cost.environment),
        "files": [_REPORT, _PAGE, *files, *(f"{name}.safetensors" for name in outcome.sets)],
    }
    # first, because it lists the others: the folder is complete when all of them are there
    store.write_json(folder / _FIGURES, figures)
    for name, ds in outcome.sets.items():
        store.write_set(folder / f"{name}.safetensors", ds)
    # the title is made from the values: the comment in the scenario's file need not hold for what --set changed
    title, origin = loaded.values.title, loaded.origin
    files[_REPORT] = markdown_page(title, origin, sections).encode()
    files[_PAGE] = html_page(title, origin, sections).encode()
    for name, content in files.items():
        store.write_bytes(folder / name, content)
    return _results(folder, figures)


def _sheets(outcome: Outcome) -> list[Picture]:
    every = {**outcome.sets, **outcome.drawn}
    return [Picture(name, f"images: {name}", png_bytes(contact_sheet(ds))) for name, ds in every.items()]


def _pictures(sections: Sequence[Section]) -> dict[str, bytes]:
    pictures = [section for section in sections if isinstance(section, Picture)]
    lines = {f"{picture.name}.svg": picture.svg for picture in pictures if picture.svg is not None}
    return {**{f"{picture.name}.png": picture.png for picture in pictures}, **lines}


def _table_files(tables: Sequence[Table]) -> dict[str, bytes]:
    """Each table as CSV and as LaTeX under its title, in letters that every file system takes."""
    files: dict[str, bytes] = {}
    for number, table in enumerate(tables, start=1):
        name = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")[:80] or "table"
        name = name if f"{name}.csv" not in files else f"{name}-{number}"
        files |= {f"{name}.csv": csv_text(table).encode(), f"{name}.tex": latex(table).encode()}
    return files


def complete(folder: Path, environment: Environment) -> Results | None:
    """The results in `folder`, or None if a file is missing or they were computed in another environment."""
    figures = _read(folder)
    if figures.get("environment") != plain(environment):
        return None
    return _results(folder, figures) if all(path.exists() for path in _files(folder, figures)) else None


def clear(folder: Path, *, work: bool = False) -> None:
    """Remove the results that a run wrote into `folder`; with `work`, also the state that it would resume from."""
    with store.disk_errors(folder):
        for path in (*_files(folder, _read(folder)), folder / _REPORT, folder / _PAGE, folder / _FIGURES):
            path.unlink(missing_ok=True)
        if work and (folder / WORK).exists():
            shutil.rmtree(folder / WORK)


def _read(folder: Path) -> dict[str, Any]:
    """The figures in results.json; empty if the file is missing or cannot be read."""
    try:
        figures = store.read_json(folder / _FIGURES)
    except UserError:
        return {}
    return figures if isinstance(figures, dict) else {}


def _files(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    # only the last part of each path: no file outside the folder is ever removed
    return [folder / Path(name).name for name in figures.get("files", ())]


def _layout(table: Table) -> dict[str, Any]:
    """Title, columns, units and notes of a table, beside its rows: columns keep their order in a list."""
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
        "page": str(folder / _PAGE),
        "figures": str(folder / _FIGURES),
        "pictures": [str(folder / name) for name in figures["files"] if name.endswith(".png")],
    }
    return Results(tables, fields)


def _table(layout: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    ordered = [{column: row[column] for column in layout["columns"] if column in row} for row in rows]
    return Table(layout["title"], ordered, units=layout["units"], notes=layout["notes"])
