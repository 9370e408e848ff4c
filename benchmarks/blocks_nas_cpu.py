"""Blocks of REPRODUCIBILITY: architecture search, proxies on the literature's ConvNets and MNIST, with a ceiling.

Every figure is the newest run's. Conclusions in sentences are computed from the records, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

from blocks_nas import interval, regrets
from cells import Record, bullets, matching, records, table, words

FLAT, OTHER = "ftd", "mtt"
BEST = (5, 10, 20)  # of the real best networks, over which Du et al. rank
CLAIMED = (10, 20)  # at 5 nothing is claimed: so few networks rank by chance


def newest(what: str) -> list[Record]:
    """The records of one kind, of the newest run that has it."""
    lines = matching(records("nas_cpu"), what=what)
    return matching(lines, run=lines[-1]["run"]) if lines else []


def proxies() -> list[Record]:
    """The proxies, the highest correlation first."""
    return sorted(newest("proxy"), key=lambda line: -line["ranking"]["whole"]["spearman"]["value"])


def every() -> list[str]:
    """A row for each proxy."""
    header = ["proxy", "Spearman", "Spearman, top fifth", "regret at 1, at 10 (points)", "no value"]
    return table([*header, "core seconds a network"], map(_row, proxies()))


def _row(line: Record) -> list[str]:
    ranking = line["ranking"]
    parts = (ranking["whole"], ranking["top_fifth"])
    intervals = ["" if part is None else interval(part["spearman"]) for part in parts]
    return [line["name"], *intervals, regrets(line), str(ranking["failed"] or ""), f"{line['core_seconds']:.2g}"]


def flat() -> list[str]:
    """FTD's sets and MTT's over the real best 5, 10 and 20 networks."""
    rows: list[list[str]] = []
    for name in (FLAT, OTHER):
        for by in ("accuracy", "loss"):
            (line,) = matching(proxies(), name=f"{name}, {by}")
            best = {part["best"]: part["spearman"] for part in line["ranking"]["best"]}
            rows.append([line["name"], *(interval(best[k]) if k in best else "" for k in BEST)])
    return table(["proxy", *(f"Spearman, real best {k}" for k in BEST)], rows)


def notes() -> list[str]:
    """Sentences on the truth and its ceiling, on significant differences, and on FTD's claim."""
    (truth,) = newest("truth")
    accuracies, line = sorted(truth["accuracies"].values()), proxies()[0]
    ceiling = truth["ceiling"]["whole"]["spearman"]
    minutes = ", ".join(f"`{each['name']}` {each['minutes']:.0f}" for each in _sets())
    recipe = truth["recipe"]
    return bullets(
        f"{len(accuracies)} ConvNets, each trained on 4,000 images for {recipe['epochs']} epochs under 2 seeds: "
        f"{accuracies[0]:.1f} to {accuracies[-1]:.1f} % of the test images, median {median(accuracies):.1f} %; "
        f"{len(truth['diverged'])} diverged. One seed ranks them as the other with a Spearman of {interval(ceiling)}: "
        "no proxy can be expected above.",
        f"Brackets: the middle 95 % of {line['ranking']['resamples']:,} bootstrap resamples of the networks. One core "
        f"of {line['hardware']['cpu']}; {line['data']}. Minutes to distil, experts included, beside other work: "
        f"{minutes}.",
        _told_apart(),
        _claim(),
    )


def _sets() -> list[Record]:
    """The last record of each set, which has the minutes of making it."""
    lines = matching(records("nas_cpu"), what="distilled")
    return [matching(lines, name=name)[-1] for name in ("dm", OTHER, FLAT)]


def _told_apart() -> str:
    lines = matching(newest("comparison"), statistic="spearman")
    parts: list[str] = []
    for rival in dict.fromkeys(line["second"] for line in lines):
        pairs = matching(lines, second=rival)
        sides = {word: [line["first"] for line in pairs if line["word"] == word] for word in ("ahead", "behind")}
        told = [f"{words([f'`{name}`' for name in names])} {word}" for word, names in sides.items() if names]
        parts.append(f"beside `{rival}`, {' and '.join(told) or 'none is told apart'}")
    return (
        f"Distilled sets and their rivals (paired bootstrap over all networks, Holm's correction for {len(lines)} "
        f"comparisons): {'; '.join(parts)}."
    )


def _claim() -> str:
    lines = [line for line in newest("comparison") if "@" in line["statistic"] and line["first"].startswith(FLAT)]
    ahead = [line for line in lines if line["difference"]["value"] > 0]
    told = [line for line in lines if line["word"] != "no difference"]
    sure = "and no difference is more than noise" if not told else f"{len(told)} of them beyond the noise"
    first, second = CLAIMED
    return (
        f"Du et al. (2023, table 5) report that FTD's set ranks the real best {first} and {second} better than MTT's. "
        f"Here it is ahead in {len(ahead)} of {len(lines)} comparisons (by accuracy and by loss), {sure}."
    )


BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    "nas-convnets": every,
    "nas-convnets-notes": notes,
    "nas-convnets-flat": flat,
}
