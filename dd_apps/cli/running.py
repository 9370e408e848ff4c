"""`run` and `quickstart`: a scenario from its file to a folder with tables, pictures and a report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from filelock import FileLock, Timeout

from dd_apps import scenario
from dd_apps.cli import options
from dd_apps.cli.terminal import Answer, Page, Session
from dd_apps.report.tables import markdown
from dd_core import store
from dd_core.config import difference
from dd_core.errors import UserError

if TYPE_CHECKING:
    from dd_apps.scenario import Outcome, Scenario

Wanted = Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="See `dd-apps list scenarios`.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go; runs/NAME by default.")]
Jobs = Annotated[int | None, typer.Option("--workers", min=1, help="Independent jobs at the same time.")]


def run(
    context: typer.Context,
    wanted: Wanted,
    *,
    settings: options.Settings,
    out: Out = None,
    fresh: options.Fresh = False,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = 1,
    as_json: options.Json = False,
) -> Answer:
    """Run a scenario: tables, pictures and a report go into one folder."""
    session: Session = context.obj
    loaded = scenario.load(wanted, overrides=settings)
    folder = out or Path("runs") / loaded.name
    workers = options.workers_of(parallel, jobs, threads)
    with _claimed(folder, loaded, fresh=fresh):
        how = options.run_options(session, device=device, threads=threads, workers=workers, fresh=fresh)
        begun = time.monotonic()
        outcome = scenario.run(loaded, folder=folder, options=how)
        files = _write(folder, loaded, outcome, seconds=time.monotonic() - begun)
    tables = {table.title: table.plain() for table in outcome.tables}
    fields = {"results": tables, **{name: str(path) for name, path in files.items()}}
