"""`evaluate`: score a distilled set beside as many random real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dd_apps.cli import options
from dd_apps.cli.terminal import Answer, Page, Session
from dd_apps.data import data_of, to_pretrain_on
from dd_apps.report.scores import figures, machine, score_table
from dd_apps.scenario import assign
from dd_apps.scoring import SCORES, Scored, Scoring, check_names, score
from dd_core import artefacts, exchange, store
from dd_core.config import decode
from dd_core.errors import UserError
from dd_core.training.teacher_config import TeacherConfig

Networks = Annotated[
    list[str],
    typer.Option(
        "--network",
        default_factory=list,
        show_default=False,
        help="Network to train instead of the set's own: a name, or module:Class; the option may be repeated.",
    ),
]
Nets = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="K",
        help="Fresh networks that are trained on the set, and as many on random real images; 1 gives no verdict.",
    ),
]
Protocol = Annotated[str, typer.Option(help="Protocol by which networks are trained; see `dd-apps list protocols`.")]
StartAt = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="WHERE",
        help="Weights that networks start from: default, xavier or pretrained; without it, as the set's recipe says.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Train every network again, also those whose scores are kept in the cache.")
]
Teacher = Annotated[
    list[str],
    typer.Option(
        "--teacher",
        metavar="KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="Setting of a teacher that labels instead of the set's own, such as network=torchvision:resnet18 or "
        "epochs=20; may be repeated; see `dd-apps list methods sre2l`.",
    ),
]
TeacherMode = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="How the teacher's batch norms normalise: eval (running statistics) or batch-stats (of the mini-batch).",
    ),
]
BankFolder = Annotated[
    Path | None,
    typer.Option(
        "--bank", metavar="FOLDER", help="Folder of teacher labels that `dd-apps relabel` made for set and protocol."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|folder:PATH",
        help="Real images, for baselines, teachers and tests; by default those that the set was made from.",
    ),
]


def evaluate(
    context: typer.Context,
    file: options.SetFile,
    *,
    networks: Networks,
    nets: Nets = 5,
    protocol: Protocol = "recipe",
    start: StartAt = None,
    teacher: Teacher,
    teacher_mode: TeacherMode = None,
    bank: BankFolder = None,
    data: Data = None,
    pretrain_on: options.PretrainOn = None,
    skip_corrupt: options.SkipCorrupt = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = None,
    fresh: Fresh = False,
    as_json: options.Json = False,
) -> Answer:
    """Score a set beside random real images.

    Fresh networks are trained on the distilled set, and as many networks on as many random real images; all are tested.
    The score of each finished network is kept in the cache: the same command again resumes an interrupted one.
    """
    session: Session = context.obj
    workers = options.workers_of(parallel, jobs, threads)
    for name in networks:
        if "," in name:
            again = " ".join(f"--network {part.strip()}" for part in name.split(","))
            raise UserError(f"--network {name}: one network each time; type {again}")
    check_names(protocol=protocol, networks=networks, start=start, teacher_mode=teacher_mode)
    taught = teacher_of(teacher)
    ds = store.read_set(file)
    real = data_of(ds, data, skip_corrupt=skip_corrupt)
    run_options = options.run_options(session, device=device, threads=threads, workers=workers, fresh=fresh)
    say = run_options.reporter.message
    train, test = (real.load(split, workers=workers, say=say) for split in ("train", "test"))
    other = to_pretrain_on(pretrain_on, train, skip_corrupt=skip_corrupt, workers=workers, say=say)
    scoring = Scoring(protocol, networks, nets, seed, start, other, taught, teacher_mode, bank)
    scored = score(ds, train, test, scoring, options=run_options, keep=artefacts.cache_folder() / SCORES)
    return Answer(_fields(scored), lambda page: _show(page, scored, title=str(file)))


def teacher_of(settings: list[str]) -> TeacherConfig | None:
    """The teacher that the `--teacher` settings describe; None without settings."""
    table: dict[str, Any] = {}
    for setting in settings:
        assign(table, setting)
    return exchange.with_weights_kept(decode(TeacherConfig, table, where="--teacher")) if table else None


def _fields(scored: Scored) -> dict[str, Any]:
    """Fields for `--json`: the first network's evaluation, and all evaluations under `networks`."""
    every = [figures(evaluation) for evaluation in scored.evaluations]
    return {**every[0], "networks": every, "warnings": list(scored.warnings)}


def _show(page: Page, scored: Scored, *, title: str) -> None:
    page.table(score_table(scored.evaluations, title=title))
    if len(scored.evaluations) == 1:
        (only,) = scored.evaluations
        each = "each network" if only.trained_networks else "each score"
        for images, score_of in (("distilled", only.accuracy), ("random real", only.random_real)):
            page.line(f"{each}, {images}: " + " ".join(f"{100 * value:.1f}" for value in score_of.per_network))
    page.line(machine(scored.evaluations[0].hardware))
