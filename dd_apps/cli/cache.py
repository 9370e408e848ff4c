"""`artefacts list` and `artefacts prune`: show and clear the cache. No torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dd_apps.cli.options import Json
from dd_apps.cli.terminal import Answer, Page
from dd_apps.report.tables import Table, human_bytes
from dd_core import artefacts

Everything = Annotated[bool, typer.Option("--all", help="Remove complete artefacts too.")]


def artefacts_app() -> typer.Typer:
    """`artefacts` with its two verbs."""
    app = typer.Typer(help="Show or clear the cache of artefacts, such as expert trajectories and teachers.")
    app.command("list")(list_artefacts)
    app.command("prune")(prune)
    return app


def list_artefacts(*, as_json: Json = False) -> Answer:
    """List the artefacts in the cache."""
    rows = artefacts.listing()
    fields = {"artefacts": rows, "bytes": _total(rows), "cache": str(artefacts.cache_folder())}
    return Answer(fields, lambda page: _show(page, rows, title=f"artefacts in {artefacts.cache_folder()}"))


def prune(*, everything: Everything = False, as_json: Json = False) -> Answer:
    """Remove half-made artefacts, or with --all complete ones too; artefacts that a run is making stay."""
    rows = artefacts.prune(everything=everything)
    fields = {"removed": rows, "bytes": _total(rows), "cache": str(artefacts.cache_folder())}
    return Answer(fields, lambda page: page.line(f"removed {len(rows)} artefacts, {human_bytes(_total(rows))}"))


def _total(rows: list[dict[str, Any]]) -> int:
    return sum(row["bytes"] for row in rows)


def _show(page: Page, rows: list[dict[str, Any]], *, title: str) -> None:
    shown = [
        {
            "kind": row["kind"],
            "digest": row["digest"][:16],
            "state": "complete" if row["complete"] else "half made",
            "bytes": row["bytes"],
        }
        for row in rows
    ]
    page.table(
        Table(title, shown, units={"bytes": "bytes"}, notes=[f"{len(rows)} in all, {human_bytes(_total(rows))}"])
    )
