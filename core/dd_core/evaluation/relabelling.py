"""SRe2L's third stage, relabel, without an evaluation: a bank of views with a teacher's logits for each."""

from __future__ import annotations

from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.evaluation import protocols, teaching
from dd_core.evaluation.checks import check_match
from dd_core.evaluation.protocol import EvaluationProtocol
from dd_core.images import Source
from dd_core.system import surroundings
from dd_core.system.parallel import Workers
from dd_core.system.progress import reporting
from dd_core.system.reporter import Reporter
from dd_core.training import training_data
from dd_core.training.bank import Bank, bank_of
from dd_core.training.teacher_config import TeacherConfig


@surroundings.own()
def relabel(
    ds: DistilledSet,
    *,
    train: Source,
    protocol: str | EvaluationProtocol = "sre2l-fkd",
    epochs: int | None = None,
    encoding: str = "fp16",
    batch_size: int = 256,
    teacher: TeacherConfig | None = None,
    teacher_mode: str | None = None,
    seed: int = 0,
    workers: Workers | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    progress: bool = False,
) -> Bank:
    """The bank of `ds` for a protocol, from the cache or made now: views of every epoch, and a teacher's logits.

    epochs: None: as many as the protocol trains for; encoding: how logits are stored, `fp16`, `uint8` or `top-K`;
    batch_size: views that the teacher labels together, which matters in mode `batch-stats` alone. The teacher is
    trained on `train`, with the settings of the set's own teacher or with those of `teacher`. `reporter` reports
    progress; without a reporter, `progress` shows a bar, or in a log a line every so often. Raises `UserError` for a
    protocol without a teacher or without views, and where set and images do not fit together.
    """
    check_match(ds, train, train)
    protocol = protocols.load(protocol) if isinstance(protocol, str) else protocol
    ds = protocol.prepare(ds, train=train)
    recipe = protocol.recipe(ds.manifest.recipe, source_name=train.name)
    if recipe.teacher == "none" or recipe.views is None:
        raise UserError(
            f"protocol '{protocol.name}' has no teacher that labels views, so there is nothing to keep in a bank; take "
            "a protocol with a teacher, such as sre2l-fkd"
        )
    recipe = teaching.with_mode(recipe, teacher_mode)
    reporter = reporting(reporter, progress=progress)
    asked = teaching.teacher_of(ds, recipe, train, given=teacher, device=device, workers=workers, reporter=reporter)
    assert asked is not None
    assert recipe.views is not None
    return bank_of(
        ds,
        training_data(ds, recipe),
        asked,
        mode=recipe.teacher,
        settings=recipe.views,
        epochs=epochs or recipe.epochs,
        batch_size=batch_size,
        encoded=encoding,
        seed=seed,
        device=device,
        workers=workers,
        reporter=reporter,
    )
