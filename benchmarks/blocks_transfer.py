"""Blocks of REPRODUCIBILITY: KRR-ST for transfer, beside random real images with the same teacher's features.

Every figure is the newest run's. Conclusions in sentences are computed from the records, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cells import Record, bold, bullets, matching, percent, records, signed, spread, table, words
from record import RESULTS

from dd_core.evaluation.verdicts import new_draw, paired

NOTHING, TWIN = "no pre-training", "random real, teacher's features"
INNER = {
    "krr": "closed form",
    "unrolled full": "through 100 steps, `full`",
    "unrolled adjoint": "through 100 steps, `adjoint`",
}


def newest(what: str) -> list[Record]:
    """The records of one kind, of the newest run that has it."""
    lines = matching(records("transfer_cpu"), what=what)
    return matching(lines, run=lines[-1]["run"]) if lines else []


def accuracies(what: str) -> list[str]:
    """A row for each pre-training, target and score; bold where a set is ahead of its random real twin."""
    (line,) = newest(what)
    scores = line["scores"]
    rows: list[list[str]] = []
    targets = list(dict.fromkeys(score["target"] for score in scores))
    kinds = list(scores[0]["values"])
    fractions = list(scores[0]["values"][kinds[0]])
    for target in targets:
        for kind in kinds:
            for row in dict.fromkeys(score["row"] for score in scores):
                cells = [_cell(line, row, target, kind, fraction) for fraction in fractions]
                rows.append([target, kind, row, *cells])
    return table(
        ["target", "score", "pre-training", *(f"{100 * float(each):g} % of labels" for each in fractions)], rows
    )


def _cell(line: Record, row: str, target: str, kind: str, fraction: str) -> str:
    values = [
        score["values"][kind][fraction]
        for score in line["scores"]
        if score["row"] == row and score["target"] == target and kind in score["values"]
    ]
    own = {"row": row, "target": target, "score": kind, "fraction": fraction}
    tests = [each for each in matching(line["differences"], **own) if is_twin(row, each["other"])]
    return bold(spread(values), when=any(each["difference"]["word"] == "ahead" for each in tests))


def backbones() -> list[str]:
    """A row for each backbone and pre-training; bold where a set is ahead of its random real twin."""
    (line,) = newest("backbones")
    scores = line["scores"]
    (kind,) = scores[0]["values"]
    fractions = list(scores[0]["values"][kind])
    rows: list[list[str]] = []
    for backbone in dict.fromkeys(score["backbone"] for score in scores):
        own = {**line, "scores": matching(scores, backbone=backbone)}
        own["differences"] = matching(line["differences"], backbone=backbone)
        for row in dict.fromkeys(score["row"] for score in own["scores"]):
            cells = [_cell(own, row, own["scores"][0]["target"], kind, fraction) for fraction in fractions]
            rows.append([f"`{backbone.removeprefix('timm:')}`", row, *cells])
    return table(["backbone", "pre-training", *(f"{100 * float(each):g} % of labels" for each in fractions)], rows)


def is_twin(row: str, other: str) -> bool:
    """Whether a row has as many random real images as the set of the row `krr-COUNT`."""
    return other in (TWIN, f"{row.removeprefix('krr-')} {TWIN}")


def verdicts(what: str) -> list[str]:
    """How often sets are ahead of and behind no pre-training and their twins, and the mean differences."""
    (line,) = newest(what)
    told = [_against(line, other) for other in (NOTHING, TWIN)]
    seeds = len({score["seed"] for score in line["scores"]})
    hardware, versions = line["hardware"]["cpu"], line["versions"]["torch"]
    return bullets(
        f"{line['data']}; {seeds} seeds of weights, training, random images and labels; mean ± deviation, last step. "
        f"{hardware}, torch {versions}, {line['minutes']:.0f} minutes.",
        *told,
    )


def _against(line: Record, other: str) -> str:
    tests = [each for each in line["differences"] if each["row"].startswith("krr")]
    own = [each for each in tests if each["other"] == other or (other == TWIN and is_twin(each["row"], each["other"]))]
    by_word: Mapping[str, list[Any]] = {
        word: [each for each in own if each["difference"]["word"] == word] for word in ("ahead", "behind")
    }
    points = [100 * each["difference"]["mean"] for each in own]
    lowest, highest = (signed(each) for each in (min(points), max(points)))
    return (
        f"KRR-ST's sets against {other}: {len(by_word['ahead'])} of {len(own)} tests (uncorrected, 5 %) find them "
        f"ahead, {len(by_word['behind'])} behind; differences from {lowest} to {highest} points."
    )


def bilevel() -> list[str]:
    """A row for each way to compute an outer step of KRR-ST: CPU seconds and memory."""
    lines = newest("bilevel")
    rows = [[INNER[line["inner"]], f"{line['seconds']:.2f}", f"{line['bytes'] / 1e9:.2f}"] for line in lines]
    return table(["an outer step", "CPU seconds", "memory in excess (GB)"], rows)


def teachers() -> list[str]:
    """A row for each objective."""
    rows = [
        [
            line["objective"],
            *(percent(line["accuracy"][score]) for score in ("probe", "knn")),
            *(f"{line['coverage'][name]:.3f}" for name in ("krr-st", "random real")),
        ]
        for line in newest("teacher")
    ]
    return table(["teacher", "probe (%)", "20 neighbours (%)", "coverage, KRR-ST", "coverage, random real"], rows)


def tried() -> list[str]:
    """Sentences on which settings of KRR-ST differ significantly from KRR-ST without them, and from random images."""
    (line,) = newest("tried")
    seeds = len({score["seed"] for score in line["scores"]})
    versions = f"{line['hardware']['cpu']}, torch {line['versions']['torch']}"
    return bullets(
        _told(line, "as it is", "KRR-ST as it is"),
        _told(line, TWIN, "random real images with the teacher's features"),
        f"{line['data']}; {seeds} seeds; tests uncorrected, 5 %; every setting that was tried is in the table, so that "
        f"the best of them is chosen by test images and needs other seeds to be believed. {versions}.",
    )


def _told(line: Record, other: str, called: str) -> str:
    """The rows that are ahead of and behind another row, by fraction of labels."""
    found: dict[str, dict[str, list[str]]] = {"ahead": {}, "behind": {}}
    flipped = {"ahead": "behind", "behind": "ahead"}
    for test in line["differences"]:
        word, fraction = test["difference"]["word"], f"{100 * float(test['fraction']):g}"
        if word in found and other in (test["row"], test["other"]) and NOTHING not in (test["row"], test["other"]):
            row, word = (test["row"], word) if test["other"] == other else (test["other"], flipped[word])
            found[word].setdefault(row, []).append(fraction)
    told = {
        word: words([f"{row} (at {words(fractions)} % of labels)" for row, fractions in rows.items()] or ["nothing"])
        for word, rows in found.items()
    }
    return f"Ahead of {called}: {told['ahead']}. Behind: {told['behind']}."


def data_free() -> list[str]:
    """The accuracy of students that learned from a classifier without any of its images."""
    (line,) = newest("datafree")
    rows = [[name, spread(values)] for name, values in line["accuracies"].items()]
    ours, real, noise = (line["accuracies"][name] for name in ("krr-100", "random real", "Gaussian noise"))
    verdicts = {"random real": new_draw(ours, real), "Gaussian noise": paired(ours, noise)}
    tests = [f"{name}: {signed(100 * each.difference)} points, p = {each.p:.2g}" for name, each in verdicts.items()]
    seeds = len(next(iter(line["accuracies"].values())))
    return [
        *table(["what the student is shown", "accuracy"], rows),
        "",
        *bullets(
            f"{line['data']}; the classifier has {percent(line['teacher'])} %; {seeds} seeds of the student and of the "
            f"random images, one set; mean ± deviation, last step. KRR-ST's images over {words(tests)} (one set, so "
            f"that random real images are one more draw). {line['hardware']['cpu']}, {line['minutes']:.0f} minutes."
        ),
    ]


def adaptation() -> list[str]:
    """A trained network adapted to other classes by one image of each, and its baselines."""
    line = records("adaptation")[-1]
    rows: list[list[str]] = []
    for name, start in {"trained": "of the trained network", "first weights": "of first weights"}.items():
        found = line[name]
        accuracy = bold(percent(found["accuracy"]), when=found["verdict"] == "ahead")
        before = "" if found["before"] is None else percent(found["before"])
        rows.append([start, before, accuracy, spread(found["random_real"])])
    epochs = f"{line['training_images']:,} training and {line['test_images']} test images"
    return [
        *table(["one image a class, five steps", "before", "distilled", "random real"], rows),
        "",
        *bullets(
            f"{line['data']}; {epochs}. The trained network has {percent(line['source_accuracy'])} % on CIFAR-10, and "
            f"fine-tuned on all images of the target {percent(line['fine_tuned'])} %. One network, one set, ten draws "
            "of random real images, in the steps and at the rates that were learned with the set. "
            f"{line['hardware']['cpu']}, {line['minutes']:.0f} minutes."
        ),
    ]


_EVERY: Mapping[str, tuple[str, Callable[[], list[str]]]] = {
    "transfer-mnist": ("mnist", lambda: accuracies("mnist")),
    "transfer-mnist-notes": ("mnist", lambda: verdicts("mnist")),
    "transfer-backbones": ("backbones", backbones),
    "transfer-backbones-notes": ("backbones", lambda: verdicts("backbones")),
    "transfer-tried-table": ("tried", lambda: accuracies("tried")),
    "transfer-tried": ("tried", tried),
    "transfer-bilevel": ("bilevel", bilevel),
    "transfer-teachers": ("teacher", teachers),
    "transfer-datafree": ("datafree", data_free),
}
BLOCKS = {name: block for name, (what, block) in _EVERY.items() if newest(what)}  # of the parts that have run
if (RESULTS / "adaptation.jsonl").exists():
    BLOCKS["adaptation"] = adaptation
