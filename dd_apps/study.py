"""The task `study`: how the number of classes and wrong labels change what distillation is worth.

One method at one ipc, over numbers of classes and fractions of wrong labels. For each pair a set is distilled from
training images with these wrong labels. Networks trained on the set, and networks trained on random images with the
same wrong labels, are tested on images with right labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue, field_validator, model_validator

from dd_apps.data import Data, DataScenario, images_a_class
from dd_apps.report.scores import figures, study_plot, study_table
from dd_apps.scoring import SCORES, Scoring, check_names, score
from dd_apps.task import Outcome
from dd_core import exchange, runner
from dd_core.distilled import DistilledSet, Size
from dd_core.errors import UserError
from dd_core.methods import decode_method
from dd_core.system import surroundings

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation
    from dd_core.images import LabelledImages
    from dd_core.runner import RunOptions


class StudyScenario(DataScenario):
    """A grid over numbers of classes and fractions of wrong labels."""

    data: str = Field(description="data set by name, or folder:PATH; the images have to fit into memory")
    classes: tuple[int, ...] = Field(
        default=(), description="numbers of classes; the seed draws which classes are used; empty: all classes"
    )
    label_noise: tuple[float, ...] = Field(
        default=(0.0,), min_length=1, description="fractions of training labels that are replaced by wrong ones"
    )
    method: dict[str, JsonValue] = Field(description="name of the method, and its options")
    ipc: int = Field(default=1, ge=1, description="images per class")
    seed: int = Field(default=0, ge=0, description="seed of classes, wrong labels, distillation and evaluation")
    protocol: str = Field(default="recipe", description="name of the protocol by which networks are trained on the set")
    network: str | None = Field(
        default=None, description="network that is trained on the set and tested; none: the network of the set's recipe"
    )
    nets: int = Field(default=3, ge=1, description="fresh networks whose mean is the score of a set")

    @field_validator("label_noise")
    @classmethod
    def _noise_is_a_fraction(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= fraction < 1 for fraction in fractions):
            raise ValueError("expected fractions from 0 to below 1, as in [0.0, 0.2]")
        if len({f"{fraction:g}" for fraction in fractions}) < len(fractions):
            raise ValueError("expected each fraction once")
        return fractions

    @field_validator("classes")
    @classmethod
    def _two_classes_at_least(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if any(count < 2 for count in counts):
            raise ValueError("expected at least 2 classes in each number")
        if len({*counts}) < len(counts):
            raise ValueError("expected each number of classes once")
        return counts

    @model_validator(mode="after")
    def _can_be_run(self) -> StudyScenario:
        try:
            check_names(protocol=self.protocol, networks=[self.network] if self.network else [])
            decode_method(self.method).require_labels_used("the score of a classifier")
        except UserError as error:
            raise ValueError(error.text) from None
        return self

    @property
    def title(self) -> str:
        """Method, data and the grid, on one line."""
        size = "" if self.image_size is None else f" at {self.image_size} px"
        classes = f"{_listed(self.classes)} classes" if self.classes else "all classes"
        noise = _listed([f"{100 * fraction:g}" for fraction in self.label_noise])
        grid = f"{classes}; {noise} % of labels wrong"
        return f"{self.method['name']} on {self.data}{size}, {images_a_class(self.ipc)}: {grid}"

    def run(self, folder: Path, options: RunOptions) -> Outcome:
        """Distil and score a set for each cell of the grid."""
        cells = run(self, folder=folder, options=options)
        places = [(cell.classes, cell.label_noise, cell.evaluation) for cell in cells]
        evaluations = [
            {"classes": classes, "label_noise": noise, **figures(evaluation)} for classes, noise, evaluation in places
        ]
        return Outcome(
            [study_table(places), study_plot(places)],
            {cell.name: cell.ds for cell in cells},
            {"evaluations": evaluations},
        )


def _listed(values: Sequence[object]) -> str:
    """`2`, `2 and 4`, `2, 4 and 8`."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a number of classes, a fraction of wrong labels, and the set with its score."""

    classes: int
    label_noise: float
    ds: DistilledSet
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """The cell's name in file names."""
        return _name(self.classes, self.label_noise)


def _name(classes: int, noise: float) -> str:
    return f"{classes}-classes-noise-{noise:g}"


@surroundings.own()
def run(scenario: StudyScenario, *, folder: Path, options: RunOptions) -> list[Cell]:
    """Distil and score a set for each cell of the grid; sets that an earlier run left in `folder` are used again.

    Raises `UserError` for more classes than the data have, and for data too large to be held in memory.
    """
    train, test = (_in_memory(scenario.real_images, split, options) for split in ("train", "test"))
    counts = scenario.classes or (len(train.classes),)
    if max(counts) > len(train.classes):
        raise UserError(f"classes: {train.name} has {len(train.classes)}, fewer than {max(counts)}")
    config, scoring = (
        exchange.with_weights_kept(decode_method(scenario.method)),
        Scoring(scenario.protocol, (scenario.network,) if scenario.network else (), scenario.nets, scenario.seed),
    )
    cells: list[Cell] = []
    places = list(product(counts, scenario.label_noise))
    with options.reporter.stage("cells of the grid", total=len(places)) as stage:
        for count, noise in places:
            classes = _classes(train, count, seed=scenario.seed)
            clean, tested = train.of_classes(classes), test.of_classes(classes)
            noisy = clean.with_label_noise(noise, seed=scenario.seed) if noise else clean
            options.reporter.message(f"{count} classes, {noise:.0%} of labels wrong")
            out = folder / f"{_name(count, noise)}.safetensors"
            ds = runner.distill(config, noisy, Size(ipc=scenario.ipc), seed=scenario.seed, out=out, options=options)
            (evaluation,) = score(ds, noisy, tested, scoring, options=options, keep=folder / SCORES).evaluations
            cells.append(Cell(count, noise, ds, evaluation))
            stage.advance()
    return cells


def _in_memory(data: Data, split: str, options: RunOptions) -> LabelledImages:
    from dd_core.images import LabelledImages

    source = data.load(split, workers=options.workers, say=options.reporter.message)
    if not isinstance(source, LabelledImages):
        raise UserError(f"{source.name} does not fit into memory, as a study needs; give a smaller image_size")
    return source


def _classes(train: LabelledImages, count: int, *, seed: int) -> Sequence[int]:
    """The first `count` classes of a random order: a larger count contains the classes of every smaller one."""
    import torch

    from dd_core.streams import generator

    order = torch.randperm(len(train.classes), generator=generator(seed, "classes")).tolist()
    return sorted(order[:count])
