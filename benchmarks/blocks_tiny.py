"""Blocks of REPRODUCIBILITY: Tiny-ImageNet at 32x32 on a GPU: M-DATM's ablation, and FTD against MTT.

Every figure is the newest record's. Conclusions in sentences are computed from the records, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from blocks_methods import ahead, pair
from cells import Record, bold, matching, newest, paragraph, records, signed, spread, table, words

from dd_core.evaluation import verdicts

MATCHED = {
    "DATM": "DATM",
    "DATM + M1": "+ M1 (hard labels)",
    "DATM + M1 + M2": "+ M1 + M2 (narrow range)",
    "DATM + M2": "+ M2 alone",
}


def ablation() -> list[Record]:
    """The sets of the newest run on a GPU."""
    lines = [line for line in matching(records("m_datm"), what="set") if "--device cuda" in line["command"]]
    return matching(lines, run=lines[-1]["run"])


def m_datm() -> list[str]:
    """A row for each variant; bold where it is ahead of its twin by more than noise."""
    header = [
        "",
        "epochs",
        "distilled",
        "random-real twin",
        "matching loss",
        "labels elsewhere; probability of the place",
    ]
    return table(header, [_variant_row(newest(ablation(), name=name), text) for name, text in MATCHED.items()])


def _variant_row(line: Record, text: str) -> list[str]:
    first, last = line["range"]
    losses = " to ".join(f"{loss:.2f}" for loss in line["loss"])
    labels = (
        f"{100 * line['labels_elsewhere']:.0f} %; {line['probability_of_the_place']:.2f}" if line["soft"] else "hard"
    )
    return [text, f"{first} to {last - 1}", *pair(line["evaluation"]), losses, labels]


def m_datm_notes() -> list[str]:
    """Sentences on whether the published direction is reproduced."""
    mean = {name: newest(ablation(), name=name)["evaluation"]["accuracy"]["mean"] for name in MATCHED}
    gain = {name: 100 * (value - mean["DATM"]) for name, value in mean.items()}
    m1, both, m2 = (gain[name] for name in ("DATM + M1", "DATM + M1 + M2", "DATM + M2"))
    line = newest(ablation(), name="DATM")
    easy = f"{signed(m2)} with soft labels (over DATM), and {signed(both - m1)} with hard ones (over M1)"
    worse = "makes *worse* sets here" if max(m2, both - m1) < 0 else "does not make worse sets in every case"
    return paragraph(
        f"""{line["evaluation"]["nets"]} networks, test images, last epoch; bold: ahead of the twin by more than noise.
        There is one set of each variant, so that no test tells the variants apart: what follows are differences of
        means. The published direction is {_there(m1)} for M1: {signed(m1)} points (31.11 to 39.90 % on CIFAR-100),
        though only {100 * line["labels_elsewhere"]:.0f} % of DATM's labels say another class than the place; they give
        it a probability of {line["probability_of_the_place"]:.2f}. It is {_there(both)} for M1 and M2 together:
        {signed(both)} points (7.10 to 18.31 % on Tiny-ImageNet at 64 px). The narrow range, which has the lower
        matching loss, {worse}: {easy}."""
    )


def _there(points: float) -> str:
    return "there" if points > 0 else "*not* there"


def ftd() -> list[str]:
    """A row for each subset, and the means of those that both methods have."""
    header = ["classes", "`mtt`", "random-real twin", "`ftd`", "random-real twin", "`ftd` minus `mtt`"]
    sets = _subsets()
    subsets = dict.fromkeys(subset for subset, _ in sets)
    rows = [_subset_row(subset, *(sets.get((subset, name)) for name in ("mtt", "ftd"))) for subset in subsets]
    both = _both()
    means = [spread(both[key]) for key in ("mtt", "mtt twin", "ftd", "ftd twin")]
    gain = verdicts.paired(both["ftd"], both["mtt"])
    last = bold(signed(100 * gain.difference), when=gain.word in ("ahead", "behind"))
    return table(header, [*rows, [f"mean of {gain.pairs}", *means, last]])


def _subsets() -> Mapping[tuple[int, str], Record]:
    """The newest run's sets, by subset and method."""
    lines = matching(records("ftd_subset"), what="set")
    return {(line["subset"], line["name"]): line for line in matching(lines, run=lines[-1]["run"])}


def _subset_row(subset: int, mtt: Record | None, ftd: Record | None) -> list[str]:
    cells = [cell for line in (mtt, ftd) for cell in (pair(line["evaluation"]) if line else ["not measured"] * 2)]
    points = signed(100 * (_mean(ftd) - _mean(mtt))) if mtt and ftd else ""
    return [f"{10 * subset} to {10 * subset + 9}", *cells, points]


def _mean(line: Record, who: str = "accuracy") -> float:
    return line["evaluation"][who]["mean"]


def _both() -> Mapping[str, list[float]]:
    """Means over networks, subset by subset, where both methods have a set."""
    sets = _subsets()
    shared = [subset for subset, name in sets if name == "ftd" and (subset, "mtt") in sets]
    found = {name: [_mean(sets[subset, name]) for subset in shared] for name in ("mtt", "ftd")}
    twins = {f"{name} twin": [_mean(sets[at, name], "random_real") for at in shared] for name in ("mtt", "ftd")}
    return {**found, **twins}


def ftd_notes() -> list[str]:
    """Whether flat experts make better sets."""
    both, sets = _both(), _subsets()
    gain = verdicts.paired(both["ftd"], both["mtt"])
    word = {"no difference": "the test finds no difference", "ahead": "`ftd` is ahead", "behind": "`ftd` is *behind*"}
    certain = sum(ahead(line["evaluation"]) == "ahead" for line in sets.values())
    line = sets[0, "ftd"]
    missing = [f"{10 * at} to {10 * at + 9}" for at, name in sets if name == "mtt" and (at, "ftd") not in sets]
    cut = f" The time limit cut off `ftd` on the classes {words(missing)}." if missing else ""
    losses = words([f"{statistics.fmean(_last_losses(name)):.3f} for `{name}`" for name in ("mtt", "ftd")])
    return paragraph(
        f"""{line["nets"]} networks, test images, last epoch; bold: ahead of the twin by more than noise, which
        {certain} of the {len(sets)} sets are. The last row has means and deviations over subsets. Paired over
        {gain.pairs} subsets, {word[gain.word or ""]}: {signed(100 * gain.difference)} points (p = {gain.p:.2f};
        published: up to +4.7 on subsets at 128 px). With {gain.pairs} pairs only a large difference would show. The
        matching loss ends at {losses}.{cut}"""
    )


def _last_losses(name: str) -> list[float]:
    """The last matching losses of a method, on the subsets that both methods have."""
    sets = _subsets()
    return [line["loss"][1] for (at, whose), line in sets.items() if whose == name and (at, "ftd") in sets]


BLOCKS = {
    "gpu-m-datm": m_datm,
    "gpu-m-datm-notes": m_datm_notes,
    "gpu-ftd": ftd,
    "gpu-ftd-notes": ftd_notes,
}
