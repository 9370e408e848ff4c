"""`run` and `quickstart`: a scenario from its file to a folder with tables, pictures and a report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from filelock import FileLock, Timeout

from dd_apps import scenario
from dd_apps.cli import options
from dd_apps.cli.options import Json
from dd_apps.cli.terminal import Answer, Page, Session
from dd_apps.report.pictures import contact_sheet, png_bytes
from dd_apps.report.scores import machine
from dd_apps.report.tables import markdown
from dd_core import store
from dd_core.config import difference
from dd_core.errors import UserError

if TYPE_CHECKING:
    from dd_apps.scenario import Outcome, Scenario
    from dd_core.parallel import Workers

_IDENTITY = "scenario.json"
_LOCK = "lock"
_WORK = "work"

Wanted = Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="See `dd-apps list scenarios`.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go; runs/NAME by default.")]


def quickstart(
    context: typer.Context,
    *,
    out: Out = None,
    fresh: options.Fresh = False,
    jobs: options.Jobs = None,
    as_json: Json = False,
) -> Answer:
    """Run the quickstart: minutes on a CPU, offline."""
    loaded = scenario.load("quickstart")
    workers = options.workers_of("processes", jobs, 1)
    return _run(context.obj, loaded, out, device="cpu", threads=1, workers=workers, fresh=fresh)


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
    workers = options.workers_of(parallel, jobs, threads)
    return _run(context.obj, loaded, out, device=device, threads=threads, workers=workers, fresh=fresh)


def _run(
    session: Session,
    loaded: Scenario,
    out: Path | None,
    *,
    device: str,
    threads: int,
    workers: Workers | None,
    fresh: bool,
) -> Answer:
    folder = out or Path("runs") / loaded.name
    with _claimed(folder, loaded, fresh=fresh):
        how = options.run_options(session, device=device, threads=threads, workers=workers, fresh=fresh)
        begun = time.monotonic()
        outcome = scenario.run(loaded, folder=folder / _WORK, options=how)
        fields = _write(folder, loaded, outcome, seconds=time.monotonic() - begun, device=device)
    return Answer(fields, lambda page: _show(page, outcome, fields))


def _show(page: Page, outcome: Outcome, fields: Mapping[str, Any]) -> None:
    for table in outcome.tables:
        page.table(table)
        page.line()
    pictures = ", ".join(fields["pictures"])
    page.facts({"report": fields["report"], "figures": fields["figures"], "pictures": pictures})
    page.line(f"{fields['seconds']:.0f} s on {machine(fields['hardware'])}")


# --- one folder, one scenario --------------------------------------------------------------------------------


@contextmanager
def _claimed(folder: Path, loaded: Scenario, *, fresh: bool) -> Iterator[None]:
    """Hold `folder` for this run; raises `UserError` where it belongs to something else."""
    with store.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{folder}: another run is at work here; wait for it, or use another --out") from None
    try:
        _refuse_mixture(folder, loaded, fresh=fresh)
        if fresh and (folder / _WORK).exists():
            with store.disk_errors(folder):
                shutil.rmtree(folder / _WORK)
        store.write_json(folder / _IDENTITY, loaded.plain())
        yield
    finally:
        lock.release()


def _refuse_mixture(folder: Path, loaded: Scenario, *, fresh: bool) -> None:
    others = sorted(entry.name for entry in folder.iterdir() if entry.name != _LOCK)
    if not others:
        return
    if not (folder / _IDENTITY).exists():
        raise UserError(f"{folder}: holds other files ({', '.join(others[:3])}); give an empty folder as --out")
    changes = difference(store.read_json(folder / _IDENTITY), loaded.plain())
    if changes and not fresh:
        raise UserError(
            f"{folder}: holds results of other settings ({'; '.join(changes)}); "
            "use another --out, or --fresh to replace them"
        )


# --- what is written -----------------------------------------------------------------------------------------


def _write(folder: Path, loaded: Scenario, outcome: Outcome, *, seconds: float, device: str) -> dict[str, Any]:
    """Write report, figures, sets and pictures; returns what `--json` says of them."""
    from dd_core import device as devices

    for name, ds in outcome.sets.items():
        store.write_set(folder / f"{name}.safetensors", ds)
        store.write_bytes(folder / f"{name}.png", png_bytes(contact_sheet(ds)))
    hardware = devices.hardware(devices.resolve(device))
    facts = {
        "results": {table.title: table.plain() for table in outcome.tables},
        "seconds": round(seconds, 3),
        "hardware": hardware,
    }
    store.write_json(folder / "results.json", {"scenario": loaded.plain(), **facts, **outcome.details})
    store.write_bytes(folder / "report.md", _report(loaded, outcome, hardware).encode())
    return {
        **facts,
        "report": str(folder / "report.md"),
        "figures": str(folder / "results.json"),
        "pictures": [str(folder / f"{name}.png") for name in outcome.sets],
    }


def _report(loaded: Scenario, outcome: Outcome, hardware: Mapping[str, Any]) -> str:
    parts = [f"# {loaded.name}\n", f"{scenario.summary(loaded.path)}\n"]
    parts += [markdown(table) for table in outcome.tables]
    parts += [f"## images: {name}\n\n![{name}]({name}.png)\n" for name in outcome.sets]
    parts.append(f"## machine\n\n{machine(hardware)}\n")
    return "\n".join(parts)
