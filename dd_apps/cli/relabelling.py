"""`relabel`: make a bank of a teacher's logits for augmented views of a distilled set."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dd_apps.cli import options
from dd_apps.cli.evaluating import Data, Teacher, TeacherMode, teacher_of
from dd_apps.cli.terminal import Answer, Page, Session
from dd_apps.data import data_of
from dd_apps.scoring import check_names
from dd_core import evaluation, store
from dd_core.distilled.card import human_bytes

Protocol = Annotated[str, typer.Option(help="Protocol whose views are labelled; see `dd-apps list protocols`.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of views to label; by default the protocol's number.")]
Encoding = Annotated[str, typer.Option(help="How logits are kept: fp16, uint8, or top-K such as top-10.")]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Views in one mini-batch of the teacher; changes labels in mode batch-stats only.")
]


def relabel(
    context: typer.Context,
    file: options.SetFile,
    *,
    protocol: Protocol = "sre2l-fkd",
    epochs: Epochs = None,
    encoding: Encoding = "fp16",
    batch_size: BatchSize = 256,
    teacher: Teacher,
    teacher_mode: TeacherMode = None,
    data: Data = None,
    skip_corrupt: options.SkipCorrupt = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = 1,
    parallel: options.Parallel = "processes",
    jobs: options.Jobs = None,
    as_json: options.Json = False,
) -> Answer:
    """Label augmented views of a set with a teacher, for `evaluate --bank`.

    The bank is kept in the cache, part by part: the same command again resumes an interrupted one. The bank's folder
    may be copied, and given to anybody who has the set.
    """
    session: Session = context.obj
    workers = options.workers_of(parallel, jobs, threads)
    check_names(protocol=protocol, networks=(), teacher_mode=teacher_mode)
    ds = store.read_set(file)
    real = data_of(ds, data, skip_corrupt=skip_corrupt)
    run_options = options.run_options(session, device=device, threads=threads, workers=workers)
    train = real.load("train", workers=workers, say=run_options.reporter.message)
    bank = evaluation.relabel(
        ds,
        train=train,
        protocol=protocol,
        epochs=epochs,
        encoding=encoding,
        batch_size=batch_size,
        teacher=teacher_of(teacher),
        teacher_mode=teacher_mode,
        seed=seed,
        workers=workers,
        device=device,
        reporter=run_options.reporter,
    )
    spec, folder = bank.spec, bank.artefact.folder
    size = sum(part.stat().st_size for part in folder.glob("part-*"))
    fields = {"path": str(folder), "set": spec.set_digest, "epochs": spec.epochs, "images": spec.images, "bytes": size}
    return Answer({**fields, "bytes_a_view": spec.record_bytes}, lambda page: _show(page, fields))


def _show(page: Page, fields: dict[str, Any]) -> None:
    views = fields["epochs"] * fields["images"]
    page.line(f"{views:,} labelled views, {human_bytes(fields['bytes'])}: {fields['path']}")
