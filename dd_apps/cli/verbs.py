"""The verbs of `dd-apps`, in the order in which `--help` shows them."""

from __future__ import annotations

from typing import Annotated

import typer

from dd_apps.cli.cache import artefacts_app
from dd_apps.cli.doctor import doctor
from dd_apps.cli.evaluating import evaluate
from dd_apps.cli.exchanging import export, import_
from dd_apps.cli.listing import list_
from dd_apps.cli.making import distill
from dd_apps.cli.ranking import nas_app
from dd_apps.cli.relabelling import relabel
from dd_apps.cli.running import quickstart, run
from dd_apps.cli.showing import inspect, verify
from dd_core import __version__


def _version(asked: bool) -> None:
    if asked:
        print(f"dd-apps {__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version  # its callback has answered


def application() -> typer.Typer:
    """The command-line application; its verbs return an `Answer`."""
    app = typer.Typer(
        help="Dataset distillation you can use: a few synthetic images in place of a data set.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_common)
    for name, verb in (
        ("quickstart", quickstart),
        ("run", run),
        ("distill", distill),
        ("evaluate", evaluate),
        ("relabel", relabel),
        ("inspect", inspect),
        ("verify", verify),
        ("export", export),
        ("import", import_),
        ("list", list_),
    ):
        app.command(name)(verb)
    app.add_typer(nas_app(), name="nas")
    app.add_typer(artefacts_app(), name="artefacts")
    app.command("doctor")(doctor)
    return app
