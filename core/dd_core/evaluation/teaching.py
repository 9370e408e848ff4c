"""The teacher of an evaluation: who labels what networks see, where the recipe asks one."""

from __future__ import annotations

import numpy as np

from dd_core import artefacts
from dd_core.artefacts import Artefact, Resources
from dd_core.config import decode
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.recipe import Recipe, check_mode
from dd_core.system.parallel import Workers
from dd_core.system.reporter import Reporter
from dd_core.training.bank import Bank
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec, form_in, teacher_for


def with_mode(recipe: Recipe, mode: str | None) -> Recipe:
    """The recipe with its teacher in another mode; raises `UserError` for an unknown one, and where it asks none."""
    if mode is None:
        return recipe
    check_mode(mode)
    if recipe.teacher == "none":
        raise UserError("no teacher labels what networks see here, so it has no mode; leave out the teacher's mode")
    return recipe.model_copy(update={"teacher": mode})


def teacher_of(
    ds: DistilledSet,
    recipe: Recipe,
    train: Source,
    *,
    given: TeacherConfig | None,
    bank: Bank | None = None,
    device: str,
    workers: Workers | None,
    reporter: Reporter,
) -> Artefact | None:
    """The teacher that `recipe` asks, trained on `train`, found or made; None where it asks none.

    It is the one of the `bank`, the `given` one, or the one that the set was made with. Raises `UserError` where there
    is none, and where the set's images are not normalised as the teacher's.
    """
    if bank is not None:
        if given is not None:
            raise UserError("give either a bank or a teacher: a bank has its own")
        resources = Resources.of([train], device=device)
        return artefacts.get(bank.spec.teacher, resources=resources, workers=workers, reporter=reporter)
    if recipe.teacher == "none":
        if given is not None:
            raise UserError("a teacher is given, and none labels what networks see here; use a protocol that has one")
        return None
    config = given or _own(ds)
    if config is None:
        raise UserError(
            "the recipe has a teacher label what networks see, and the set was made without one; give a teacher"
        )
    # by the set's own recipe: which network is scored has no say in who teaches it
    spec = TeacherSpec.of(train, teacher_for(ds.manifest.recipe, config))
    resources = Resources.of([train], device=device)
    teacher = artefacts.get(spec, resources=resources, workers=workers, reporter=reporter)
    _check_form(ds, teacher)
    return teacher


def check_bank(bank: Bank, ds: DistilledSet, recipe: Recipe) -> None:
    """Raise `UserError` for the bank of another set, and for one that was not labelled as the recipe says."""
    bank.require_for(ds)
    spec, folder = bank.spec, bank.artefact.folder
    if recipe.teacher == "none":
        raise UserError(f"{folder}: no teacher labels what networks see here; leave out the bank")
    if spec.epochs < recipe.epochs:
        raise UserError(
            f"{folder}: has the views of {spec.epochs} epochs, and networks are trained for {recipe.epochs}"
        )
    if (spec.views, spec.mode) != (recipe.views, recipe.teacher):
        raise UserError(
            f"{folder}: has other views than networks are to be trained by, or a teacher in another mode "
            f"({spec.mode}); make the bank for this protocol"
        )


def _own(ds: DistilledSet) -> TeacherConfig | None:
    """The teacher that the set was made with."""
    provenance = ds.manifest.provenance
    if provenance is None or "teacher" not in provenance.config:
        return None
    return decode(TeacherConfig, provenance.config["teacher"], where="the set's manifest", key="teacher")


def _check_form(ds: DistilledSet, teacher: Artefact) -> None:
    pixels, form = ds.manifest.pixels, form_in(teacher)
    alike = np.allclose([pixels.mean, pixels.std], [form.mean, form.std], rtol=1e-4, atol=1e-4)
    if ds.whitening is not None or not alike:
        raise UserError("the set's images are not normalised as its teacher's, which would not know them")
