"""The teacher of an evaluation, which labels the views that networks learn from, where the recipe has a teacher."""

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
    """The recipe with its teacher in `mode`; raises `UserError` for an unknown mode, and where there is no teacher."""
    if mode is None:
        return recipe
    check_mode(mode)
    if recipe.teacher == "none":
        raise UserError(
            "the recipe has no teacher that labels views, and a mode is given; leave out the teacher's mode"
        )
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
    """The teacher of `recipe`, trained on `train`, from the cache or made now; None where `recipe` has none.

    The teacher is the bank's, the `given` one, or the one that the set was made with. Raises `UserError` where none of
    them exists, and where the set's images are not normalised as the teacher's inputs.
    """
    if bank is not None:
        if given is not None:
            raise UserError("give either a bank or a teacher: a bank has its own teacher")
        resources = Resources.of([train], device=device)
        return artefacts.get(bank.spec.teacher, resources=resources, workers=workers, reporter=reporter)
    if recipe.teacher == "none":
        if given is not None:
            raise UserError(
                "a teacher is given, and the protocol has none that labels views; leave it out, or take a protocol "
                "with a teacher, such as sre2l-fkd"
            )
        return None
    config = given or _own(ds)
    if config is None:
        raise UserError(
            "the recipe needs a teacher that labels views, and the set was made without a teacher; give one"
        )
    # by the set's own recipe, as the teacher does not depend on the network that is scored
    spec = TeacherSpec.of(train, teacher_for(ds.manifest.recipe, config))
    resources = Resources.of([train], device=device)
    teacher = artefacts.get(spec, resources=resources, workers=workers, reporter=reporter)
    _check_form(ds, teacher)
    return teacher


def check_bank(bank: Bank, ds: DistilledSet, recipe: Recipe) -> None:
    """Raise `UserError` for the bank of another set, and for a bank with other views, epochs or teacher's mode."""
    bank.require_for(ds)
    spec, folder = bank.spec, bank.artefact.folder
    if recipe.teacher == "none":
        raise UserError(f"{folder}: the recipe has no teacher that labels views; leave out the bank")
    if spec.epochs < recipe.epochs:
        raise UserError(
            f"{folder}: has the views of {spec.epochs} epochs, and networks are trained for {recipe.epochs}; make a "
            "longer bank"
        )
    if (spec.views, spec.mode) != (recipe.views, recipe.teacher):
        raise UserError(
            f"{folder}: has other views than the protocol's, or a teacher in another mode ({spec.mode}); make a bank "
            "for this protocol"
        )


def _own(ds: DistilledSet) -> TeacherConfig | None:
    """The settings of the teacher that the set was made with; None where it was made without one."""
    provenance = ds.manifest.provenance
    if provenance is None or "teacher" not in provenance.config:
        return None
    return decode(TeacherConfig, provenance.config["teacher"], where="the set's manifest", key="teacher")


def _check_form(ds: DistilledSet, teacher: Artefact) -> None:
    pixels, form = ds.manifest.pixels, form_in(teacher)
    alike = np.allclose([pixels.mean, pixels.std], [form.mean, form.std], rtol=1e-4, atol=1e-4)
    if ds.whitening is not None or not alike:
        raise UserError(
            "the set's images have another normalisation than the teacher's inputs; give a teacher with the set's "
            "normalisation, or a set that was made with the teacher"
        )
