"""The lesson of each row under each seed, as a file: a distilled set, or a set of real images, to pre-train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dd_apps.report.words import several
from dd_apps.transfer import drawing
from dd_apps.transfer.config import (
    FILE,
    HighLossRow,
    MadeSet,
    Overrides,
    RandomRow,
    RealRow,
    RowConfig,
    SetRow,
    TransferScenario,
    WholeRow,
    overridden,
)
from dd_apps.transfer.high_loss import high_loss_rows
from dd_apps.transfer.teaching import FindLabeller
from dd_core import exchange, runner, store
from dd_core.config import digest, plain
from dd_core.distilled import DistilledSet
from dd_core.errors import UserError
from dd_core.images import Source
from dd_core.methods import decode_method
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.streams import Streams
from dd_core.training.feature_teacher_config import FeatureTeacherConfig


@dataclass(frozen=True)
class Whole:
    """All images of the source, and the settings by which a backbone learns them without labels."""

    source: Source
    teacher: FeatureTeacherConfig


@dataclass(frozen=True)
class Lesson:
    """The set that a row pre-trains on under a seed: file, digest of its content, and recipe.

    method: the method that distilled the images; empty for real images and for a set that does not name its method.
    whole: if given, learned in place of the set, which then only gives the normalisation.
    """

    file: Path
    digest: str
    recipe: Recipe
    images: int
    targets: str
    method: str = ""
    whole: Whole | None = None


@dataclass(frozen=True)
class Prepared:
    """The source, the sets that were made, and the lesson of each row and seed; None for no pre-training."""

    source: Source
    made: Mapping[str, DistilledSet]
    lessons: Mapping[tuple[str, int], Lesson | None]


class Preparation:
    """Makes the sets of a scenario in `folder`, or finds them there."""

    def __init__(
        self, scenario: TransferScenario, source: Source, folder: Path, options: RunOptions, find: FindLabeller
    ) -> None:
        self.scenario, self.source, self.folder, self.options, self.find = scenario, source, folder, options, find
        self._sets: dict[Path, DistilledSet] = {}

    def run(self) -> Prepared:
        """Make all lessons. Raises what `runner.distill` raises, and `UserError` for a row that does not fit a set."""
        lessons = {
            (row.called, seed): self._lesson(row, seed)
            for row in self.scenario.rows
            for seed in self.scenario.all_seeds
        }
        own = {self._file(name, seed) for name in self.scenario.sets for seed in self.scenario.all_seeds}
        made = {file.stem: ds for file, ds in self._sets.items() if file in own}
        return Prepared(self.source, made, lessons)

    # --- sets -------------------------------------------------------------------------------------------------------

    def set_of(self, name: str, seed: int) -> DistilledSet:
        """The set that a row calls `name`, under a seed of the scenario."""
        file = self._file(name, seed)
        if file not in self._sets:
            config = self.scenario.sets.get(name)
            ds = store.read_set(file) if config is None else self._make(name, config, file, seed)
            if ds.images.shape[1:] != self.source.image_shape:
                theirs, ours = ("x".join(map(str, each)) for each in (ds.images.shape[1:], self.source.image_shape))
                raise UserError(
                    f"set {name} has {theirs} images (C x H x W), but the source has {ours}; make them equal"
                )
            self._sets[file] = ds
        return self._sets[file]

    def _make(self, name: str, config: MadeSet, file: Path, seed: int) -> DistilledSet:
        self.options.reporter.message(f"set {file.stem}: {config.method['name']}")
        method = exchange.with_weights_kept(decode_method(config.method))
        source = self.source if config.labels else self.source.without_labels()
        offset = seed - self.scenario.seed if config.anew else 0
        return runner.distill(method, source, config.size, seed=config.seed + offset, out=file, options=self.options)

    def _file(self, name: str, seed: int) -> Path:
        if name.endswith(FILE):
            return Path(name)
        anew = self.scenario.sets[name].anew
        return self.folder / "sets" / (f"{name}-{seed}{FILE}" if anew else f"{name}{FILE}")

    # --- lessons ----------------------------------------------------------------------------------------------------

    def _lesson(self, row: RowConfig, seed: int) -> Lesson | None:
        if isinstance(row, SetRow) and row.like is None:
            ds, file = self.set_of(row.set, seed), self._file(row.set, seed)
            return _described(file, drawing.with_recipe(ds, self._recipe(ds.manifest.recipe, row)))
        if isinstance(row, SetRow | RealRow):
            ds = self._taught(row, seed) if isinstance(row, SetRow) else self._real(row, seed)
            place = [each.called for each in self.scenario.rows].index(row.called)
            file = self.folder / "rows" / f"{place}-{seed}{FILE}"
            store.write_set(file, ds)
            return _described(file, ds)
        return self._whole(row) if isinstance(row, WholeRow) else None

    def _whole(self, row: WholeRow) -> Lesson:
        """The lesson of all images of the source."""
        source = self.source.without_labels()
        teacher = exchange.with_weights_kept(row.teacher)
        place = [each.called for each in self.scenario.rows].index(row.called)
        file = self.folder / "rows" / f"{place}{FILE}"
        store.write_set(file, drawing.sample_of(source, statistics=teacher.statistics))
        name = digest(["whole", source.fingerprint(), plain(teacher)])
        return Lesson(file, name, Recipe(), len(source), "nothing", whole=Whole(source, teacher))

    def _taught(self, row: SetRow, seed: int) -> DistilledSet:
        """The images of a set, with features by the teacher of another set."""
        assert row.like is not None
        ds, like = self.set_of(row.set, seed), self.set_of(row.like, seed)
        images = drawing.as_source(ds, row.set)
        return self._with_features(row, images, like)

    def _real(self, row: RealRow, seed: int) -> DistilledSet:
        """Real images in the number and normalisation of a set: random ones, or those with the highest loss."""
        like, streams = self.set_of(row.like, seed), Streams(seed).child("random real")
        count, source = row.images or len(like), self.source
        if isinstance(row, HighLossRow):
            return self._high_loss(row, like, count, seed)
        if isinstance(row, RandomRow) and row.targets == "labels":
            rows = drawing.random_rows(source, count, streams=streams)
            base = like.manifest.recipe if like.manifest.task == "classification" else drawing.LABELS
            return drawing.labelled_set(source, rows, like, self._recipe(base, row))
        rows = drawing.random_rows(source.without_labels(), count, streams=streams)
        return self._with_features(row, source.subset(rows), like)

    def _high_loss(self, row: HighLossRow, like: DistilledSet, count: int, seed: int) -> DistilledSet:
        source, say = self.source.without_labels(), self.options.reporter.message
        say(f"{row.called}, seed {seed}: {several(row.epochs, 'epoch')} on {len(source):,} images")
        whole = self._with_features(row, source, like)
        learned = overridden(like.manifest.recipe, {"epochs": row.epochs, "steps": []}).for_source(source.name)
        taught = drawing.with_recipe(whole, learned)
        rows = high_loss_rows(source, taught, count, seed=seed, device=self.options.device, say=say)
        assert whole.targets is not None
        features = torch.tensor(whole.targets)[rows]
        return drawing.features_set(source.subset(rows), features, like, whole.manifest.recipe)

    def _with_features(self, row: SetRow | RealRow, images: Source, like: DistilledSet) -> DistilledSet:
        features = self.find(like, self.source, self.options)(images, torch.arange(len(images)))
        recipe = self._recipe(like.manifest.recipe, row).for_source(self.source.name)
        return drawing.features_set(images, features, like, recipe)

    def _recipe(self, recipe: Recipe, row: SetRow | RealRow) -> Recipe:
        changes: Overrides = {**self.scenario.recipe, **row.recipe}
        if recipe.steps and changes and "steps" not in changes:
            raise UserError(
                f"row '{row.called}': its set has learned steps, which ignore {', '.join(changes)}; give the row "
                "recipe.steps = [] as well"
            )
        return overridden(recipe, changes)


def _described(file: Path, ds: DistilledSet) -> Lesson:
    made = ds.manifest.provenance
    method = "" if made is None else made.method
    return Lesson(file, ds.digest(), ds.manifest.recipe, len(ds), ds.manifest.targets, method)
