"""Blocks of REPRODUCIBILITY: trajectory matching, its ablation, true gradients, changed data, flatness."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from blocks_methods import ahead, pair
from cells import Record, bold, matching, newest, paragraph, percent, records, signed, spread, table, words

from dd_core.evaluation import verdicts

PRESETS = ("mtt", "ftd", "datm", "m-datm", "tesla")
COLUMNS = {"1 a class": (1, "mtt-1000"), "10 a class": (10, "mtt-1000"), "`plain-300`": (10, "plain-300")}
SEEDS = 3


def sets(name: str, ipc: int, protocol: str) -> list[Record]:
    """The newest run's sets of a method that were scored by `protocol`, one for each seed."""
    lines = matching(records("trajectories"), what="set", name=name, ipc=ipc)
    lines = [
        line for line in lines if line["evaluation"]["protocol"] == protocol and f"--seeds {SEEDS}" in line["command"]
    ]
    return matching(lines, run=lines[-1]["run"])


def means(lines: Sequence[Record], who: str) -> list[float]:
    """Mean accuracy over networks, set by set."""
    return [line["evaluation"][who]["mean"] for line in lines]


def trajectories() -> list[str]:
    """A row for each method; bold where it is ahead of random real images, paired over seeds."""
    header = [""] + [cell for column in COLUMNS for cell in (column, "random real", "minus random real")]
    return table([*header, "s, 1 / 10"], [_trajectory_row(name) for name in PRESETS])


def _trajectory_row(name: str) -> list[str]:
    cells = [f"`{name}`"]
    for ipc, protocol in COLUMNS.values():
        lines = sets(name, ipc, protocol)
        ours, twins = means(lines, "accuracy"), means(lines, "random_real")
        verdict = verdicts.paired(ours, twins)
        ahead_by = f"{100 * verdict.difference:.1f}"
        cells += [bold(spread(ours), when=verdict.word == "ahead"), spread(twins), ahead_by]
    seconds = [max(line["seconds"] for line in sets(name, ipc, "mtt-1000")) for ipc in (1, 10)]
    return [*cells, " / ".join(f"{value:.0f}" for value in seconds)]


def asked() -> list[str]:
    """Sentences on the required leads of sets over their twins, and the measured ones."""
    lead: dict[str, list[float]] = {}
    for column, (ipc, protocol) in COLUMNS.items():
        pairs = [(means(lines, "accuracy"), means(lines, "random_real")) for lines in _every(ipc, protocol)]
        lead[column] = [100 * (statistics.fmean(ours) - statistics.fmean(twins)) for ours, twins in pairs]
    ten = [line for lines in _every(10, "mtt-1000") for line in lines]
    behind = [
        line for line in ten if line["evaluation"]["accuracy"]["mean"] < line["evaluation"]["random_real"]["mean"]
    ]
    real = [means(lines, "random_real") for lines in _every(10, "plain-300")]
    least = min(statistics.fmean(values) for values in real)
    return paragraph(
        f"""Asked were 20 points at one image a class, and 2 at ten "where random real has 92 to 93 %". At one a class
        {_met(lead["1 a class"], 20)}. Of ten a class, random real images have {percent(least)} % under `plain-300`, and
        the means of the five are {min(lead["`plain-300`"]):.1f} to {max(lead["`plain-300`"]):.1f} points higher. Under
        `mtt-1000`, DSA and a thousand epochs bring random images to {percent(_mean_real(ten))} %, and
        {_met(lead["10 a class"], 2)}. Of the {len(ten)} sets these have less than their twin:
        {words([_beside(line) for line in behind])}."""
    )


def _every(ipc: int, protocol: str) -> list[list[Record]]:
    return [sets(name, ipc, protocol) for name in PRESETS]


def _mean_real(lines: Sequence[Record]) -> float:
    return statistics.fmean(means(lines, "random_real"))


def _met(leads: Sequence[float], points: float) -> str:
    count = sum(lead >= points for lead in leads)
    return f"all {count} have them" if count == len(leads) else f"{count or 'none'} of the {len(leads)} has them"


def _beside(line: Record) -> str:
    found = line["evaluation"]
    ours, twin = (percent(found[who]["mean"]) for who in ("accuracy", "random_real"))
    return f"`{line['name']}` at seed {line['seed']}, {ours} against {twin}"


def cifar10_cpu() -> list[str]:
    """Ten images of CIFAR-10 by three methods."""
    lines = records("cifar10_cpu")
    names = {"mtt": "`mtt`", "ftd": "`ftd`", "datm": "`datm`, hard labels"}
    rows = [[words, *pair(newest(lines, what="score", name=name)["evaluation"])] for name, words in names.items()]
    return table(["", "distilled", "random real"], rows)


# --- M-DATM's ablation -----------------------------------------------------------------------------------------------

EXPERTS, BEGINNERS, CIFAR = "digits", "digits, beginners", "CIFAR-10"
_OF_RUN = {EXPERTS: "--epochs 40 ", BEGINNERS: "--epochs 150 ", CIFAR: "--network convnet-3-w16 "}  # in its command
ROWS = {
    "DATM": ("DATM", None),
    "+ M1 (hard labels)": ("DATM + M1", None),
    "+ M1 + M2 (narrow range)": ("DATM + M1 + M2", None),
    "+ M2 alone": ("DATM + M2", None),
    "hard labels, first half of the wide range": ("range", 0),
    "hard labels, what is not narrow": ("range", 1),
    "hard labels, second half": ("range", 2),
}


def ablation(run: str, row: str, protocol: str = "challenge-2024") -> list[Record]:
    """The sets of one row of the ablation in one run, one for each seed."""
    lines = [line for line in matching(records("m_datm"), what="set") if _OF_RUN[run] in line["command"]]
    name, place = ROWS[row]
    lines = matching(lines, run=lines[-1]["run"], name=name, protocol=protocol)
    if place is None or not lines:
        return lines
    wanted = sorted({tuple(line["range"]) for line in lines})[place]
    return [line for line in lines if tuple(line["range"]) == wanted]


def accuracies(lines: Sequence[Record]) -> list[float]:
    """The sets' means over networks; of a single set the accuracies of its networks."""
    single = lines[0]["evaluation"]["accuracy"]["per_network"]
    return means(lines, "accuracy") if len(lines) > 1 else single


def gain(run: str, row: str, over: str = "DATM", *, protocol: str = "challenge-2024") -> float:
    """Points of the mean by which a row is ahead of another under `protocol`."""
    ours, theirs = (statistics.fmean(accuracies(ablation(run, name, protocol))) for name in (row, over))
    return 100 * (ours - theirs)


def m_datm() -> list[str]:
    """The ablation; nothing is bold, because two seeds, or one set, cannot tell the rows apart."""
    header = [""] + [cell for run in _OF_RUN for cell in (run, "with its labels")]
    rows = [[row, *(cell for run in _OF_RUN for cell in _ablation_cells(run, row))] for row in ROWS]
    elsewhere = ["*labels elsewhere; probability of the place*"]
    for run in _OF_RUN:
        elsewhere += [f"*{_labels(run, 'DATM')}*", ""]
    return table(header, [*rows, elsewhere])


def _ablation_cells(run: str, row: str) -> tuple[str, str]:
    soft = ablation(run, row, "datm-soft")
    return spread(accuracies(ablation(run, row))), spread(accuracies(soft)) if soft else ""


def _labels(run: str, row: str) -> str:
    lines = ablation(run, row)
    shares = [statistics.fmean(line[key] for line in lines) for key in ("labels_elsewhere", "probability_of_the_place")]
    return f"{100 * shares[0]:.0f} %; {shares[1]:.3f}"


def m_datm_notes() -> list[str]:
    """Sentences on whether the ablation reproduces the published direction."""
    m1, both = "+ M1 (hard labels)", "+ M1 + M2 (narrow range)"
    m2 = {run: gain(run, both, m1) for run in _OF_RUN}
    tested = verdicts.paired(accuracies(ablation(EXPERTS, both)), accuracies(ablation(EXPERTS, m1)))
    soft = [
        100 * statistics.fmean(accuracies(ablation(CIFAR, row, "datm-soft")))
        - 100 * statistics.fmean(accuracies(ablation(CIFAR, row)))
        for row in ("DATM", "+ M2 alone")
    ]
    return paragraph(
        f"""Nothing in the table is bold: with two seeds, and on CIFAR-10 one set, no row is ahead of DATM by the test,
        and what follows are differences of means. M1 has its published direction where labels are off:
        {signed(gain(CIFAR, m1))} points on CIFAR-10, where {_labels(CIFAR, "DATM").partition(";")[0]} of the labels
        that DATM learned say another class than the place ({_labels(CIFAR, "+ M2 alone").replace(";", ", and")}, from
        the narrow range); {signed(gain(BEGINNERS, m1))} on digits where experts are unsure, {signed(gain(EXPERTS, m1))}
        where they are sure (8.8 on CIFAR-100 in the paper). With its labels DATM has {soft[0]:.1f} points more on
        CIFAR-10 ({soft[1]:.1f} from the narrow range) than the evaluator, which never sees them, gets out of the same
        images. M2, a range narrower than DATM's own, gains nowhere: with hard labels {signed(m2[CIFAR])} on CIFAR-10,
        {signed(m2[BEGINNERS])} on digits with beginners, {signed(m2[EXPERTS])} with experts (paired over two seeds:
        {tested.word}; the paper's 11.2 points on Tiny-ImageNet are M1 and M2 together). That easy epochs are the ones
        to match fits CIFAR-10, where the later half of the range has
        {signed(gain(CIFAR, "hard labels, second half", m1))} points, and not digits
        ({signed(gain(EXPERTS, "hard labels, second half", m1))} with experts), for which ten images a class are
        many."""
    )


# --- gradients, changed data, flatness -------------------------------------------------------------------------------


def cosines() -> list[str]:
    """The cosines of the approximate gradients to the exact one."""
    found = [line for line in records("unroll") if "cosine_to_exact" in line][-1]["cosine_to_exact"]
    series = {mode: ", ".join(f"{at['mean']:.3f}" for at in by_steps.values()) for mode, by_steps in found.items()}
    steps = words([*next(iter(found.values()))])
    return paragraph(
        f"""How true gradients are, in twenty outer iterations of `mtt` on digits (`make bench-unroll`, mean cosine to
        the exact one; N inner steps at rate 0.1/N): `tesla` {series["tesla"]} and `truncated` to half the steps
        {series["truncated"]} at N = {steps}."""
    )


def changes() -> list[Record]:
    """The cells of the newest study of changed data."""
    return records("data_changes")[-1]["evaluations"]


def data_changes() -> list[str]:
    """A row for each number of classes, a pair of columns for each fraction of wrong labels."""
    cells = changes()
    noises = sorted({cell["label_noise"] for cell in cells})
    header = ["classes"]
    for index, noise in enumerate(noises):
        header += [f"{100 * noise:.0f} %" + (" of labels wrong" if index == 0 else ""), "random real"]
    rows = [
        [str(classes), *(text for noise in noises for text in pair(newest(cells, classes=classes, label_noise=noise)))]
        for classes in sorted({cell["classes"] for cell in cells})
    ]
    return table(header, rows)


def data_changes_notes() -> list[str]:
    """The ratio to random real images, and which cells are more than noise."""
    cells = changes()
    ratio = {
        classes: [cell["accuracy"]["mean"] / cell["random_real"]["mean"] for cell in matching(cells, classes=classes)]
        for classes in (10, 50, 200)
    }
    many = [*ratio[50], *ratio[200]]
    certain = sum(ahead(cell) == "ahead" for cell in cells)
    return paragraph(
        f"""With more classes everything is harder, and the ratio to random images is larger: {_range(ratio[10])} at 10
        classes, {_range(many)} at 50 and 200. By Student's t for a new draw over three networks, {certain} of the
        {len(cells)} cells are ahead of random images by more than noise (bold): three networks and one set tell little
        of a cell, though all {len(cells)} means point the same way. Wrong labels cost both about the same share: a mean
        over many images does not wash them out."""
    )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


CLAIMS: Mapping[str, tuple[str, float, int]] = {  # words: the record's claim, what its figures are in, digits
    "accumulated error, epochs 0 to 20, over the expert's own path": ("accumulated error, from epoch 0", 1, 3),
    "the same, epochs 10 to 20": ("accumulated error, from epoch 10", 1, 3),
    "growth of an error that a segment inherits, from epoch 0": ("growth, from epoch 0, mean of segments", 1, 3),
    "accuracy that perturbed weights lose on test images, points": (
        "fall of accuracy on test images, expert at epoch 20 under perturbation",
        100,
        1,
    ),
}
EQUAL_LOSS = "fall of accuracy on test images, expert with the training loss of {kind} under perturbation"
FLAT = {"GSAM, rho 0.01 (FTD's)": "flat, rho 0.01", "GSAM, rho 0.5": "flat, rho 0.5"}


def flatness() -> list[str]:
    """A row for each measure of flatness; brackets count the pairs of experts in which the flat one was smaller."""
    rows: list[list[str]] = []
    for text, (claim, unit, digits) in CLAIMS.items():
        found = [_claim(kind, claim) for kind in FLAT.values()]
        rows.append(
            [text, f"{unit * found[0]['plain']['mean']:.{digits}f}", *(_flat(at, unit, digits) for at in found)]
        )
    last = _claim(FLAT["GSAM, rho 0.5"], EQUAL_LOSS.format(kind=FLAT["GSAM, rho 0.5"]))
    beside = "the same beside the plain epoch of equal training loss"
    rows.append([beside, f"{100 * last['plain']['mean']:.1f}", "", _flat(last, 100, 1)])
    return table(["", "plain", *FLAT], rows)


def _claim(kind: str, claim: str) -> Record:
    return newest(records("flatness"), what="claim", claim=f"smaller for {kind}: {claim}")


def _flat(found: Record, unit: float, digits: int) -> str:
    return f"{unit * found['flat']['mean']:.{digits}f} ({found['experts_where_it_held']})"


BLOCKS = {
    "trajectories": trajectories,
    "trajectories-asked": asked,
    "cifar10-cpu": cifar10_cpu,
    "m-datm": m_datm,
    "m-datm-notes": m_datm_notes,
    "cosines": cosines,
    "data-changes": data_changes,
    "data-changes-notes": data_changes_notes,
    "flatness": flatness,
}
