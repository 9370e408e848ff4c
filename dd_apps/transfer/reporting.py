"""The tables of a transfer scenario: accuracies, paired differences, and heat maps of backbones and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dd_apps.report.plots import Panel, heat_map
from dd_apps.report.sections import Picture, Section
from dd_apps.report.tables import Table
from dd_apps.report.words import several
from dd_apps.transfer.config import HighLossRow, RealRow, RowConfig, SetRow, TransferScenario
from dd_apps.transfer.preparing import Lesson, Prepared
from dd_apps.transfer.running import Results
from dd_apps.transfer.settings import ScoringConfig
from dd_core.config import plain
from dd_core.evaluation.differences import Difference, difference

NEW_DRAW = "where one set is compared with images that are drawn for each seed, Student's t is that for one more draw"


@dataclass(frozen=True)
class Compared:
    """The comparison of one row with another, for one backbone at one fraction of the labels."""

    target: str
    score: str
    backbone: str
    fraction: str
    row: str
    other: str
    difference: Difference


class Report:
    """The sections and figures of a scenario's report."""

    def __init__(self, scenario: TransferScenario, prepared: Prepared, results: Results) -> None:
        self.scenario, self.prepared, self.results = scenario, prepared, results
        self.fractions = [f"{fraction:g}" for fraction in scenario.fractions]

    def sections(self) -> list[Section]:
        """A table, its differences and a heat map for each target and way of scoring."""
        return [
            section
            for target in self.scenario.targets
            for score in self.scenario.scores
            for section in self._sections(target.called, score)
        ]

    def details(self) -> dict[str, Any]:
        """All figures, for JSON."""
        scores = [
            {"row": row, "backbone": backbone, "seed": seed, "target": target, **plain(record)}
            for (row, backbone, seed, target), record in self.results.scores.items()
        ]
        pretraining = [
            {"row": row, "backbone": backbone, "seed": seed, **plain(record)}
            for (row, backbone, seed), record in self.results.pretraining.items()
        ]
        compared = [
            {**vars(each), "difference": plain(each.difference)}
            for target in self.scenario.targets
            for score in self.scenario.scores
            for each in self.compared(target.called, score.called)
        ]
        return {"scores": scores, "pretraining": pretraining, "differences": compared}

    # --- figures ----------------------------------------------------------------------------------------------------

    def by_seed(self, row: str, backbone: str, target: str, score: str, fraction: str) -> dict[int, float]:
        """The accuracy under each seed, without seeds under which something diverged."""
        found: dict[int, float] = {}
        for seed in self.scenario.all_seeds:
            values = self.results.scores[row, backbone, seed, target].values
            if score in values:
                found[seed] = values[score][fraction].accuracy
        return found

    def compared(self, target: str, score: str) -> list[Compared]:
        """Comparisons of each row of a set with each other row, every pair once; without such rows, of all pairs."""
        found: list[Compared] = []
        for ours, theirs in self._pairs():
            for backbone in self.scenario.backbones:
                for fraction in self.fractions:
                    sides = [self.by_seed(each.called, backbone, target, score, fraction) for each in (ours, theirs)]
                    seeds = [seed for seed in sides[0] if seed in sides[1]]
                    if seeds:
                        values = [[side[seed] for seed in seeds] for side in sides]
                        result = difference(*values, new_draw=self._new_draw(ours, theirs))
                        found.append(Compared(target, score, backbone, fraction, ours.called, theirs.called, result))
        return found

    def _pairs(self) -> list[tuple[RowConfig, RowConfig]]:
        rows = self.scenario.rows
        ours = [row for row in rows if isinstance(row, SetRow)] or list(rows)
        pairs: list[tuple[RowConfig, RowConfig]] = []
        for row in ours:
            pairs += [(row, other) for other in rows if other is not row and (other, row) not in pairs]
        return pairs

    def _new_draw(self, ours: RowConfig, theirs: RowConfig) -> bool:
        """Whether one row has one set for all seeds, and the other row has other images for each seed."""
        kinds = {self._kind(ours), self._kind(theirs)}
        return kinds == {"one", "each"}

    def _kind(self, row: RowConfig) -> str:
        if isinstance(row, RealRow):
            return "each"
        if isinstance(row, SetRow):
            config = self.scenario.sets.get(row.set)
            return "each" if config is not None and config.anew else "one"
        return "none"

    # --- sections ---------------------------------------------------------------------------------------------------

    def _sections(self, target: str, score: ScoringConfig) -> Iterator[Section]:
        yield self._accuracies(target, score)
        if compared := self.compared(target, score.called):
            yield self._differences(target, score, compared)
        if len(self.scenario.backbones) > 1:
            yield self._heat_map(target, score)

    def _accuracies(self, target: str, score: ScoringConfig) -> Table:
        columns = {fraction: f"{100 * float(fraction):g} % of labels" for fraction in self.fractions}
        rows: list[dict[str, Any]] = []
        for backbone in self.scenario.backbones:
            for row in self.scenario.rows:
                cells = {
                    column: _spread(self.by_seed(row.called, backbone, target, score.called, fraction).values())
                    for fraction, column in columns.items()
                }
                rows.append({"backbone": backbone, "pre-training": row.called, **cells})
        title = f"{target}: {score.called}, accuracy on test images"
        return Table(title, rows, units=dict.fromkeys(columns.values(), "percent"), notes=self._notes(target, score))

    def _differences(self, target: str, score: ScoringConfig, compared: Sequence[Compared]) -> Table:
        rows = [
            {
                "pre-training": each.row,
                "against": each.other,
                "backbone": each.backbone,
                "labels": f"{100 * float(each.fraction):g} %",
                "difference": _interval(each.difference),
                "verdict": each.difference.word or "none",
            }
            for each in compared
        ]
        notes = [
            f"mean difference over seeds (first row minus second) with its interval at 95 %, both by Student's t on "
            f"pairs of a seed; verdicts are two-sided, each at 5 %, and not corrected for their number ({len(rows)})"
        ]
        if any(each.difference.new_draw for each in compared):
            notes.append(NEW_DRAW)
        if self.scenario.seeds == 1:
            notes.append("one seed does not show how large the noise is: no interval and no verdict; set more seeds")
        title = f"{target}: {score.called}, paired differences"
        return Table(title, rows, units={"difference": "percent"}, notes=notes)

    def _heat_map(self, target: str, score: ScoringConfig) -> Picture:
        panels = [
            Panel(f"{100 * float(fraction):g} % of labels", self._means(target, score.called, fraction))
            for fraction in self.fractions
        ]
        place = [each.called for each in self.scenario.targets].index(target)
        kind = [each.called for each in self.scenario.scores].index(score.called)
        return heat_map(
            f"heat-map-{place}-{kind}",
            panels,
            rows=self.scenario.backbones,
            columns=[row.called for row in self.scenario.rows],
            title=f"{target}: {score.called}, backbones and pre-training",
            note=f"mean accuracy in percent over {_seeds(self.scenario)}",
        )

    def _means(self, target: str, score: str, fraction: str) -> list[list[float | None]]:
        return [
            [
                _percent(self.by_seed(row.called, backbone, target, score, fraction).values())
                for row in self.scenario.rows
            ]
            for backbone in self.scenario.backbones
        ]

    # --- notes ------------------------------------------------------------------------------------------------------

    def _notes(self, target: str, score: ScoringConfig) -> list[str]:
        scenario, (train, test) = self.scenario, self.results.images[target]
        counted = "mean and standard deviation over " if scenario.seeds > 1 else ""
        return [
            f"{score.called}: {score.words}; last step, nothing is chosen on test images",
            f"{counted}{_seeds(scenario)} of weights, training, random images and drawn labels; labels are drawn from "
            f"{train:,} training images, at least one of each class; {test:,} test images",
            *(self._row_note(row) for row in scenario.rows),
            "images are normalised as those of the set; without pre-training, by the target's training images",
            *self._failures(target),
            *self._remarks(),
        ]

    def _row_note(self, row: RowConfig) -> str:
        lesson = self.prepared.lessons[row.called, self.scenario.seed]
        if lesson is None:
            return f"{row.called}: initial weights"
        if lesson.whole is not None:
            teacher = lesson.whole.teacher
            return (
                f"{row.called}: all {lesson.images:,} images of {self.prepared.source.name} without labels, by "
                f"{teacher.objective}, {several(teacher.epochs, 'epoch')}; an upper bound, and no set"
            )
        if isinstance(row, RealRow):
            which = "high-loss" if isinstance(row, HighLossRow) else "random"
            kind = f"{which} images of {self.prepared.source.name}"
        else:
            kind = f"images by {lesson.method}" if lesson.method else "images of a set"
        drawn = {"each": "different for each seed", "one": "the same for all seeds"}[self._kind(row)]
        return f"{row.called}: {lesson.images} {kind}, {drawn}; {_learned(lesson)}"

    def _failures(self, target: str) -> Iterator[str]:
        for (row, backbone, seed, where), record in self.results.scores.items():
            if where == target and record.reason is not None:
                yield f"left out: {row}, {backbone}, seed {seed}: {record.reason}"

    def _remarks(self) -> list[str]:
        records = [*self.results.pretraining.values(), *self.results.scores.values()]
        return [*dict.fromkeys(remark for record in records for remark in record.remarks)]


def _learned(lesson: Lesson) -> str:
    recipe = lesson.recipe
    targets = {"none": "labels", "features": "features"}.get(lesson.targets, f"class {lesson.targets}")
    if recipe.steps:
        return f"{targets} by {recipe.loss}, {len(recipe.steps)} learned steps"
    decay = f"weight decay {recipe.weight_decay:g}"
    return (
        f"{targets} by {recipe.loss}, {several(recipe.epochs, 'epoch')} of {recipe.optimiser}, rate "
        f"{recipe.learning_rate:g} ({recipe.schedule}), {decay}, batch {recipe.batch_size}, "
        f"augmentation {recipe.augmentation}"
    )


def _seeds(scenario: TransferScenario) -> str:
    return f"{scenario.seeds} seeds (from {scenario.seed})" if scenario.seeds > 1 else f"one seed ({scenario.seed})"


def _spread(values: Any) -> dict[str, float | None] | None:
    """Mean and sample standard deviation; None where there is no value."""
    values = list(values)
    if not values:
        return None
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return {"mean": mean, "std": (squares / (len(values) - 1)) ** 0.5 if len(values) > 1 else None}


def _percent(values: Any) -> float | None:
    spread = _spread(values)
    return None if spread is None or spread["mean"] is None else 100 * spread["mean"]


def _interval(result: Difference) -> Mapping[str, float | None]:
    if result.low is None or result.high is None:
        return {"mean": result.mean, "std": None}
    return {"value": result.mean, "low": result.low, "high": result.high}
