"""SRe2L's experiment: after each experience a fresh network learns all images so far, labelled by teachers.

Each experience is distilled by itself. By default a teacher that was trained on this experience alone labels the views
of its images; classes of other experiences get the probability 0. So the network of step t learns from experiences 1 to
t one at a time, as the leak guard requires. Joint teachers and joint images break that rule on purpose; they are the
published upper bound (Yin et al. 2023: 45.6, 48.5, 49.4, 49.8, 49.9 % in five steps of Tiny-ImageNet with 100 images a
class, by a teacher that normalises by mini-batches).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from dd_apps.continual.benchmark import Stream
from dd_apps.continual.config import ContinualScenario
from dd_apps.continual.rows import TaughtStrategy
from dd_core import artefacts, networks
from dd_core.artefacts import Resources
from dd_core.distilled import Size
from dd_core.errors import UserError
from dd_core.exchange import with_weights_kept
from dd_core.images import InputForm, LabelledImages, Source, normalise, require_labels
from dd_core.methods import decode_method
from dd_core.recipe import Labelling, Recipe
from dd_core.runner import RunOptions, distill
from dd_core.streams import Streams, counter
from dd_core.system.parallel import Workers
from dd_core.training import fit
from dd_core.training.lessons import TrainingData
from dd_core.training.teachers import TeacherSpec, form_in, network_of, teacher_for
from dd_core.training.viewing import AskedTeacher


class Within(Protocol):
    """Allows reads of the training images of one experience (None: of all experiences) within a block."""

    def __call__(self, position: int | None, what: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Labelled:
    """Distilled images of some classes, and the teacher that labels their views.

    images: uint8 (n, C, H, W); labels: (n,) classes of the data; form: the teacher's input normalisation; classes: the
    classes that the teacher knows, in the order of its outputs.
    """

    images: UInt8[Tensor, "n C H W"]
    labels: Int64[Tensor, " n"]
    teacher: nn.Module
    form: InputForm
    classes: tuple[int, ...]

    def of(self, classes: Sequence[int]) -> Labelled:
        """The images of some of the classes."""
        kept = torch.isin(self.labels, torch.tensor(classes))
        return Labelled(self.images[kept], self.labels[kept], self.teacher, self.form, self.classes)


class StepTeachers:
    """Each image's views are labelled by the teacher of the image's own part; unknown classes get probability 0.

    Teachers were trained with different normalisations, so views are converted from the student's `form` to the
    teacher's. In the mode batch-stats a teacher normalises by the views of its own images in the mini-batch, or
    by its running statistics if there is only one such view.
    """

    def __init__(self, parts: Sequence[Labelled], *, form: InputForm, classes: int, mode: Labelling) -> None:
        self.parts, self.form, self.classes = parts, form, classes
        self.part_of = torch.cat([torch.full((len(part.labels),), place) for place, part in enumerate(parts)])
        self.asked = [AskedTeacher(part.teacher, mode=mode) for part in parts]
        self.alone = [AskedTeacher(part.teacher, mode="eval") for part in parts] if mode != "eval" else self.asked

    def to(self, device: torch.device) -> StepTeachers:
        """Move the teachers to `device`; returns self."""
        for teacher in (*self.asked, *self.alone):
            teacher.to(device)
        return self

    @torch.no_grad()
    def logits(self, views: Float[Tensor, "n C H W"], rows: Int64[Tensor, " n"], *, epoch: int) -> Float[Tensor, "n K"]:
        """Logits of all K classes of the data, minus infinity for those that a view's teacher does not know."""
        logits = torch.full((len(views), self.classes), -torch.inf, device=views.device)
        part_of = self.part_of[rows.cpu()]
        for place in part_of.unique().tolist():
            part, own = self.parts[place], (part_of == place).nonzero().flatten()
            teacher = (self.asked if len(own) > 1 else self.alone)[place]
            seen = _renormalised(views[own.to(views.device)], self.form, part.form)
            made = teacher.logits(seen, rows[own.to(rows.device)], epoch=epoch)
            places = torch.tensor(part.classes, device=views.device)
            logits[own.to(views.device)[:, None], places[None]] = made
        return logits


def _renormalised(inputs: Tensor, before: InputForm, after: InputForm) -> Tensor:
    """Network inputs (n, C, H, W), converted from the normalisation `before` to the normalisation `after`."""
    (mean, std), (new_mean, new_std) = (
        (torch.tensor(form.mean, device=inputs.device), torch.tensor(form.std, device=inputs.device))
        for form in (before, after)
    )
    scale, shift = std / new_std, (mean - new_mean) / new_std
    return inputs * scale[None, :, None, None] + shift[None, :, None, None]


@dataclass(frozen=True)
class Taught:
    """One row of the table 'taught' under one class order. `train` is guarded; seed and folder are the order's."""

    scenario: ContinualScenario
    row: str
    stream: Stream
    train: Source
    test: Source
    seed: int
    folder: Path
    device: str
    within: Within

    def parts(self) -> tuple[list[Labelled], float]:
        """The labelled images of each experience, and the seconds that teachers and images took."""
        begun, strategy = time.monotonic(), self._strategy
        distilled, teacher = cache(self._distilled), cache(self._teacher)  # joint images and teacher are made once
        parts: list[Labelled] = []
        for number, own in enumerate(self.stream.classes):
            alone, everything = (number, own), (None, tuple(range(len(self.train.classes))))
            pixels, labels = distilled(*(alone if strategy.images == "per-step" else everything))
            position, known = alone if strategy.teacher == "per-step" else everything
            network, form = teacher(position, known)
            parts.append(Labelled(pixels, labels, network, form, known).of(own))
        return parts, time.monotonic() - begun

    def student(self, parts: Sequence[Labelled], *, seed: int, step: int, device: torch.device) -> nn.Module:
        """A fresh network, trained on the images of `parts`: those of the experiences up to number `step`."""
        form = InputForm(self.stream.mean, self.stream.std)
        images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
        inputs = normalise(images, form.mean, form.std)
        lessons = TrainingData(inputs, labels, None, len(self.train.classes), form.black)
        teacher = StepTeachers(parts, form=form, classes=lessons.outputs, mode=self.recipe.teacher)
        network = networks.for_source(self.scenario.network, self.test, seed=seed)
        streams = Streams(counter(seed, "taught", step))
        return fit(lessons, network, self.recipe, streams=streams, device=device, teacher=teacher)

    @property
    def recipe(self) -> Recipe:
        """The recipe by which networks are trained."""
        return self.scenario.recipe_of(self.row)

    @property
    def _strategy(self) -> TaughtStrategy:
        strategy = self.scenario.row_of(self.row).named_strategy
        assert isinstance(strategy, TaughtStrategy)
        return strategy

    def _source(self, position: int | None, classes: Sequence[int], what: str) -> LabelledImages:
        """The real images of an experience (None: of all), with `classes` renumbered 0, 1, ...; `what` reads them."""
        labels = require_labels(self.train)
        rows = torch.isin(labels, torch.tensor(classes)).nonzero().flatten()
        with self.within(position, what):
            pixels = self.train.take(rows)
        places = torch.full((len(self.train.classes),), -1)
        places[torch.tensor(classes)] = torch.arange(len(classes))
        names = tuple(self.train.classes[label] for label in classes)
        return LabelledImages(pixels, places[labels[rows]], names, self.train.name)

    def _distilled(self, position: int | None, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        source = self._source(position, classes, "by the distiller")
        method = self.scenario.memory_method(self.row)
        assert method is not None
        count = self.scenario.images_of_class(
            self.row, image_bytes=source.images[0].numel(), classes=len(self.train.classes)
        )
        members = torch.bincount(source.labels, minlength=len(classes)).tolist() if source.labels is not None else []
        name = "joint" if position is None else f"step-{position + 1}"
        ds = distill(
            with_weights_kept(decode_method(method)),
            source,
            Size.of([min(count, each) for each in members]),
            seed=counter(self.seed, "experience", classes[0]),
            out=self.folder / f"taught-{name}-{source.fingerprint()[:8]}.safetensors",
            options=RunOptions(device=self.device, workers=Workers(count=1)),
        ).quantised()
        if ds.targets is not None or ds.whitening is not None or ds.labels is None:
            raise UserError(
                f"row.{self.row}.method: its set has soft labels, a whitening or no labels; teachers label plain images"
            )
        return torch.tensor(ds.images), torch.tensor(classes)[torch.tensor(ds.labels)]

    def _teacher(self, position: int | None, classes: Sequence[int]) -> tuple[nn.Module, InputForm]:
        source = self._source(position, classes, "by the teacher")
        method = self.scenario.teaching_method(self.row)
        teacher = teacher_for(method.recipe, getattr(method, "teacher"))  # noqa: B009 (only such methods are here)
        resources = Resources.of([source], device=self.device)
        made = artefacts.get(TeacherSpec.of(source, teacher), resources=resources, workers=Workers(count=1))
        return network_of(made), form_in(made)
