"""The table of an evaluation: a distilled set beside its random-real twin, for each kind of network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dd_apps.report.tables import Table, Unit

if TYPE_CHECKING:
    from dd_core.evaluation import Evaluation, Score

_WHO = {"accuracy": "distilled", "random_real": "random real"}


def score_table(evaluations: Sequence[Evaluation], *, title: str) -> Table:
    """One row for each network; the notes carry all else that a figure has to say, but for the machine."""
    first = evaluations[0]
    rows = [_row(evaluation) for evaluation in evaluations]
    notes = [verdict(evaluation) for evaluation in evaluations if evaluation.twin_wins]
    notes += [choice(evaluation) for evaluation in evaluations if evaluation.chosen]
    if first.network == "k-nn":
        how = f"the set's one score, {first.nets} draws of the twin (seed {first.seed}), mean and standard deviation"
    else:
        how = f"{_networks(first.nets)} (seed {first.seed}), mean and standard deviation, {first.epoch} epoch"
    notes.append(f"protocol {first.protocol}, {how}; {first.data}")
    notes += dict.fromkeys(where(evaluation) for evaluation in evaluations)
    notes += [attack(evaluation) for evaluation in evaluations if evaluation.attack]
    accuracies, sizes = ("distilled", "random real"), ("bytes", "bytes of the twin")
    units: dict[str, Unit] = {**dict.fromkeys(accuracies, "percent"), **dict.fromkeys(sizes, "bytes")}
    return Table(title, rows, units=units, notes=notes)


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


Place = tuple[int, float, "Evaluation"]  # classes, fraction of wrong labels, and what was scored there


def study_table(places: Sequence[Place]) -> Table:
    """A row for each number of classes and fraction of wrong labels."""
    rows: list[dict[str, Any]] = []
    for classes, noise, one in places:
        ours, twin = one.accuracy.mean, one.random_real.mean
        scores = {who: {"mean": score.mean, "std": score.std} for who, score in _pair(one).items()}
        rows.append(
            {
                "classes": classes,
                "wrong labels": f"{noise:.0%}",
                **scores,
                "ratio": round(ours / twin, 2) if twin else None,
            }
        )
    first = places[0][2]
    notes = [
        f"protocol {first.protocol}, {first.network}, {_networks(first.nets)} (seed {first.seed}), mean and standard "
        f"deviation, {first.epoch} epoch; test labels are right, and random real images are drawn from those that the "
        "set was distilled from, wrong labels and all",
        *(f"{classes} classes, {noise:.0%} wrong: {verdict(one)}" for classes, noise, one in places if one.twin_wins),
    ]
    return Table("accuracy on test images", rows, units=dict.fromkeys(_WHO.values(), "percent"), notes=notes)


def study_plot(places: Sequence[Place]) -> bytes:
    """Accuracy over wrong labels, a colour for each number of classes, random real images dashed; a PNG file."""
    from dd_apps.report.plots import Curve, curves_png

    groups: dict[str, list[Curve]] = {}
    for count in dict.fromkeys(classes for classes, _, _ in places):
        here = [(noise, _pair(one)) for classes, noise, one in places if classes == count]
        groups[f"{count} classes"] = [
            Curve(
                [100 * noise for noise, _ in here],
                [100 * pair[who].mean for _, pair in here],
                [100 * pair[who].std for _, pair in here],
                dashed=who == "random real",
            )
            for who in _WHO.values()
        ]
    return curves_png(groups, x="wrong labels (%)", y="accuracy (%)")


def _pair(evaluation: Evaluation) -> dict[str, Score]:
    return {who: getattr(evaluation, field) for field, who in _WHO.items()}


def machine(hardware: Mapping[str, Any]) -> str:
    """What a figure has to say about where it was computed, on one line."""
    return ", ".join(f"{name} {value}" for name, value in hardware.items())


def verdict(evaluation: Evaluation) -> str:
    """What a score is worth, in words."""
    ours, twin = 100 * evaluation.accuracy.mean, 100 * evaluation.random_real.mean
    pair = f"{ours:.1f} % against {twin:.1f} %"
    if evaluation.twin_wins:
        return f"{evaluation.network}: as many random real images do at least as well ({pair})"
    return f"{evaluation.network}: better than as many random real images ({pair})"


def where(evaluation: Evaluation) -> str:
    """Where the networks started, in words."""
    start = {
        "none": "no network is trained",
        "pretrained": f"networks start pre-trained{_on(evaluation)}, others than those that the set was made with",
    }.get(evaluation.start, f"networks start from fresh '{evaluation.start}' draws")
    if evaluation.start.startswith("sha256:"):
        start = f"the set is for one network and has one score; it starts from {evaluation.start[:19]}..."
    if not evaluation.as_meant:
        start += f"; the set is for others ('{evaluation.made_for[:19]}')"
    if evaluation.before is not None:
        start += f"; before it sees any image, {evaluation.network} has {percent(evaluation.before)}"
    return start


def _on(evaluation: Evaluation) -> str:
    how = None if evaluation.weights is None else evaluation.weights.pretraining
    return "" if how is None else f" on {how.name or 'images'} ({how.source[:12]}...)"


def attack(evaluation: Evaluation) -> str:
    """How an attack went, in words."""
    assert evaluation.attack is not None
    found = evaluation.attack
    victim, target = found.classes
    real = f"(relabelled real images: {percent(found.success_real)}, {percent(found.others_real)})"
    return (
        f"attack: {percent(found.success)} of '{victim}' are taken for '{target}', and {percent(found.others)} of the "
        f"others are right {real}"
    )


def percent(score: Score) -> str:
    """`93.4 ± 1.1 %`."""
    return f"{100 * score.mean:.1f} ± {100 * score.std:.1f} %"


def choice(evaluation: Evaluation) -> str:
    """What was chosen on validation images, in words; an empty string where nothing was."""
    parts: list[str] = []
    for who, chosen in (evaluation.chosen or {}).items():
        setting = ", ".join(f"{name} {value}" for name, value in chosen.items() if name != "validation")
        parts.append(f"{_WHO[who]} {setting} ({100 * chosen['validation']:.1f} % there)")
    return f"{evaluation.network}: chosen on validation images: {'; '.join(parts)}" if parts else ""


def _row(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "network": evaluation.network,
        "distilled": {"mean": evaluation.accuracy.mean, "std": evaluation.accuracy.std},
        "random real": {"mean": evaluation.random_real.mean, "std": evaluation.random_real.std},
        "images": evaluation.images,
        "bytes": evaluation.bytes,
        "bytes of the twin": evaluation.twin_bytes,
    }
