"""`nas rank` and `nas search`: run scenarios of architecture search; `nas rank` also ranks values from a CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dd_apps import scenario
from dd_apps.cli import options
from dd_apps.cli.options import Json
from dd_apps.cli.running import Out, Wanted, run_scenario
from dd_apps.cli.terminal import Answer, Page
from dd_core.errors import Option, UserError

if TYPE_CHECKING:
    from dd_apps.report.tables import Table
    from dd_apps.scenario import Scenario

_RANK, _SEARCH = "nas-rank", "nas-search"

MaybeWanted = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|FILE.toml]", help="Scenario; see `dd-apps list scenarios`. Leave it out with --values."
    ),
]
Values = Annotated[
    Path | None,
    typer.Option(
        metavar="VALUES.csv",
        help="Proxy values to rank by, instead of a scenario: a column architecture, and a column for each proxy; an "
        "empty cell is a failed trial.",
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(metavar="TRUTH.csv", help="Accuracies in percent that --values are compared with."),
]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="Column of TRUTH.csv, if it has several.")]
BootstrapSeed = Annotated[
    int | None, typer.Option(min=0, help="With --values: seed of the bootstrap's resamples; 0 by default.")
]
Asynchronous = Annotated[
    bool, typer.Option("--async", help="Tell the strategy each value as soon as it is known; runs may then differ.")
]


def nas_app() -> typer.Typer:
    """`nas` with its two verbs."""
    app = typer.Typer(help="Rank proxies of architecture search, or search by a proxy.")
    app.command("rank")(rank)
    app.command("search")(search)
    return app


def rank(
    context: typer.Context,
    wanted: MaybeWanted = None,
    *,
    values: Values = None,
    truth: Truth = None,
    column: Column = None,
    settings: options.Settings,
    out: Out = None,
    fresh: options.Fresh = False,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = None,
    seed: BootstrapSeed = None,
    as_json: Json = False,
) -> Answer:
    """Compare proxies with true accuracies: by a scenario, or from two CSV files."""
    if values is not None:
        _refuse({"set": settings, "out": out, "fresh": fresh, "workers": jobs}, go_with="a scenario")
        return _given(wanted, values, truth, column, seed=seed or 0)
    _refuse({"truth": truth, "column": column, "seed": seed}, go_with=str(Option("values")))
    if wanted is None:
        raise UserError("rank what? Name a scenario (`dd-apps list scenarios`), or give --values and --truth")
    loaded = _loaded(_RANK, wanted, settings)
    return run_scenario(
        context.obj, loaded, out, device=device, threads=threads, parallel=parallel, jobs=jobs, fresh=fresh
    )


def search(
    context: typer.Context,
    wanted: Wanted,
    *,
    settings: options.Settings,
    asynchronous: Asynchronous = False,
    out: Out = None,
    fresh: options.Fresh = False,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = None,
    as_json: Json = False,
) -> Answer:
    """Search a space of architectures by one proxy."""
    loaded = _loaded(_SEARCH, wanted, [*settings, *(["asynchronous=true"] if asynchronous else [])])
    return run_scenario(
        context.obj, loaded, out, device=device, threads=threads, parallel=parallel, jobs=jobs, fresh=fresh
    )


def _loaded(task: str, wanted: str, settings: list[str]) -> Scenario:
    """Load a scenario of `task`; raises `UserError` for a scenario of another task."""
    loaded = scenario.load(wanted, overrides=settings, of=task)
    if loaded.task != task:
        raise UserError(f"{wanted} is a scenario of the task '{loaded.task}', not {task}: dd-apps run {wanted}")
    return loaded


def _refuse(given: Mapping[str, object], *, go_with: str) -> None:
    """Raise `UserError` for given options that would be ignored."""
    for name, value in given.items():
        if value is not None and value is not False and value != []:
            raise UserError(f"{Option(name)} goes with {go_with} only")


def _given(wanted: str | None, values: Path, truth: Path | None, column: str | None, *, seed: int) -> Answer:
    """Compare the columns of the file `values` with the accuracies in the file `truth`. No torch."""
    if wanted is not None:
        raise UserError(f"either the scenario '{wanted}' or {Option('values')} is ranked, not both")
    if truth is None:
        raise UserError(f"{Option('values')} are compared with a truth: give {Option('truth')}")
    from dd_apps.nas.given import ranked  # numpy and scipy take a second

    ranking = ranked(values, truth, column, seed=seed)
    fields = {**ranking.details, "results": {table.title: table.plain() for table in ranking.tables}}
    return Answer(fields, lambda page: _show(page, ranking.tables))


def _show(page: Page, tables: Sequence[Table]) -> None:
    for table in tables:
        page.table(table)
        page.line()
