"""Blocks of REPRODUCIBILITY: methods beside real images of as many bytes, and which differences are more than noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cells import Record, bold, bullets, newest, records, score, table, words

from dd_apps.report.tables import human_bytes

RANDOM = "random"
TITLE = "accuracy on "


def of(name: str) -> Record:
    """The newest run of a scenario."""
    return newest(records("compare"), name=name)


def networks(line: Record) -> list[str]:
    """The networks, in the order of the report."""
    titles = [each["title"] for each in line["tables"]]
    return [title.removeprefix(TITLE) for title in titles if title.startswith(TITLE)]


def rows_of(line: Record, title: str) -> list[Record]:
    """The rows of a table of the report."""
    return next(each["rows"] for each in line["tables"] if each["title"] == title)


def accuracies(name: str) -> list[str]:
    """A row for each size and row; bold where a distilled set is ahead of random images of as many bytes, or behind."""
    line = of(name)
    columns = networks(line)
    tables = {network: rows_of(line, TITLE + network) for network in columns}
    shown: list[list[str]] = []
    for place, row in enumerate(tables[columns[0]]):
        cells = [_cell(line, network, tables[network][place]) for network in columns]
        shown.append([str(row["a class"]), row["row"], str(row["images"]), human_bytes(row["bytes"]), *cells])
    return table(["a class", "row", "images", "bytes", *(f"`{network}`" for network in columns)], shown)


def _cell(line: Record, network: str, row: Mapping[str, Any]) -> str:
    verdict = against_random(line, network, row["a class"], row["row"])
    return bold(score(row["accuracy"]), when=verdict == "ahead")


def against_random(line: Record, network: str, ipc: int, row: str) -> str | None:
    """The corrected verdict on a distilled row beside random images of as many bytes; None for another row."""
    for each in rows_of(line, "differences"):
        here = each["network"] == network and each["a class"] == ipc and each["row"] == row
        if here and each["against"].partition(" (")[0] == RANDOM:
            return each["verdict"]
    return None


def notes(name: str) -> list[str]:
    """How many differences are more than noise, who is ahead of whom, and what it cost."""
    line = of(name)
    every = rows_of(line, "differences")
    apart = [each for each in every if each["verdict"] in ("ahead", "behind")]
    texts = [f"{len(apart)} of {len(every)} differences are more than noise after Holm's correction for all of them."]
    for network in networks(line):
        for ipc in dict.fromkeys(each["a class"] for each in every):
            here = [each for each in every if each["network"] == network and each["a class"] == ipc]
            texts.append(f"`{network}`, {ipc} a class: {_standings(here)}")
    costs = [each for each in rows_of(line, "costs") if not each["beside"]]
    making = [
        f"{each['row']} {each['making a set']:.2g} s at {each['a class']} a class"
        + (f" and {each['artefacts']:.0f} s for experts" if each["artefacts"] else "")
        for each in costs
    ]
    load = f"load average {line['load_average']} on {line['hardware']['cores']} cores"
    whole = f"{line['seconds'] / 60:.0f} minutes in all, beside other work ({load})"
    return bullets(*texts, f"Making a set took {words(making)}; {whole}.")


def _standings(rows: list[Record]) -> str:
    """Who is ahead of whom, as `dm of random and herding`; and that random images win, where they do."""
    ahead: dict[str, list[str]] = {}
    for each in rows:
        pair = (each["row"], each["against"])
        if each["verdict"] in ("ahead", "behind"):
            winner, loser = pair if each["verdict"] == "ahead" else pair[::-1]
            ahead.setdefault(winner, []).append(loser)
    if not ahead:
        return "no test tells any two rows apart."
    told = "; ".join(f"{winner} of {words(losers)}" for winner, losers in ahead.items())
    lost = [each for each in rows if each["against"].partition(" (")[0] == RANDOM and each["verdict"] == "behind"]
    wins = [each["row"] for each in lost]
    random = f" Random real images win against {words(wins)}." if wins else ""
    return f"ahead are {told}.{random}"


BLOCKS: Mapping[str, Callable[[], list[str]]] = {
    "compare-digits": partial(accuracies, "digits"),
    "compare-digits-notes": partial(notes, "digits"),
    "compare-mnist": partial(accuracies, "mnist"),
    "compare-mnist-notes": partial(notes, "mnist"),
}
