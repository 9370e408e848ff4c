"""`distill`: make a distilled set from real images."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dd_apps.cli import options
from dd_apps.cli.terminal import Answer, Page, Session, as_argument, shell_line
from dd_apps.data import Data, to_pretrain_on
from dd_apps.scenario import assign
from dd_core import store
from dd_core.distilled import DistilledSet, Size
from dd_core.distilled.card import human_bytes
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError
from dd_core.methods import decode_method
from dd_core.methods.presets import completed, remark
from dd_core.methods.presets import preset as settings_of
from dd_core.training.teacher_config import TeacherConfig

if TYPE_CHECKING:
    from dd_core.runner import Forecast as Expected

Method = Annotated[str, typer.Argument(metavar="METHOD", help="Distillation method; see `dd-apps list methods`.")]
Ipc = Annotated[int | None, typer.Option(min=1, metavar="N", help="Images per class.")]
Images = Annotated[int | None, typer.Option(min=1, metavar="N", help="Images in all, instead of --ipc.")]
Log = Annotated[
    Literal["tensorboard"] | None,
    typer.Option(help="Also write each step's figures for TensorBoard, into the folder FILE.run/tensorboard."),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Ready settings, chosen by image size: photos. Settings of --set override them."),
]
Forecast = Annotated[
    bool, typer.Option("--forecast", help="Print how long this run would take on this machine, and make nothing.")
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the method's inner steps, or capture them on a GPU; as --set compile=true."
    ),
]
Out = Annotated[Path, typer.Option(metavar="FILE.safetensors", help="File of the distilled set to be written.")]


def distill(
    context: typer.Context,
    method: Method,
    *,
    data: options.DataName,
    out: Out,
    settings: options.Settings,
    ipc: Ipc = None,
    images: Images = None,
    image_size: options.ImageSize = None,
    preset: Preset = None,
    forecast: Forecast = False,
    compile: Compile = False,
    pretrain_on: options.PretrainOn = None,
    skip_corrupt: options.SkipCorrupt = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = None,
    checkpoint_seconds: options.CheckpointSeconds = 60.0,
    time_limit: options.TimeLimit = None,
    fresh: options.Fresh = False,
    log: Log = None,
    as_json: options.Json = False,
) -> Answer:
    """Distil real images into a small synthetic set.

    The same command again resumes an interrupted run.
    """
    session: Session = context.obj
    table = _method_table(method, settings)
    config = decode_method(table)
    if compile:
        if "compile" not in type(config).model_fields:
            raise UserError(f"--compile: method '{method}' has no inner steps to compile; leave it out")
        config = decode_method(table := {**table, "compile": True})
    if preset is not None:
        settings_of(preset, method, image_size=image_size or 1)  # refuses a wrong name before images are read
    size = _size(ipc, images)
    workers = options.workers_of(parallel, jobs, threads)
    run_options = options.run_options(
        session,
        device=device,
        threads=threads,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        time_limit=time_limit,
        fresh=fresh,
    )
    begun = time.monotonic()
    from dd_core import exchange, runner
    from dd_core.runner import folder as checkpoints

    checkpoints.check_out(out)
    say = run_options.reporter.message
    source = Data(data, image_size, skip_corrupt, config.uses_labels).load("train", workers=workers, say=say)
    if preset is not None:
        side = max(source.image_shape[1:])
        config = decode_method(completed(table, settings_of(preset, method, image_size=side)))
        if (line := remark(method, image_size=side)) is not None:
            say(f"note: {line}")
    config = exchange.with_weights_kept(config)
    if forecast or (preset is not None and not out.with_suffix(".run").exists()):
        expected = runner.forecast(config, source, size, seed=seed, options=run_options)
        if forecast:
            return Answer(_as_fields(expected), lambda page: page.line(str(expected)))
        say(str(expected))
    if log is not None:
        from dd_core.system.tensorboard import TensorBoard

        board = TensorBoard(out.with_suffix(".run") / log, run_options.reporter)
        run_options = replace(run_options, reporter=board)
    other = to_pretrain_on(pretrain_on, source, skip_corrupt=skip_corrupt, workers=workers, say=say)
    ds = runner.distill(config, source, size, seed=seed, out=out, options=run_options, pretrain_on=other)
    fields = _cost(out, seconds=time.monotonic() - begun)
    after = shell_line(["dd-apps", "inspect", as_argument(out), "--png", "images.png"])
    if config.uses_labels:
        scored = _scored_by(out, data, pretrain_on, skip_corrupt=skip_corrupt, protocol=_protocol_of(config))
        after = f"{after}; {shell_line(scored)}"
    return Answer(
        {**fields, "images": len(ds), "classes": len(ds.classes)}, lambda page: _show(page, ds, fields, after)
    )


def _as_fields(expected: Expected) -> dict[str, Any]:
    """A forecast for --json."""
    parts = {"steps": expected.stepping, **expected.making}
    told = {"seconds": round(expected.seconds, 1), "parts": parts, "untold": list(expected.untold)}
    return told if expected.load is None else {**told, "load": round(expected.load, 1)}


def _method_table(name: str, settings: list[str]) -> dict[str, Any]:
    """The method's settings as a table; `--set method.steps=3`, a scenario's spelling, is taken too."""
    table: dict[str, Any] = {}
    for setting in settings:
        assign(table, setting.removeprefix("method."))
    if "name" in table:
        raise UserError(f"--set name={table['name']}: the method is '{name}', given before; leave --set name out")
    return {**table, "name": name}


def _size(ipc: int | None, images: int | None) -> Size:
    if (ipc is None) == (images is None):
        raise UserError("how many images? Give either --ipc (images per class) or --images (in all)")
    return Size(ipc=ipc, images=images)


def _cost(out: Path, *, seconds: float) -> dict[str, Any]:
    """Path and sha256 of the set, and the seconds and peak memory of making it, over all resumed runs."""
    facts: dict[str, Any] = {"seconds": round(seconds, 3), "peak_memory_bytes": None}
    record = out.with_suffix(".run") / "run.json"
    if record.exists():
        facts = store.read_json(record)
    costs = {name: facts[name] for name in ("seconds", "peak_memory_bytes")}
    return {"path": str(out), "sha256": store.file_sha256(out), **costs}


def _protocol_of(config: MethodConfig) -> str | None:
    """The protocol to score the set by, None for its own recipe.

    A set with a teacher is scored by the teacher's labels of views; a set whose recipe has the squared error, by the
    hard labels of its images.
    """
    if isinstance(getattr(config, "teacher", None), TeacherConfig):
        return "sre2l-fkd"
    return "hard" if config.recipe.loss == "mse" else None


def _scored_by(out: Path, data: str, pretrain_on: str | None, *, skip_corrupt: bool, protocol: str | None) -> list[str]:
    """The command that scores the set. It has `--data` for images in a folder, since no set records its folder."""
    evaluate = ["dd-apps", "evaluate", as_argument(out)]
    if data.startswith("folder:"):
        evaluate += ["--data", data, *(["--skip-corrupt"] if skip_corrupt else [])]
    if protocol is not None:
        evaluate += ["--protocol", protocol]
    if pretrain_on is not None:
        evaluate += ["--pretrain-on", pretrain_on]
    return evaluate


def _show(page: Page, ds: DistilledSet, fields: dict[str, Any], after: str) -> None:
    what = f"of {len(ds.classes)} classes" if ds.classes else f"with {ds.manifest.targets}, without labels"
    page.line(f"{fields['path']}: {len(ds)} images {what}, {human_bytes(ds.nbytes)}")
    page.facts(
        {
            "sha256": fields["sha256"],
            "time": f"{fields['seconds']:.1f} s",
            "memory": human_bytes(fields["peak_memory_bytes"] or 0),
            "log": f"{Path(fields['path']).with_suffix('.run')}: each step's figures; the set does not need it",
            "next": after,
        }
    )
