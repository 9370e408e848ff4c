"""Views of a memory's images with a teacher's logits: the part of a relabel bank (SRe2L, FKD) that a memory keeps.

The method's teacher, trained on the real images of one experience, labels views of that experience's distilled images
when these are stored. Neither the teacher nor the real images are needed again: a view is a box, a flip, and logits.
No view mixes two images, because a memory that shrinks could drop one of the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float16, Int16

from dd_apps.continual.config import require_bankable
from dd_core import artefacts
from dd_core.artefacts import Resources
from dd_core.config import digest
from dd_core.distilled import DistilledSet
from dd_core.distiller import MethodConfig
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.runner import RunOptions
from dd_core.system.parallel import Workers
from dd_core.training import training_data
from dd_core.training.bank import bank_of, stacked
from dd_core.training.teacher_config import TeacherConfig
from dd_core.training.teachers import TeacherSpec, teacher_for


@dataclass(frozen=True, eq=False)
class StoredViews:
    """One view of each of n images in each of E epochs, and a teacher's logits of the view for the set's K classes.

    boxes: int16 (E, n, 4), top, left, height and width in pixels; flips: (E, n); logits: float16 (E, n, K).
    """

    boxes: Int16[np.ndarray, "E n 4"]
    flips: Bool[np.ndarray, "E n"]
    logits: Float16[np.ndarray, "E n K"]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays; `rows.bank_bytes` gives the bytes of one image's views."""
        return self.boxes.nbytes + self.flips.nbytes + self.logits.nbytes

    def take(self, rows: np.ndarray) -> StoredViews:
        """The views of the images `rows`, in that order."""
        return StoredViews(self.boxes[:, rows], self.flips[:, rows], self.logits[:, rows])

    def digest(self) -> str:
        """sha256 over all arrays."""
        return views_digest(vars(self))


def views_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over the arrays of `StoredViews`, by name."""
    return digest(
        [
            [name, array.dtype.name, list(array.shape), hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()]
            for name, array in sorted(arrays.items())
        ]
    )


def checked_epochs(epochs: float | None, config: MethodConfig, labels: str, shrinking: str) -> int | None:
    """The number of views that a memory with these options keeps of each image; None for other labels than "bank".

    Raises `UserError` for options that do not go together, and for a method whose images cannot have a bank.
    """
    if labels != "bank" and epochs is not None:
        raise UserError(f"bank_epochs={epochs}: a memory with labels='{labels}' keeps no views; labels='bank' does")
    if labels != "bank":
        return None
    if epochs is None or epochs < 1 or epochs != int(epochs):
        raise UserError(f"labels='bank' keeps bank_epochs views of each image, at least 1, not {epochs}")
    if shrinking != "first":
        raise UserError("shrinking: a bank has no teacher for images that are distilled again; use 'first'")
    require_bankable(config)
    return int(epochs)


def labelled_by_teacher(
    ds: DistilledSet,
    source: Source,
    config: MethodConfig,
    *,
    epochs: int,
    seed: int,
    options: RunOptions,
) -> StoredViews:
    """Views of a set that `config` distilled from `source`, labelled by the method's teacher; see `bank_of`.

    Views are drawn by the set's recipe, and the teacher normalises by its running statistics. Teacher and bank are
    artefacts, which are made unless the cache has them. Raises `UserError` for a set with a formation, whose stored
    images are not the images that networks see.
    """
    if ds.manifest.formation != 1:
        raise UserError(f"{config.name}: its set has a formation, and a bank needs images that are stored whole")
    recipe, teacher = ds.manifest.recipe, getattr(config, "teacher", None)
    assert isinstance(teacher, TeacherConfig)
    assert recipe.views is not None
    workers, reporter = Workers(count=1), options.reporter
    spec = TeacherSpec.of(source, teacher_for(config.recipe, teacher))
    resources = Resources.of([source], device=options.device)
    bank = bank_of(
        ds,
        training_data(ds, recipe),
        artefacts.get(spec, resources=resources, workers=workers, reporter=reporter),
        mode="eval",
        settings=recipe.views,
        epochs=epochs,
        seed=seed,
        device=options.device,
        workers=workers,
        reporter=reporter,
    )
    records = stacked([bank.records(epoch) for epoch in range(epochs)])
    return StoredViews(
        boxes=records["boxes"],
        flips=records["flips"],
        logits=np.stack([bank.logits(epoch).numpy() for epoch in range(epochs)]).astype(np.float16),
    )
