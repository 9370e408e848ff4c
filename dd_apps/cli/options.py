"""Options that several verbs share, and the values made from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dd_apps.cli.terminal import Session
from dd_core.errors import Option
from dd_core.system.parallel import Workers, check_engine
from dd_core.system.threads import require_cores

if TYPE_CHECKING:
    from dd_core.runner import RunOptions

# `main` looks for --json itself: it must know before a verb starts, and when the command line is wrong
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; everything else on stderr.")]
SetFile = Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="A distilled set.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="Change one setting; may be repeated.",
    ),
]
Device = Annotated[str, typer.Option(help="auto (the first GPU, else the CPU), cpu, or a device's torch name.")]
Parallel = Annotated[str, typer.Option(metavar="ENGINE", help="What runs independent jobs: processes, ray or dask.")]
Jobs = Annotated[int | None, typer.Option("--workers", min=1, help="Number of jobs that run in parallel.")]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads of each job; their number can change the last bits of results.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard what an earlier run left, and start over.")]
CheckpointSeconds = Annotated[float, typer.Option(min=0, help="Seconds between two checkpoints.")]
TimeLimit = Annotated[float | None, typer.Option(min=0, help="Stop after so many seconds, resumable (exit code 4).")]
DataName = Annotated[str, typer.Option(metavar="NAME|folder:PATH", help="Real images; see `dd-apps list datasets`.")]
PretrainOn = Annotated[
    str | None,
    typer.Option(metavar="NAME|folder:PATH", help="Images that networks are pre-trained on, instead of --data."),
]
ImageSize = Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Resize images to this height and width.")]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded.")]


def as_flag(option: Option) -> str:
    """An option in an error's text, spelled as a user types it: `--image-size 64`, `--set recipe.epochs=3`."""
    if "." in option.name:
        return f"--set {option.name}={option.value}"
    flag = f"--{option.name.replace('_', '-')}"
    return flag if option.value is None or option.value is True else f"{flag} {option.value}"


def workers_of(engine: str, count: int | None, threads: int) -> Workers | None:
    """The workers that run independent jobs, or None if all three options have their defaults.

    Raises `UserError` for an unknown engine, and for more threads than cores where the jobs run on this machine.
    """
    chosen = Workers(count=count or 1, engine=check_engine(engine), threads=threads)
    if chosen.engine == "processes":
        require_cores(threads)
    return None if count is None and chosen == Workers() else chosen


def run_options(
    session: Session,
    *,
    device: str,
    threads: int,
    workers: Workers | None,
    checkpoint_seconds: float = 60.0,
    time_limit: float | None = None,
    fresh: bool = False,
) -> RunOptions:
    """The runner's options. When interrupted, the runner names this command, without `--fresh`, to resume by."""
    from dd_core.runner import RunOptions

    return RunOptions(
        device=device,
        threads=threads,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        time_limit=time_limit,
        fresh=fresh,
        reporter=session.reporter(),
        resume_command=session.resume_command(),
    )
