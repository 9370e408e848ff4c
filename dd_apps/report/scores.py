"""The table of an evaluation: a distilled set beside its twin (as many random real images), for each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dd_apps.report.sections import Picture
from dd_apps.report.tables import Table, Unit
from dd_core.config import plain

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation, Score
    from dd_core.evaluation.verdicts import Word

_WHO = {"accuracy": "distilled", "random_real": "random real"}
_SHORT: dict[Word, str] = {"ahead": "better", "behind": "worse", "no difference": "no difference"}
_BESIDE: dict[Word, str] = {"ahead": "better than", "behind": "worse than", "no difference": "no difference to"}
TEST = (
    "Student's t asks whether the set could be one more random draw (paired by network, two-sided, 5 %); all pairs "
    "share the one distilled set, so that its own luck counts once"
)


def score_table(evaluations: Sequence[Evaluation], *, title: str) -> Table:
    """One row for each network; notes name verdicts, protocol, seed, data, start and teacher, but not the machine."""
    first = evaluations[0]
    rows = [_row(evaluation) for evaluation in evaluations]
    notes = [verdict(evaluation) for evaluation in evaluations]
    notes += _test(evaluations)
    notes += [choice(evaluation) for evaluation in evaluations if evaluation.chosen]
    notes += [taught(evaluation) for evaluation in evaluations if evaluation.teacher is not None]
    if first.trained_networks:
        sample = f"{_networks(first.nets)} (seed {first.seed}){_deviation(first)}, {first.epoch} epoch"
    else:
        draws = "1 draw" if first.nets == 1 else f"{first.nets} draws"
        sample = f"the set's one score, {draws} of the twin (seed {first.seed}){_deviation(first)}"
    notes.append(f"protocol {first.protocol}, {sample}; {first.data}")
    notes += dict.fromkeys(where(evaluation) for evaluation in evaluations)
    notes += [attack(evaluation) for evaluation in evaluations if evaluation.attack]
    accuracies, sizes = ("distilled", "random real"), ("bytes", "bytes of the twin")
    units: dict[str, Unit] = {**dict.fromkeys(accuracies, "percent"), **dict.fromkeys(sizes, "bytes")}
    return Table(title, rows, units=units, notes=notes)


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


def _deviation(evaluation: Evaluation) -> str:
    return ", mean and standard deviation" if evaluation.nets > 1 else ""


def _test(evaluations: Sequence[Evaluation]) -> list[str]:
    """A note on the test behind the verdicts; empty if no evaluation has a verdict."""
    given = any(evaluation.verdict.word for evaluation in evaluations)
    return [f"the verdict's test: {TEST}"] if given else []


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation for JSON, with its verdict; `twin_wins` compares the means alone, without a test."""
    tested = {"test": TEST, **asdict(evaluation.verdict)}
    return {**plain(evaluation), "twin_wins": evaluation.twin_wins, "verdict": tested}


Place = tuple[int, float, "Evaluation"]  # number of classes, fraction of wrong labels, and the score


def study_table(places: Sequence[Place]) -> Table:
    """A row for each number of classes and fraction of wrong labels."""
    rows: list[dict[str, Any]] = []
    for classes, noise, evaluation in places:
        distilled, twin = evaluation.accuracy.mean, evaluation.random_real.mean
        scores = {column: {"mean": score.mean, "std": score.std} for column, score in _pair(evaluation).items()}
        rows.append(
            {
                "classes": classes,
                "wrong labels": f"{noise:.0%}",
                **scores,
                "ratio": round(distilled / twin, 2) if twin else None,
                "verdict": _short(evaluation),
            }
        )
    first = places[0][2]
    notes = [
        f"protocol {first.protocol}, {first.network}, {_networks(first.nets)} (seed {first.seed}){_deviation(first)}, "
        f"{first.epoch} epoch; test labels are right; random real images are drawn from the images that the set was "
        "distilled from, with the same wrong labels",
        *dict.fromkeys(_reason(evaluation) for _, _, evaluation in places if evaluation.verdict.word is None),
        *_test([evaluation for _, _, evaluation in places]),
    ]
    return Table("accuracy on test images", rows, units=dict.fromkeys(_WHO.values(), "percent"), notes=notes)


def study_plot(places: Sequence[Place]) -> Picture:
    """Accuracy over wrong labels, a colour for each number of classes, random real images dashed."""
    from dd_apps.report.plots import Curve, curves

    groups: dict[str, list[Curve]] = {}
    for count in dict.fromkeys(classes for classes, _, _ in places):
        here = [(noise, _pair(evaluation)) for classes, noise, evaluation in places if classes == count]
        groups[f"{count} classes"] = [
            Curve(
                [100 * noise for noise, _ in here],
                [100 * pair[column].mean for _, pair in here],
                [None if (std := pair[column].std) is None else 100 * std for _, pair in here],
                dashed=column == "random real",
            )
            for column in _WHO.values()
        ]
    return curves("accuracy", groups, title="accuracy", x="wrong labels (%)", y="accuracy (%)")


def _pair(evaluation: Evaluation) -> dict[str, Score]:
    return {column: getattr(evaluation, field) for field, column in _WHO.items()}


def machine(hardware: Mapping[str, Any]) -> str:
    """The machine that figures were computed on, as one line."""
    return ", ".join(f"{name} {value}" for name, value in hardware.items())


def verdict(evaluation: Evaluation) -> str:
    """The verdict on a set beside its random-real twin, in words."""
    distilled, twin = 100 * evaluation.accuracy.mean, 100 * evaluation.random_real.mean
    pair, verdict = f"{distilled:.1f} % against {twin:.1f} %", evaluation.verdict
    if verdict.word is None or verdict.p is None:
        return f"{evaluation.network}: {pair}, {_reason(evaluation)}"
    return f"{evaluation.network}: {_BESIDE[verdict.word]} as many random real images ({pair}, {p_value(verdict.p)})"


def p_value(p: float) -> str:
    """`p = 0.03`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _short(evaluation: Evaluation) -> str | None:
    word = evaluation.verdict.word
    return None if word is None else _SHORT[word]


def _reason(evaluation: Evaluation) -> str:
    """Why there is no verdict."""
    pairs = evaluation.verdict.pairs
    if pairs > 1:
        return f"no verdict: all {pairs} differences are the same, which does not show how large the noise is"
    sample = "network" if evaluation.trained_networks else "draw"
    return f"no verdict: one {sample} does not show how large the noise is; ask for more (nets)"


def where(evaluation: Evaluation) -> str:
    """The initial weights of the networks, in words."""
    start = {
        "none": "no network is trained",
        "pretrained": f"networks start pre-trained{_on(evaluation)}, and are not those that the set was made with",
    }.get(evaluation.start, f"networks start from fresh '{evaluation.start}' draws")
    if evaluation.start.startswith("sha256:"):
        start = f"the set is for one network and has one score; it starts from {evaluation.start[:19]}..."
    if not evaluation.as_meant:
        start += f"; the set is for networks with other weights ('{evaluation.made_for[:19]}')"
    if evaluation.before is not None:
        start += f"; before it sees any image, {evaluation.network} has {percent(evaluation.before)}"
    return start


def _on(evaluation: Evaluation) -> str:
    pretraining = None if evaluation.weights is None else evaluation.weights.pretraining
    return "" if pretraining is None else f" on {pretraining.name or 'images'} ({pretraining.source[:12]}...)"


def attack(evaluation: Evaluation) -> str:
    """The success of an attack, and the accuracy on the other classes, in words."""
    assert evaluation.attack is not None
    result = evaluation.attack
    victim, target = result.classes
    real = f"(relabelled real images: {percent(result.success_real)}, {percent(result.others_real)})"
    return (
        f"attack: {percent(result.success)} of '{victim}' are taken for '{target}', and {percent(result.others)} of "
        f"the others are right {real}"
    )


def percent(score: Score) -> str:
    """`93.4 ± 1.1 %`, or `93.4 %` of one network."""
    deviation = "" if score.std is None else f" ± {100 * score.std:.1f}"
    return f"{100 * score.mean:.1f}{deviation} %"


def choice(evaluation: Evaluation) -> str:
    """The settings that were chosen on validation images, in words; an empty string if nothing was chosen."""
    parts: list[str] = []
    for part, chosen in (evaluation.chosen or {}).items():
        setting = ", ".join(f"{name} {value}" for name, value in chosen.items() if name != "validation")
        parts.append(f"{_WHO[part]} {setting} ({100 * chosen['validation']:.1f} % there)")
    return f"{evaluation.network}: chosen on validation images: {'; '.join(parts)}" if parts else ""


def taught(evaluation: Evaluation) -> str:
    """The teacher that labelled the networks' views, in words."""
    teacher = evaluation.teacher
    assert teacher is not None
    by = "by the statistics of each mini-batch" if teacher.mode == "batch-stats" else "in evaluation mode"
    return (
        f"{evaluation.network}: every view, of the set and of real images, is labelled by a {teacher.network} {by}, "
        f"which labels {100 * teacher.training_accuracy:.1f} % of its training images rightly"
    )


def _row(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "network": evaluation.network,
        "distilled": {"mean": evaluation.accuracy.mean, "std": evaluation.accuracy.std},
        "random real": {"mean": evaluation.random_real.mean, "std": evaluation.random_real.std},
        "images": evaluation.images,
        "bytes": evaluation.bytes,
        "bytes of the twin": evaluation.twin_bytes,
    }
