"""`run` and `quickstart`: a scenario from its file to a folder with tables, pictures and a report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dd_apps import scenario
from dd_apps.cli import options, results
from dd_apps.cli.options import Json
from dd_apps.cli.results import Cost, Results
from dd_apps.cli.terminal import Answer, Page, Session
from dd_apps.report.scores import machine
from dd_core import store
from dd_core.errors import OUT, UserError
from dd_core.store.journal import LOCK

if TYPE_CHECKING:
    from dd_apps.scenario import Scenario

IDENTITY = "scenario.json"  # file in a folder of results: the scenario that they are of
Wanted = Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="Scenario; see `dd-apps list scenarios`.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder for results; runs/NAME by default (runs/TASK-NAME where two tasks share a name)."
    ),
]


def quickstart(
    context: typer.Context,
    *,
    out: Out = None,
    fresh: options.Fresh = False,
    jobs: options.Jobs = None,
    as_json: Json = False,
) -> Answer:
    """Run the scenario quickstart, which takes minutes on a CPU, offline."""
    loaded = scenario.load("quickstart")
    return run_scenario(context.obj, loaded, out, device="cpu", threads=1, parallel="processes", jobs=jobs, fresh=fresh)


def run(
    context: typer.Context,
    wanted: Wanted,
    *,
    settings: options.Settings,
    out: Out = None,
    fresh: options.Fresh = False,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = None,
    as_json: Json = False,
) -> Answer:
    """Run a scenario into a folder of results."""
    loaded = scenario.load(wanted, overrides=settings)
    return run_scenario(
        context.obj, loaded, out, device=device, threads=threads, parallel=parallel, jobs=jobs, fresh=fresh
    )


def run_scenario(
    session: Session,
    loaded: Scenario,
    out: Path | None,
    *,
    device: str,
    threads: int,
    parallel: str,
    jobs: int | None,
    fresh: bool,
) -> Answer:
    """Run a scenario into its folder, or show the folder's results if they are complete.

    jobs: jobs that run in parallel; None: as many as the scenario asks for.
    """
    workers = options.workers_of(parallel, jobs or loaded.workers, threads)
    folder = out or Path("runs") / loaded.results_name
    made = not os.path.lexists(folder)
    with _claimed(folder, loaded, fresh=fresh), _gone_if_empty(folder, made=made):
        run_options = options.run_options(session, device=device, threads=threads, workers=workers, fresh=fresh)
        from dd_core.system import device as devices

        where = devices.resolve(device)
        environment = devices.environment(where).model_copy(update={"threads": threads})
        kept = results.complete(folder, environment)
        if kept is not None:
            run_options.reporter.message(f"{folder}: complete already; --fresh runs it again")
            return _answer(kept)
        begun = time.monotonic()
        outcome = scenario.run(loaded, folder=folder / results.WORK, options=run_options)
        hardware = devices.hardware(where, threads=threads)
        cost = Cost(time.monotonic() - begun, hardware, environment)
        return _answer(results.write(folder, loaded, outcome, cost))


def _answer(finished: Results) -> Answer:
    return Answer(finished.fields, lambda page: _show(page, finished))


def _show(page: Page, finished: Results) -> None:
    fields = finished.fields
    for table in finished.tables:
        page.table(table)
        page.line()
    pictures = ", ".join(fields["pictures"])
    facts = {name: fields[name] for name in ("page", "report", "figures")}
    page.facts({**facts, "pictures": pictures})
    page.line(f"{fields['seconds']:.0f} s on {machine(fields['hardware'])}")


# --- one folder, one scenario --------------------------------------------------------------------------------


@contextmanager
def _gone_if_empty(folder: Path, *, made: bool) -> Iterator[None]:
    """Remove a folder that this run made if the run fails before any result is in the folder."""
    try:
        yield
    except BaseException:
        files = {path.name for path in folder.rglob("*") if not path.is_dir()}
        if made and files <= {LOCK, IDENTITY}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _claimed(folder: Path, loaded: Scenario, *, fresh: bool) -> Iterator[None]:
    """Hold `folder` for this run; raises `UserError` where it belongs to something else."""
    journal = store.Journal(folder=folder, identity=IDENTITY, contents="results of", remedy="to replace them")
    with journal.locked():
        _refuse_mixture(journal, loaded, fresh=fresh)
        if fresh:
            results.clear(folder, work=True)
        store.remove_leftovers(folder, below=True)  # half-written files of a killed run
        journal.identify(loaded.plain())
        yield


def _refuse_mixture(journal: store.Journal, loaded: Scenario, *, fresh: bool) -> None:
    others = sorted(entry.name for entry in journal.folder.iterdir() if entry.name != LOCK)
    if others and journal.identity not in others:
        raise UserError(f"{journal.folder}: holds other files ({', '.join(others[:3])}); give an empty folder as {OUT}")
    held = None if fresh else journal.identified()
    if held is not None:
        journal.refuse_difference(*(scenario.identity_of(values) for values in (held, loaded.plain())))
