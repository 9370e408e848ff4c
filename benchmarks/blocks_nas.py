"""Blocks of REPRODUCIBILITY: architecture search, proxies on the cells of NAS-Bench-201.

Every figure is the newest run's. Conclusions in sentences are computed from the records, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cells import Record, matching, paragraph, records, table, words

# Spearman's correlations over all cells of the notebook of Abdelfattah et al. 2021
PUBLISHED = {"grad_norm": 0.594, "snip": 0.596, "synflow": 0.737, "jacob_cov": 0.731}


def newest(part: str) -> list[Record]:
    """The records of a part, of the newest run that has it."""
    lines = matching(records("nb201"), part=part)
    return matching(lines, run=lines[-1]["run"]) if lines else []


def measures() -> list[str]:
    """A row for each measure, the best correlation first."""
    header = ["", "Spearman", "published", "Kendall", "Spearman, top fifth", "regret at 1, at 10 (points)"]
    return table([*header, "no value", "core seconds a cell"], map(_row, _proxies("measures")))


def variants() -> list[str]:
    """A row for each way to train and each proxy, on the cells that ways are tried on."""
    lines = [line for line in _proxies("vary") if line["variant"]]
    header = ["way to train", "proxy", "Spearman", "Spearman, top fifth", "core seconds a cell"]
    return table(header, [[line["variant"], *_short(line)] for line in lines])


def _proxies(part: str) -> list[Record]:
    lines = matching(newest(part), what="proxy")
    return sorted(lines, key=lambda line: -line["ranking"]["whole"]["spearman"]["value"])


def _short(line: Record) -> list[str]:
    ranking = line["ranking"]
    parts = (ranking["whole"], ranking["top_fifth"])
    intervals = ["" if part is None else interval(part["spearman"]) for part in parts]
    return [line["name"], *intervals, f"{line['core_seconds']:.2g}"]


def regrets(line: Record) -> str:
    """Regret at 1 and at 10, in points."""
    points = {choice["k"]: choice["regret"]["value"] for choice in line["ranking"]["choices"]}
    return f"{points[1]:.1f}, {points[10]:.1f}"


def _row(line: Record) -> list[str]:
    ranking, published = line["ranking"], PUBLISHED.get(line["name"])
    return [
        f"`{line['name']}`",
        interval(ranking["whole"]["spearman"]),
        "" if published is None else f"{published:.2f}",
        f"{ranking['whole']['kendall']['value']:.2f}",
        interval(ranking["top_fifth"]["spearman"]),
        regrets(line),
        str(ranking["failed"] or ""),
        f"{line['core_seconds']:.2f}",
    ]


def interval(estimate: Mapping[str, Any]) -> str:
    """An estimate and the ends of its interval."""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def measures_notes() -> list[str]:
    """Sentences on agreement with published figures, and on significant differences from the reference."""
    proxies = [line for line in _proxies("measures") if line["name"] in PUBLISHED]
    spearmans = {line["name"]: (line["ranking"]["whole"]["spearman"], PUBLISHED[line["name"]]) for line in proxies}
    inside = [f"`{name}`" for name, (own, other) in spearmans.items() if own["low"] <= other <= own["high"]]
    outside = [f"`{name}`" for name in spearmans if f"`{name}`" not in inside]
    agree = f"The published figure, of all 15,625 cells, lies within the interval for {words(inside)}" if inside else ""
    else_ = f", and not for {words(outside)}" if outside else ""
    line = proxies[0]
    count, hardware = line["ranking"]["architectures"], line["hardware"]
    resamples, chip = line["ranking"]["resamples"], hardware["cpu"]
    return paragraph(
        f"{count} cells, in brackets the middle 95 % of {resamples:,} bootstrap resamples of the cells. {agree}"
        f"{else_}. {_told_apart(top_fifth=False)} {_told_apart(top_fifth=True)} A cell without a value ranks last. "
        f"One core of {chip}; {line['data']}."
    )


def _told_apart(*, top_fifth: bool) -> str:
    lines = [
        line for line in matching(newest("measures"), what="comparison") if ("@" in line["statistic"]) == top_fifth
    ]
    where = "Over the top fifth" if top_fifth else "Over all cells"
    ahead = [f"`{line['first']}`" for line in lines if line["word"] == "ahead"]
    behind = [f"`{line['first']}`" for line in lines if line["word"] == "behind"]
    second = lines[0]["second"]
    if not ahead + behind:
        return f"{where}, no measure is told apart from `{second}` (paired bootstrap, Holm's correction)."
    sides = ((ahead, "ahead of"), (behind, "behind"))
    parts = [f"{words(names)} {'is' if len(names) == 1 else 'are'} {word} `{second}`" for names, word in sides if names]
    return f"{where}, {' and '.join(parts)} (paired bootstrap, Holm's correction), the others no different."


def trained() -> list[str]:
    """A row for each proxy by the sets' own recipes within the budget, on the cells of the table."""
    return _part("trained")


def own() -> list[str]:
    """A row for each proxy by the sets' own recipes with all epochs, and for each measure, on a few of the cells."""
    return _part("own")


def reduced() -> list[str]:
    """A row for each measure of the reduced networks."""
    return _part("reduced")


def chosen() -> list[str]:
    """A row for each proxy on the cells of the table, trained as the other cells chose, and each rank average."""
    return _part("chosen")


def _part(part: str) -> list[str]:
    header = ["proxy", "Spearman", "Spearman, top fifth", "regret at 1, at 10 (points)", "core seconds a cell"]
    return table(header, map(_brief, _proxies(part)))


def _brief(line: Record) -> list[str]:
    *first, seconds = _short(line)
    return [*first, regrets(line), seconds]


def trained_notes() -> list[str]:
    """Sentences on which distilled sets, by their own recipes, differ significantly from their rivals."""
    return paragraph(_verdicts("trained"))


def chosen_notes() -> list[str]:
    """Sentences on what the other cells chose, and on which distilled sets differ significantly from their rivals."""
    line = _proxies("chosen")[0]
    choice = f"the way to train '{line['variant']}', the score by {line['by']}, and `{line['measure']}` to average with"
    return paragraph(f"The 50 other cells chose {choice}. {_verdicts('chosen')}")


def _verdicts(part: str) -> str:
    """Each distilled set beside random images and beside early stopping."""
    lines = matching(newest(part), what="comparison", statistic="spearman")
    rivals = {"random images": "random", "early stopping": "early stopping"}
    count = sum(line["second"].startswith((*rivals.values(),)) for line in lines)
    parts: list[str] = []
    for rival, start in rivals.items():
        pairs = [line for line in lines if line["second"].startswith(start)]
        sides = {word: [f"{line['first']}" for line in pairs if line["word"] == word] for word in ("ahead", "behind")}
        told = [f"{word} are {'; '.join(names)}" for word, names in sides.items() if names]
        parts.append(f"beside {rival}, {' and '.join(told) or 'none is told apart'}")
    return (
        "Distilled sets and their rivals, scored alike (paired bootstrap over all cells, Holm's correction for "
        f"{count} comparisons): {'; '.join(parts)}."
    )


def sets() -> list[str]:
    """A row for each distilled set: its accuracy beside that of its twin, in percent."""
    lines = matching(records("nb201_sets"), what="score")
    scores = matching(lines, run=lines[-1]["run"])
    header = ["set", "images a class", "distilled", "random real"]
    return table(header, [[f"`{line['method']}`", str(line["ipc"]), *_accuracies(line)] for line in scores])


def _accuracies(line: Record) -> list[str]:
    pairs = (("accuracy", "std"), ("real", "real_std"))
    return [f"{100 * line[mean]:.1f} ± {100 * line[std]:.1f}" for mean, std in pairs]


def _searches(what: str) -> list[Record]:
    """The records of the newest run of searches."""
    lines = records("nas_search")
    return matching(lines, run=lines[-1]["run"], what=what) if lines else []


def searches() -> list[str]:
    """A row for each proxy, a column for each strategy: regret in points, with its interval."""
    lines = _searches("regret")
    strategies = list(dict.fromkeys(line["strategy"] for line in lines))
    rows: list[list[str]] = []
    for proxy in dict.fromkeys(line["proxy"] for line in lines):
        own = {line["strategy"]: line for line in matching(lines, proxy=proxy)}
        cells = [f"{own[name]['mean']:.1f} ± {own[name]['half']:.1f}" for name in strategies]
        rows.append([f"`{proxy}`", *cells])
    return table(["regret in points, by", *strategies], rows)


def searches_notes() -> list[str]:
    """Sentences on which searches differ significantly."""
    tests, (first, *_) = _searches("comparison"), _searches("regret")
    apart = [
        f"{' by '.join(line['first'])} is {line['word']} of {' by '.join(line['second'])} (p = {line['p']:.2g})"
        for line in tests
        if line["word"] != "no difference"
    ]
    told = words(apart) if apart else "none tells two searches apart"
    least = min(line["p"] for line in tests)
    return paragraph(
        f"Mean and half the 95 % interval (Student's t) over {len(first['values'])} seeds of 60 trials each, among all "
        f"15,625 cells. Of {len(tests)} tests, paired over seeds and uncorrected, {told} (the least p is {least:.2f})."
    )


BLOCKS = {
    **{"nas-searches": searches, "nas-searches-notes": searches_notes},
    **{"nas-measures": measures, "nas-measures-notes": measures_notes, "nas-reduced": reduced},
    **{"nas-trained": trained, "nas-trained-notes": trained_notes, "nas-own": own, "nas-variants": variants},
    **{"nas-chosen": chosen, "nas-chosen-notes": chosen_notes, "nas-sets": sets},
}
