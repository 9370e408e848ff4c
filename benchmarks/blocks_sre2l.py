"""Blocks of REPRODUCIBILITY: SRe2L and RDED beside random real images, by a teacher's labels and by the images' own.

Every figure is the newest run's. Conclusions in sentences are computed from the records, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from cells import Record, bold, bullets, matching, percent, records, signed, spread, table, words

from dd_core.evaluation.verdicts import paired

IMAGES = ("recovered from noise", "recovered from real images", "rded")
REAL = "random real"
LABELS = {"hard": "`hard`", "eval": "`sre2l-fkd`", "batch-stats": "`sre2l-fkd`, `batch-stats`"}
ASKED_ACCURACY, ASKED_POINTS = 0.9, 0.03  # of recovered digits by a teacher's labels, and over their own


def run_of(case: str) -> list[Record]:
    """The records of the newest whole run of a case."""
    lines = [line for line in records("sre2l_cpu") if f"--case {case}" in line["command"]]
    done = matching(lines, what="all")
    return matching(lines, run=done[-1]["run"]) if done else []


def scores(lines: list[Record], images: str, labels: str) -> list[float]:
    """Accuracies, one for each seed."""
    first, who = (IMAGES[0], "random_real") if images == REAL else (images, "accuracy")
    return [line[who] for line in matching(lines, what="score", images=first, labels=labels)]


def case_table(case: str) -> list[str]:
    """A row for each kind of images; bold where it is ahead of random real images under the same labels."""
    lines = run_of(case)
    rows = [[images, *(_cell(lines, images, labels) for labels in LABELS)] for images in (*IMAGES, REAL)]
    return table(["", *LABELS.values()], rows)


def _cell(lines: list[Record], images: str, labels: str) -> str:
    verdicts = matching(lines, what="comparison", first=[images, labels], second=[REAL, labels])
    return bold(spread(scores(lines, images, labels)), when=bool(verdicts) and verdicts[0]["word"] == "ahead")


def case_notes(case: str) -> list[str]:
    """Sentences on the teacher, on the gain by its labels, and on whether any images are ahead of random real ones."""
    lines = run_of(case)
    (teacher,) = matching(lines, what="teacher")
    (whole,) = matching(lines, what="all")
    versions, hardware = whole["versions"], whole["hardware"]["cpu"]
    seeds = len(scores(lines, REAL, "hard"))
    return bullets(
        f"{whole['data']}. The teacher has {percent(teacher['accuracy'])} % of the test images, and "
        f"{percent(teacher['training_accuracy'])} % of those that it learned from. {seeds} seeds, a set and a network "
        f"each; mean ± deviation, last epoch. {hardware}, torch {versions['torch']}, {whole['minutes']:.0f} minutes.",
        *_teaching(lines),
        _ahead(lines),
    )


def _teaching(lines: list[Record]) -> list[str]:
    """The gain by a teacher's labels on the same images."""
    said: list[str] = []
    for images in (*IMAGES, REAL):
        (verdict,) = matching(lines, what="comparison", first=[images, "eval"], second=[images, "hard"])
        said.append(f"{signed(100 * verdict['difference'])} points ({images}, p = {verdict['p']:.2g})")
    return [f"A teacher's labels, over the images' own: {words(said)}; paired over seeds."]


def _ahead(lines: list[Record]) -> str:
    tests = [line for line in matching(lines, what="comparison") if line["second"][0] == REAL != line["first"][0]]
    pairs = [(line["first"], line["word"]) for line in tests]
    by_word: Mapping[str, list[str]] = {
        word: [f"{images} by {LABELS[labels]}" for (images, labels), own in pairs if own == word]
        for word in ("ahead", "behind")
    }
    ahead = (
        f"Ahead of random real images: {words(by_word['ahead'])}."
        if by_word["ahead"]
        else ("No images are ahead of random real ones by the same labels.")
    )
    behind = f" Behind them: {words(by_word['behind'])}." if by_word["behind"] else ""
    rest = sum(own == "no difference" for _, own in pairs)
    return f"{ahead}{behind} {rest} of the {len(pairs)} tests, uncorrected and of so few seeds, find no difference."


def grid_table(case: str) -> list[str]:
    """A row for each kind of images, of one seed: no test tells them apart, and nothing is bold."""
    lines = matching(run_of(case), seed=0)
    rows = [[images, *(spread(scores(lines, images, labels)) for labels in LABELS)] for images in (*IMAGES, REAL)]
    return table(["one seed", *LABELS.values()], rows)


def grid_notes(case: str) -> list[str]:
    """Sentences on the teacher, and on the best pair of images and labels under three seeds, beside random ones."""
    lines = run_of(case)
    (teacher,), (whole,), (best,) = (matching(lines, what=what) for what in ("teacher", "all", "best"))
    own = matching(lines, what="score", images=best["images"], labels=best["labels"])
    ours, real = ([line[who] for line in own] for who in ("accuracy", "random_real"))
    verdict = paired(ours, real)
    return bullets(
        f"{whole['data']}. The teacher, of 15 epochs, has {percent(teacher['accuracy'])} % of the test images, and "
        f"{percent(teacher['training_accuracy'])} % of those that it learned from.",
        f"The best pair of the table, {best['images']} by {LABELS[best['labels']]}, chosen by that seed's test images, "
        f"under {len(ours)} seeds: {spread(ours)}; random real images by the same labels: {spread(real)}; difference "
        f"{signed(100 * verdict.difference)} points, p = {verdict.p:.2g}.",
        f"{whole['hardware']['cpu']}, torch {whole['versions']['torch']}, {whole['minutes']:.0f} minutes.",
    )


def asked() -> list[str]:
    """The required accuracy and gain on the digits, and whether both were reached."""
    lines = run_of("digits")
    ours, hard = (scores(lines, "recovered from noise", labels) for labels in ("eval", "hard"))
    mean, over = sum(ours) / len(ours), (sum(ours) - sum(hard)) / len(ours)
    held = "held" if mean >= ASKED_ACCURACY and over >= ASKED_POINTS else "not held"
    return bullets(
        f"Asked were {percent(ASKED_ACCURACY)} % for recovered digits by a teacher's labels, and "
        f"{100 * ASKED_POINTS:.0f} points over their own: {percent(mean)} % and {signed(100 * over)} points, {held}."
    )


def natural_table() -> list[str]:
    """A row for each weight: accuracies, bold where ahead of the images without, and roughness."""
    lines = run_of("natural")
    kinds = list(dict.fromkeys(line["images"] for line in matching(lines, what="roughness")))
    rows = [[images, *(_natural_cell(lines, images, labels) for labels in NATURAL)] for images in kinds]
    for row in rows:
        rough = [line["of_real"] for line in matching(lines, what="roughness", images=row[0])]
        row.append(f"{sum(rough) / len(rough):.2f}")
    return table(["", *(LABELS[labels] for labels in NATURAL), "roughness"], rows)


def _natural_cell(lines: list[Record], images: str, labels: str) -> str:
    values = [line["accuracy"] for line in matching(lines, what="score", images=images, labels=labels)]
    verdicts = matching(lines, what="comparison", first=[images, labels])
    return bold(spread(values), when=bool(verdicts) and verdicts[0]["word"] == "ahead")


def natural_notes() -> list[str]:
    """Sentences on what the terms for natural images cost or gain."""
    lines = run_of("natural")
    (whole,) = matching(lines, what="all")
    tests = [line for line in matching(lines, what="comparison") if line["first"] != line["second"]]
    told = {word: sum(line["word"] == word for line in tests) for word in ("ahead", "behind", "no difference")}
    return bullets(
        f"{whole['data']}, the same teacher; three seeds, a set and a network each, mean ± deviation. Of {len(tests)} "
        f"tests against the images without, paired over seeds and uncorrected, {told['ahead']} find them ahead, "
        f"{told['behind']} behind. {whole['hardware']['cpu']}, {whole['minutes']:.0f} minutes."
    )


def _encodings(what: str) -> list[Record]:
    lines = records("sre2l_bank")
    return matching(lines, run=lines[-1]["run"], what=what) if lines else []


def encodings() -> list[str]:
    """A row for each encoding of a bank's logits."""
    lines = _encodings("encoding")
    rows: list[list[str]] = []
    for name in dict.fromkeys(line["encoding"] for line in lines):
        own = matching(lines, encoding=name)
        tests = matching(_encodings("comparison"), first=name)
        told = f"{signed(100 * tests[0]['difference'])} (p = {tests[0]['p']:.2g})" if tests else ""
        reading, training = (sum(line[what] for line in own) for what in ("reading_seconds", "training_seconds"))
        part = f"{100 * reading / training:.1f} %"
        rows.append([f"`{name}`", str(own[0]["bytes_a_view"]), spread([line["accuracy"] for line in own]), told, part])
    return table(["logits kept as", "bytes a view", "accuracy", "points over `fp16`", "reading, of training"], rows)


def cost(part: str) -> list[str]:
    """A row for each case of a part of `sre2l_speed`, of the newest run that has the part."""
    lines = matching(records("sre2l_speed"), part=part)
    own = matching(lines, run=lines[-1]["run"]) if lines else []
    rows = [[line["what"], f"{line['cpu_ms_an_image']['median']:,.1f}", f"{line['excess_mib']:,.0f}"] for line in own]
    return table(["", "CPU ms an image", "memory in excess (MiB)"], rows)


def ratios() -> list[str]:
    """The time of an image-iteration of trajectory matching over SRe2L's, beside the published ratios."""
    lines = matching(records("sre2l_speed"), part="small")
    own = {line["what"]: line for line in matching(lines, run=lines[-1]["run"])}
    said: list[str] = []
    for network, (times, memory) in HEADLINE.items():
        if f"{network}, full" not in own:
            continue
        ours = own[f"{network}, recover"]
        for mode in ("full", "adjoint"):
            theirs = own[f"{network}, {mode}"]
            speed = theirs["cpu_ms_an_image"]["median"] / ours["cpu_ms_an_image"]["median"]
            room = theirs["excess_mib"] / ours["excess_mib"]
            said.append(f"{network} against `{mode}`: {speed:.1f} times faster in {room:.1f} times less memory")
        said[-1] += f" (published, against MTT: {times} and {memory})"
    return bullets(f"{'; '.join(said)}. Trajectory matching goes through 10 steps of a student here.")


CASES = ("digits", "mnist")
GRIDS = tuple(case for case in ("cifar10",) if run_of(case))  # one seed each
HEADLINE = {"convnet-4": (52, 11.6), "resnet-18": (16, 6.4)}  # of an RTX 4090, by SRe2L's README
PARTS = ("small", "large", "flat", "folder")
NATURAL = ("hard", "eval")
BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    **{f"sre2l-{case}": partial(case_table, case) for case in CASES},
    **{f"sre2l-{case}-notes": partial(case_notes, case) for case in CASES},
    **{f"sre2l-{case}": partial(grid_table, case) for case in GRIDS},
    **{f"sre2l-{case}-notes": partial(grid_notes, case) for case in GRIDS},
    "sre2l-asked": asked,
    "sre2l-encodings": encodings,
    **{f"sre2l-cost-{part}": partial(cost, part) for part in PARTS if matching(records("sre2l_speed"), part=part)},
    **({"sre2l-ratios": ratios} if matching(records("sre2l_speed"), part="small") else {}),
    "sre2l-natural": natural_table,
    "sre2l-natural-notes": natural_notes,
}
